"""From records (of a snapshot, of a program's output) to samples: which ones, as of when, and why others are left out.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once. Pure; large
snapshots take CPU time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType

from service.collectors.expectation import Seen, find_missing
from service.collectors.records import MAX_FAILURES, TEXTS, BadRecord, Baseline, Item, Origin, Record
from service.collectors.thresholds import Thresholds, find_threshold, find_unused
from service.config.masking import redact
from service.domain import conditions
from service.domain.checks import CheckKey, find_condition, measured_key, path_of
from service.domain.errors import Rejected
from service.domain.runs import CollectResult, NoData, PartialFailure
from service.domain.samples import (
    CHECK_TAGS,
    MAX_POINT_AGE,
    REQUIRED_TAGS,
    Evidence,
    Kind,
    Metric,
    Rule,
    Sample,
    Status,
    normalize_tag_name,
)

# The outbox expires what is older than MAX_POINT_AGE; a gauge that waits for its delivery needs some of it.
MAX_GAUGE_AGE = timedelta(minutes=45)
_MAX_SUMMARY = 500  # characters
_VERDICTS = frozenset(Status)
_MAX_SENT = 200_000  # events that are remembered
_KEPT_NAME = "metta."  # a metric of the whole project has no namespace before it


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot as it was published ``at``.

    ``name``: for messages. ``version`` tells one publication from another, for counts and distributions without a time;
    empty where none comes twice.
    A gauge without a time was measured at ``at``, and is sent as of the run: it says that its value is still true.
    """

    name: str
    version: str
    at: datetime


class Selection:
    """What becomes of the records of one run: samples, checks whose value is too old (``no_data``), failures.

    ``sent``: the counts and distributions of earlier runs, the second of each by its identity; ``events``: this run's.
    ``expect``: checks that have to be brought (``expectation``); ``thresholds``: in place of what records say.
    """

    def __init__(
        self,
        origin: Origin,
        now: datetime,
        max_age: timedelta,
        sent: Mapping[bytes, int],
        expect: Sequence[str] = (),
        thresholds: Thresholds = MappingProxyType({}),
    ) -> None:
        self.samples: list[Sample] = []
        self.no_data: list[NoData] = []
        self.failures: list[PartialFailure] = []
        self.events: dict[bytes, int] = {}
        self._origin, self._now, self._max_age, self._sent = origin, now, max_age, sent
        self._expect, self._thresholds = expect, thresholds
        self._brought: dict[str, set[CheckKey]] = {}  # the checks by their joined names, where the settings name any

    def add(self, records: Iterable[Item | BadRecord], publication: Publication) -> None:
        """Takes the records of ``read_records``. Raises Rejected when none of them is usable."""
        failures, positions, usable, position = list[PartialFailure](), dict[bytes, int](), 0, 0
        for position, record in enumerate(records, 1):
            if isinstance(record, BadRecord):
                failures.append(PartialFailure(str(record), f"record {position}"))
                continue
            failures += find_refused_tags(record, position)
            try:
                self._add(record, publication, positions, position)
                usable += 1
            except BadRecord as bad:
                failures.append(PartialFailure(str(bad), f"record {position}"))
        if not position:
            raise Rejected(f"{publication.name} holds no record")
        if not usable:
            more = f"; and {len(failures) - 3:,} more" if len(failures) > 3 else ""
            shown = "; ".join(map(str, failures[:3]))
            raise Rejected(f"{publication.name}: no usable record among {position:,}: {shown}{more}")
        self.failures += failures

    def _add(self, record: Item, publication: Publication, positions: dict[bytes, int], position: int) -> None:
        """``positions``: those of this publication's events. Raises BadRecord when it can't be sent."""
        tags, now = _tags_of(record, self._origin), self._now
        kind = (record.metric_kind if isinstance(record, Record) else record.kind) or Kind.GAUGE
        judged_by, rule = self._judge(record, tags, kind)
        at, measured_at = record.at or min(publication.at, now), None
        age = now - at
        if kind is Kind.GAUGE:
            if age > self._max_age:
                limit = _format_span(self._max_age)
                self.no_data.append(NoData(judged_by, f"its value is older than {limit}"))
                raise BadRecord(f"it is {_format_span(age)} old, older than max_age ({limit})")
            if record.at is None or age > MAX_GAUGE_AGE:
                at, measured_at = now, at
        else:
            event, limit_age = _identify(record, tags, publication.version), min(MAX_POINT_AGE, self._max_age)
            if (first := positions.setdefault(event, position)) != position:
                raise BadRecord(f"metric, tags and timestamp are those of record {first}")
            if event in self._sent or event in self.events:
                return
            if age > limit_age:
                limit = _format_span(limit_age)
                raise BadRecord(f"it is {_format_span(age)} old, and a {kind.value} can't be sent after {limit}")
            if record.at or publication.version:
                self.events[event] = int(at.timestamp())
        metric = _metric(record.metric, self._origin.namespace, kind)
        evidence, summary = _find_evidence(record, tags, measured_at or at), _shorten(record.message or "")
        self.samples.append(Sample(metric, record.value, at, judged_by, measured_at, None, evidence, summary, rule))

    def _judge(self, record: Item, tags: dict[str, str], kind: Kind) -> tuple[dict[str, str], Rule | None]:
        """``tags`` with the condition that judges it, and the rule where its check's past does, too."""
        is_named = bool(self._expect or self._thresholds)
        if is_named and kind is not Kind.DISTRIBUTION and (key := measured_key(record.metric, tags)):
            name = path_of(key)
            self._brought.setdefault(name, set()).add(key)
            if threshold := find_threshold(name, self._thresholds):
                own = {tag: value for tag, value in tags.items() if tag != "status"}
                return own | {"condition": threshold.condition}, threshold.make_rule()
        return tags, _find_rule(record, tags)

    def to_result(self, seen: Seen, what: str, *, is_whole: bool = True) -> tuple[CollectResult, Seen]:
        """All of it, without a state, and what ``find_missing`` wants to know next time.

        ``seen``: from the run before. ``what`` brought it, in whole or in part: as for ``find_missing``.
        """
        missing = find_missing(self._expect, self._brought, seen, self._origin, what, is_whole=is_whole)
        unused = find_unused(self._thresholds, self._brought) if is_whole else []
        failures = [*missing.failures, *unused, *self.failures]
        result = CollectResult(
            samples=tuple(_drop_overtaken(self.samples)),
            failures=tuple(failures[:MAX_FAILURES]),
            no_data=(*self.no_data, *missing.no_data),
            skipped=len(failures),
        )
        return result, missing.seen

    def remember(self) -> dict[bytes, int]:
        """What the next run must know was sent: the events of now, and earlier ones that may come again."""
        oldest = (self._now - self._max_age).timestamp()
        kept = {event: second for event, second in self._sent.items() if second >= oldest} | self.events
        return dict(sorted(kept.items(), key=lambda item: item[1])[-_MAX_SENT:]) if len(kept) > _MAX_SENT else kept


