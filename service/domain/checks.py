"""One stable series per check, because status and condition are tags that flip (a flip starts a second series).

A check is known by its stable tags; its state outlives runs and restarts, so boards have no holes between runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import chain

from service.domain import conditions
from service.domain.runs import NoData
from service.domain.samples import CHECK_TAGS, Evidence, Kind, Metric, Sample, Status

CHECK_STATE = Metric("metta.infra.check.state", help="0 pass, 1 fail, 2 unknown")
CHECK_THRESHOLD = Metric("metta.infra.check.threshold", help="The number in the check's condition")
CHECK_VALUE = Metric("metta.infra.check.value", help="The value that the check judges")
CHECK_AGE = Metric(
    "metta.infra.check.age",
    unit="second",
    help="Time since the value was measured, or since a check without one is known",
)
CHECK_METRICS = (CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE, CHECK_AGE)

# Told apart by these beyond CHECK_TAGS, where a sample has them.
_ALSO_STABLE = ("label", "repo")
_BADNESS = {Status.PASS: 0, Status.UNKNOWN: 1, Status.FAIL: 2}
_STATE_VALUE = {Status.PASS: 0, Status.FAIL: 1, Status.UNKNOWN: 2}
# A check that nobody has measured for so long, and no run asks for, is no check of this configuration any more.
FORGET_AFTER = timedelta(days=7)
# An acceptance criterion comes as three samples, NAME.value, NAME.target and NAME.status, with these tags.
_ACCEPTANCE_TAGS = ("job", "criterion", "operator", "target")

CheckKey = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Past:
    """What a check with a rule knows of its past.

    ``values``: when those that count were measured and what they were, oldest first, the present one included; none
    where the condition is not relative. ``limit``: the condition in numbers, empty where there are too few of them.
    ``failures``: how many values in a row before the present one failed. ``is_counted``: it is one of the row, too.
    """

    values: tuple[tuple[datetime, float], ...] = ()
    limit: str = ""
    failures: int = 0
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """The last that is known of one check. ``value`` and ``measured_at`` are None when it was never measured.

    ``summary``: the collector's sentence on the value, or why there is none; empty where it says nothing.
    ``is_missing``: the last run that asked for it found nothing to measure; else an unknown status is the verdict on a
    value. ``cycles``: how many runs in a row, those by webhook aside, have found this status.
    """

    key: CheckKey
    status: Status
    condition: str
    since: datetime  # the instant since which the status has been this
    value: float | None = None
    measured_at: datetime | None = None
    metric: str = ""
    evidence: tuple[Evidence, ...] = ()
    summary: str = ""
    is_missing: bool = False
    cycles: int = 0
    past: Past | None = None

    @property
    def limit(self) -> str:
        """The condition that the value was judged by, in numbers: ``>= 13.005`` where it is written ``>= 0.85x``."""
        return self.past.limit if self.past else self.condition

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.key)

    @property
    def name(self) -> str:
        """``workflow_name / task / check``, with label and repo where it has them."""
        return name_of(self.key)


def check_key(tags: Mapping[str, str]) -> CheckKey | None:
    """The check that a sample with these tags belongs to, None when it belongs to none."""
    if any(name not in tags for name in CHECK_TAGS):
        return None
    return tuple((name, tags[name]) for name in ("source", *CHECK_TAGS, *_ALSO_STABLE) if name in tags)


def measured_key(metric: str, tags: Mapping[str, str]) -> CheckKey | None:
    """The check that a sample of this metric and tags measures, None when it measures none."""
    return check_key(tags) or ((own := _acceptance_tags(metric, tags)) and check_key(own)) or None


def find_status(tags: Mapping[str, str], value: float) -> Status:
    """The verdict in a check's tags; where they hold none, what the condition in them says of ``value``."""
    if (text := tags.get("status", "")) in _STATE_VALUE:
        return Status(text)
    condition = conditions.parse(tags.get("condition", ""))
    return condition.status(value) if condition else Status.UNKNOWN


def find_condition(tags: Mapping[str, str]) -> str:
    """The condition in a check's tags, or the one that an acceptance criterion's make; empty where there is none."""
    if "condition" in tags or any(name not in tags for name in _ACCEPTANCE_TAGS):
        return tags.get("condition", "")
    if tags["operator"] == "in" and "target_low" in tags and "target_high" in tags:
        return f"in [{tags['target_low']}, {tags['target_high']}]"
    return f"{tags['operator']} {tags['target']}"


def name_of(key: CheckKey) -> str:
    """A check's name for people."""
    tags = dict(key)
    more = [f"{name} {tags[name]}" for name in _ALSO_STABLE if name in tags]
    return " / ".join(tags.get(name, "") for name in CHECK_TAGS[1:]) + (f" ({', '.join(more)})" if more else "")


def path_of(key: CheckKey) -> str:
    """``workflow_name/task/check``."""
    tags = dict(key)
    return "/".join(tags[name] for name in CHECK_TAGS[1:])


def check_id(collector: str, key: CheckKey) -> int:
    """A number for a collector's check, the same in every process: 63 bits of a hash, safe in an address."""
    text = "\0".join((collector, *chain.from_iterable(key)))
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") >> 1


