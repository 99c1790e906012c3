"""One stable series per check, because status and condition are tags that flip (a flip starts a second series).

A check is known by its stable tags; its state outlives runs and restarts, so boards have no holes between runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.domain import conditions
from service.domain.samples import CHECK_TAGS, Evidence, Kind, Metric, Sample, Status

CHECK_STATE = Metric("metta.infra.check.state", help="0 pass, 1 fail, 2 unknown")
CHECK_THRESHOLD = Metric("metta.infra.check.threshold", help="The number in the check's condition")
CHECK_AGE = Metric("metta.infra.check.age", unit="second", help="Time since the value was measured")
CHECK_METRICS = (CHECK_STATE, CHECK_THRESHOLD, CHECK_AGE)

# Told apart by these beyond CHECK_TAGS, where a sample has them.
_ALSO_STABLE = ("label", "repo")
_WORST_LAST = {"pass": 0, "unknown": 1, "fail": 2}
_STATE = {Status.PASS: 0, Status.FAIL: 1, Status.UNKNOWN: 2}
# An unknown check that nobody has measured for so long is no check of this configuration any more.
FORGET_AFTER = timedelta(days=7)

# So many are worked on at once; more of them in a thread and in parts, since they would hold up everything else.
FEW = 1000

CheckKey = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """The last that is known of one check. ``value`` and ``measured_at`` are None when it was never measured."""

    key: CheckKey
    status: Status
    condition: str
    since: datetime  # the instant since which the status has been this
    value: float | None = None
    measured_at: datetime | None = None
    metric: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.key)


def key_of(tags: Mapping[str, str]) -> CheckKey | None:
    """The check that a sample with these tags belongs to, None when it belongs to none."""
    try:
        key = [(name, tags[name]) for name in CHECK_TAGS]
    except KeyError:
        return None
    if "source" in tags:
        key.insert(0, ("source", tags["source"]))
    key += [(name, tags[name]) for name in _ALSO_STABLE if name in tags]
    return tuple(key)


def updated(
    known: Iterable[Check], samples: Iterable[Sample], unmeasured: Iterable[Mapping[str, str]], now: datetime
) -> list[Check]:
    """``known`` after a run that brought ``samples``: newest value first, of equally new ones the worst.

    ``unmeasured`` are the tags of checks that had nothing to measure. Distributions are events, not checks.
    """
    checks = {check.key: check for check in known}
    fresh: dict[CheckKey, tuple[datetime, int, Sample]] = {}
    for sample in samples:
        key = key_of(sample.tags)
        if key is None or sample.metric.kind is Kind.DISTRIBUTION:
            continue
        rank = sample.measured, _WORST_LAST[sample.tags.get("status", "unknown")]
        if key not in fresh or rank > fresh[key][:2]:
            fresh[key] = (*rank, sample)
    for key, (_, _, sample) in fresh.items():
        status = Status(sample.tags.get("status", Status.UNKNOWN))
        checks[key] = Check(
            key,
            status,
            sample.tags.get("condition", ""),
            _since(checks.get(key), status, now),
            sample.value,
            sample.measured,
            sample.metric.name,
            sample.evidence,
        )
    for tags in unmeasured:
        key = key_of(tags)
        if key is None or key in fresh:
            continue
        before = checks.get(key)
        since = _since(before, Status.UNKNOWN, now)
        if before:
            checks[key] = replace(
                before, status=Status.UNKNOWN, since=since, condition=tags.get("condition", before.condition)
            )
        else:
            checks[key] = Check(key, Status.UNKNOWN, tags.get("condition", ""), since)
    return [check for check in checks.values() if not _forgotten(check, now)]


def to_samples(
    checks: Iterable[Check], now: datetime, max_age: timedelta, also: Mapping[str, str] | None = None
) -> list[Sample]:
    """The stable series of ``checks`` at ``now``, with the tags ``also``; a value older than ``max_age`` is unknown.

    The series of one check share one mapping of tags.
    """
    samples = []
    comparisons: dict[str, conditions.Condition | None] = {}
    for check in checks:
        tags = {**check.tags, **(also or {})}
        samples.append(Sample(CHECK_STATE, _STATE[status_at(check, now, max_age)], now, tags))
        if check.condition not in comparisons:
            comparisons[check.condition] = conditions.parse(check.condition)
        if condition := comparisons[check.condition]:
            samples.append(Sample(CHECK_THRESHOLD, condition.threshold, now, tags))
        if check.measured_at:
            age = max(0.0, (now - check.measured_at).total_seconds())
            samples.append(Sample(CHECK_AGE, age, now, tags))
    return samples


def outdated(checks: Iterable[Check], now: datetime, max_age: timedelta) -> list[Check]:
    """Those that say something else at ``now`` than they did, because their value has grown too old."""
    return [check for check in checks if status_at(check, now, max_age) is not check.status]


def status_at(check: Check, now: datetime, max_age: timedelta) -> Status:
    """What the check says at ``now``."""
    if check.measured_at is None or now - check.measured_at > max_age:
        return Status.UNKNOWN
    return check.status


def _since(before: Check | None, status: Status, now: datetime) -> datetime:
    return before.since if before and before.status is status else now


def _forgotten(check: Check, now: datetime) -> bool:
    # A check that something was measured for leaves a week after the last value, one that never had a value a
    # week after it was first asked for; both come back with the next run that names them.
    return now - (check.measured_at or check.since) > FORGET_AFTER