def _drop_overtaken(samples: list[Sample]) -> list[Sample]:
    """``samples`` without gauges that would overwrite a newer value of their series by being sent as of now."""
    newest: dict[object, datetime] = {}
    if any(sample.measured_at for sample in samples):
        for sample in samples:
            newest[_series(sample)] = max(newest.get(_series(sample), sample.measured), sample.measured)
    return [each for each in samples if not each.measured_at or each.measured_at == newest[_series(each)]]


def find_refused_tags(record: Item, position: int) -> Iterator[PartialFailure]:
    """What is said of a record's tags that name required ones."""
    for tag in filter(_is_required, record.tags or ()) if isinstance(record, Record) else ():
        reason = f"tag {tag!a} is set by the daemon; the record's own is left out"
        yield PartialFailure(reason, f"record {position}")


@lru_cache(maxsize=4096)
def _is_required(tag: str) -> bool:
    """Whether Datadog would read this tag of a record as one that the daemon sets itself."""
    return normalize_tag_name(tag) in REQUIRED_TAGS


def _series(sample: Sample) -> object:
    return sample.metric, frozenset(tag for tag in sample.tags.items() if tag[0] not in ("status", "condition"))


def _tags_of(record: Item, origin: Origin) -> dict[str, str]:
    own, tags = record.tags or {}, {"source": origin.source}
    if isinstance(record, Record):
        tags |= {"workflow_category": origin.category} | {name: getattr(record, name) for name in TEXTS}
        tags |= {"status": record.status.value} if record.status else {}
        return tags | {name: value for name, value in own.items() if not _is_required(name)}
    # Only what measures a check has a category.
    is_check = all(name in own for name in CHECK_TAGS[1:])
    return tags | ({"workflow_category": origin.category} if is_check else {}) | own


def _find_evidence(record: Item, tags: Mapping[str, str], at: datetime) -> tuple[Evidence, ...]:
    """What the record says is behind its value, under the name of what measured it."""
    if not (record.url or record.commit or record.owner):
        return ()
    title = tags.get("workflow_name") or tags.get("job") or record.metric
    url, commit, owner = (redact(each or "") for each in (record.url, record.commit, record.owner))
    return (Evidence(title, url, at, commit=commit.strip(), author=owner.strip()),)


def _find_rule(record: Item, tags: Mapping[str, str]) -> Rule | None:
    """By which the daemon judges it; None where a status has the verdict already, or the condition alone gives one."""
    if tags.get("status") in _VERDICTS:
        return None
    baseline, fail_after = (record.baseline, record.for_) if isinstance(record, Record) else (None, None)
    if not fail_after and not conditions.is_relative(find_condition(tags)):
        return None
    baseline = baseline or Baseline()
    return Rule(int(baseline.last), int(baseline.skip), fail_after=int(fail_after or 1))


def _shorten(text: str) -> str:
    """Anybody's text on one line, without secrets."""
    text = " ".join(redact(text).split())
    return text if len(text) <= _MAX_SUMMARY else f"{text[: _MAX_SUMMARY - 1]}…"


@lru_cache(maxsize=4096)
def _metric(name: str, namespace: str, kind: Kind) -> Metric:
    return Metric(name if not namespace or name.startswith(_KEPT_NAME) else f"{namespace}.{name}", kind)


def _identify(record: Item, tags: Mapping[str, str], version: str) -> bytes:
    time = record.at.isoformat() if record.at else f"published {version}"
    parts = [record.metric, time, *(part for item in sorted(tags.items()) for part in item)]
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _format_span(span: timedelta) -> str:
    """As 45 min, 3.5 h, 12 days."""
    minutes = span.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.3g} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"
