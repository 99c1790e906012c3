"""Whether a snapshot is fit to be published: the same reading and the same words as the collector's, but no bad record
is let through, since who publishes can mend it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from service.collectors import snapshot_json
from service.collectors.snapshot_content import Limits, inflated
from service.collectors.snapshot_records import BadRecord, Parser
from service.collectors.snapshot_samples import Faults, ahead, nothing_usable, refused
from service.domain.errors import Rejected
from service.domain.points import AHEAD
from service.domain.runs import Fault


class InvalidSnapshot(Rejected):
    """Some records are bad. ``faults``: the first of them; ``count``: how many; ``summary``: without the list."""

    def __init__(self, name: str, faults: Faults, records: int) -> None:
        shown = "".join(f"\n  {fault}" for fault in faults.first)
        more = f"\n  and {faults.count - len(faults.first):,} more" if faults.count > len(faults.first) else ""
        self.summary = f"{name}: {faults.count:,} of {records:,} records are bad"
        super().__init__(f"{self.summary}:{shown}{more}")
        self.faults: Sequence[Fault] = tuple(faults.first)
        self.count = faults.count


class _Check:
    """Reads every record. ``remarks``: what the collector leaves out of records that are good."""

    def __init__(self, now: datetime, namespace: str, depth: int, keep: list[Any] | None) -> None:
        self.faults = Faults()
        self.remarks = Faults()
        self.position = 0
        self._parser = Parser(namespace, depth)
        self._ahead = now + AHEAD
        self._keep = keep

    def take(self, values: Sequence[Any]) -> None:
        for data in values:
            self.position += 1
            try:
                record = self._parser.parse(data)
            except BadRecord as bad:
                self.faults.add(self.position, str(bad))
                continue
            if record.at and record.at > self._ahead:
                self.faults.add(self.position, ahead(record.at))
            for name in record.refused:
                self.remarks.add(self.position, refused(name))
        if self._keep is not None:
            self._keep += values


def refuse_bad(
    body: bytes,
    name: str,
    now: datetime,
    limits: Limits,
    namespace: str,
    keep: list[Mapping[str, Any]] | None = None,
) -> tuple[int, Sequence[Fault]]:
    """The number of records, and what the collector will leave out of them. ``keep`` receives the records themselves.

    Raises InvalidSnapshot when a record is bad, Rejected when there is none or it is no snapshot, Unfinished, TooLarge.
    """

    def begin() -> _Check:
        if keep is not None:
            keep.clear()
        return _Check(now, namespace, limits.depth, keep)

    check = snapshot_json.read(inflated(body, name, limits.size), name, begin, limits)
    if check.faults.count:
        raise InvalidSnapshot(name, check.faults, check.position)
    if not check.position:
        raise Rejected(nothing_usable(name, 0, check.faults))
    return check.position, tuple(check.remarks.first)
