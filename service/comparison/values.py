"""Values of both sides, and which of them mean the same check. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isclose

# A check's own tags; status and condition flip, env and service may differ by intent.
_TAGS = ("workflow_name", "task", "check", "label", "repo")


@dataclass(frozen=True, slots=True)
class Value:
    """One value. ``at`` is None where its source does not tell; ``kind``: gauge, count or distribution.

    ``collector``: which of ours it is of, empty for theirs.
    """

    metric: str
    value: float
    tags: Mapping[str, str]
    at: datetime | None = None
    kind: str = "gauge"
    collector: str = ""

    @property
    def about(self) -> str:
        """What it is about, for a person."""
        return " / ".join(self.tags[name] for name in _TAGS if self.tags.get(name))


@dataclass(frozen=True, slots=True)
class Pair:
    """The two values of one check; one of them is None where that side has none."""

    theirs: Value | None
    ours: Value | None

    @property
    def metric(self) -> str:
        return (self.theirs or self.ours).metric  # type: ignore[union-attr]  # one of them there is

    @property
    def about(self) -> str:
        return max((each.about for each in (self.theirs, self.ours) if each), key=len)

    @property
    def apart(self) -> timedelta | None:
        """Between the two instants, None where one is not known."""
        if self.theirs is None or self.ours is None or self.theirs.at is None or self.ours.at is None:
            return None
        return abs(self.theirs.at - self.ours.at)

    @property
    def is_same(self) -> bool:
        return self.theirs is not None and self.ours is not None and alike(self.theirs.value, self.ours.value)


def alike(one: float, other: float) -> bool:
    """Equal but for what a sum in another order makes of a number."""
    return isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def line_up(theirs: Iterable[Value], ours: Sequence[Value]) -> list[Pair]:
    """Each of their values with ours of the same check that is nearest in time, then what only we have.

    Of a collector none of whose values they have, ours are left out: they compare another one.
    A file of the replaced tool may leave tags out: what is not said on one side does not tell checks apart.
    """
    pairs: list[Pair] = []
    used: set[int] = set()
    for their in _newest(theirs):
        candidates = [place for place, our in enumerate(ours) if _is_same_check(their, our)]
        if len({_key(ours[place]) for place in candidates}) > 1:
            candidates = [place for place in candidates if _key(ours[place]) == _key(their)]
        if not candidates:
            pairs.append(Pair(their, None))
            continue
        used.update(candidates)
        pairs.append(Pair(their, ours[min(candidates, key=lambda place: _distance(their, ours[place]))]))
    compared = {ours[place].collector for place in used}
    rest = _newest(our for place, our in enumerate(ours) if place not in used and our.collector in compared)
    return pairs + [Pair(None, our) for our in rest]


def _newest(values: Iterable[Value]) -> list[Value]:
    found: dict[tuple[str, ...], Value] = {}
    for value in values:
        known = found.get(_key(value))
        if known is None or known.at is None or (value.at is not None and value.at >= known.at):
            found[_key(value)] = value
    return list(found.values())


def _key(value: Value) -> tuple[str, ...]:
    return (value.metric, *(value.tags.get(name, "") for name in _TAGS))


def _is_same_check(their: Value, our: Value) -> bool:
    return their.metric == our.metric and all(
        their.tags[name].lower() == our.tags[name].lower()
        for name in _TAGS
        if their.tags.get(name) and our.tags.get(name)
    )


def _distance(their: Value, our: Value) -> float:
    if their.at is None or our.at is None:
        return -our.at.timestamp() if our.at else 0.0  # the newest of ours
    return abs((their.at - our.at).total_seconds())