def update_checks(
    known: Iterable[Check],
    samples: Iterable[Sample],
    no_data: Iterable[NoData],
    now: datetime,
    judged: Iterable[Check] = (),
    *,
    is_cycle: bool = True,
    is_complete: bool = False,
) -> list[Check]:
    """``known`` after a run that brought ``samples``: newest value first, of equally new ones the worst.

    ``no_data``: the checks that had nothing to measure. ``judged``: those of samples with a rule (domain.baseline).
    Distributions are events, not checks. ``is_cycle``: it was no run by webhook. ``is_complete``: nor did it leave
    anything out, so that what was never measured, and is not asked for any more, is forgotten at once.
    """
    checks = {check.key: check for check in known}
    found: dict[CheckKey, Check] = {}
    measured = (check for sample in samples if not sample.rule and (check := measure(sample, now)))
    for check in chain(measured, judged):
        if check.key not in found or _rank(check) > _rank(found[check.key]):
            found[check.key] = check
    for each in no_data:
        if (key := check_key(each.tags)) and key not in found:
            before = checks.get(key, Check(key, Status.UNKNOWN, "", now))
            condition = each.tags.get("condition", before.condition)
            unknown = replace(before, status=Status.UNKNOWN, condition=condition, since=now, summary=each.summary)
            found[key] = replace(unknown, is_missing=True, cycles=0)
    for key, check in found.items():
        if (last := checks.get(key)) and last.status is check.status:
            check = replace(check, since=last.since, cycles=last.cycles)
        checks[key] = replace(check, cycles=check.cycles + is_cycle)
    _drop_expected(checks, found)
    return [
        check
        for check in checks.values()
        if check.key in found
        or (
            now - (check.measured_at or check.since) <= FORGET_AFTER
            and not (is_complete and is_cycle and check.measured_at is None)
        )
    ]


def _drop_expected(checks: dict[CheckKey, Check], found: Mapping[CheckKey, Check]) -> None:
    """What was expected by its name alone and never measured, where the check has come with other tags."""
    never = [key for key, check in checks.items() if check.measured_at is None and key not in found]
    measured = [set(key) for key, check in found.items() if not check.is_missing] if never else []
    for key in never:
        named = {tag for tag in key if tag[0] not in ("source", CHECK_TAGS[0])}
        if any(named <= other for other in measured):
            del checks[key]


def measure(sample: Sample, now: datetime) -> Check | None:
    """The check that a sample measures, None when it measures none."""
    tags = sample.tags if check_key(sample.tags) else _acceptance_tags(sample.metric.name, sample.tags)
    if sample.metric.kind is Kind.DISTRIBUTION or not tags or not (key := check_key(tags)):
        return None
    status, condition = find_status(tags, sample.value), tags.get("condition", "")
    return Check(
        key,
        status,
        condition,
        now,
        sample.value,
        sample.measured,
        sample.metric.name,
        sample.evidence,
        sample.summary,
    )


def _acceptance_tags(metric: str, own: Mapping[str, str]) -> dict[str, str] | None:
    """The tags of the check that the value of an acceptance criterion makes; None of any other sample.

    The target and the status come as samples of their own, which measure nothing: the value's tags say as much.
    """
    if not metric.endswith(".value") or any(name not in own for name in _ACCEPTANCE_TAGS):
        return None
    tags = {name: own[name] for name in ("source", *_ALSO_STABLE, "status") if name in own}
    tags |= {"workflow_category": own.get("category", "none"), "workflow_name": own["job"]}
    return tags | {"task": own["criterion"], "check": own["criterion"], "condition": find_condition(own)}


def _rank(check: Check) -> tuple[datetime | None, int]:
    return check.measured_at, _BADNESS[check.status]


def to_samples(
    checks: Iterable[Check],
    now: datetime,
    max_age: timedelta,
    tags: Mapping[str, str] | None = None,
    *,
    with_age: bool = True,
) -> list[Sample]:
    """The stable series of ``checks`` at ``now``, with ``tags`` added; a value older than ``max_age`` is unknown.

    The series of one check share one mapping of tags.
    """
    samples = []
    for check in checks:
        own_tags = {**check.tags, **(tags or {})}
        status = status_at(check, now, max_age)
        samples.append(Sample(CHECK_STATE, _STATE_VALUE[status], now, own_tags))
        if condition := conditions.parse(check.limit):
            samples.append(Sample(CHECK_THRESHOLD, condition.threshold, now, own_tags))
        age = max(timedelta(0), now - (check.measured_at or check.since))
        if check.measured_at and check.value is not None and age <= max_age:
            samples.append(Sample(CHECK_VALUE, check.value, now, own_tags))
        # Without a verdict by nature (no threshold is set) nobody is to be woken by its age.
        if with_age and (check.is_missing or check.status is not Status.UNKNOWN):
            samples.append(Sample(CHECK_AGE, age.total_seconds(), now, own_tags))
    return samples


def status_at(check: Check, now: datetime, max_age: timedelta) -> Status:
    """The check's status at ``now``: unknown once its value is older than ``max_age``."""
    if check.measured_at is None or now - check.measured_at > max_age:
        return Status.UNKNOWN
    return check.status
