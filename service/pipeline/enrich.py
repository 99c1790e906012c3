"""What a run's samples become before they are stored: required tags, checks with their stable series, own metrics.

Pure and without a clock, so that the work on many samples can be done in a thread.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from service.domain import checks
from service.domain.baseline import judge_samples
from service.domain.checks import Check
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import (
    MAX_POINT_AHEAD,
    REQUIRED_TAGS,
    SERVICE,
    Kind,
    Metric,
    Sample,
    Status,
    normalize_metric_name,
    normalize_tag_name,
)
from service.pipeline.job import Job

# Of more checks than this the series, thrice as many as the run's samples, follow right after the run as a heartbeat.
MANY_CHECKS = 1_000
TOO_EARLY = "the time is more than 10 minutes in the future"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # earlier instants are slips of a collector
_MAX_INTERVAL = 366 * 86_400  # seconds
_CHECK_NAMES = ("workflow_name", "task", "check")  # a sample that lacks one of them is a plain metric
# The required tags that a sample of a check brings, in the order in which they are written.
_OF_A_CHECK = REQUIRED_TAGS[: REQUIRED_TAGS.index("env")]
_REQUIRED = frozenset(REQUIRED_TAGS)
_FIXED = frozenset(("env", "service", "version"))


@dataclass(frozen=True, slots=True)
class Enriched:
    """``samples``: the collected ones. ``checks``: the job's after the run. ``series``: those of the checks; where they
    are more than MANY_CHECKS none, and ``late`` are the checks. ``errors``: the metrics of which samples were left out.
    ``own_values``: what the collector says of its health.
    """

    samples: list[Sample]
    series: list[Sample]
    checks: list[Check]
    late: list[Check]
    errors: list[PartialFailure]
    own_values: Mapping[Metric, float]


def enrich(
    job: Job, result: CollectResult, known_checks: Collection[Check], now: datetime, *, is_whole: bool = True
) -> Enriched:
    """``result`` as it is stored, and the job's checks after it. ``is_whole``: else (a run by webhook) only the series
    of those checks that it measured are stored again."""
    samples, errors = prepare_samples(job, result.samples, now)
    unnamed = dict.fromkeys(_OF_A_CHECK[:2], "none")  # as in a sample's tags, or they would be another check's
    no_data = [replace(each, tags={**unnamed, **job.settings.tags, **each.tags}) for each in result.no_data]
    # A collector whose checks the settings name can tell which of them they name no more.
    with _collector_code("asks_for", errors):
        asks_for = getattr(job.collector, "asks_for", lambda check: True)
        known_checks = [check for check in known_checks if check.measured_at is None or asks_for(check)]
    own_values: Mapping[Metric, float] = {}
    with _collector_code("own_values", errors):
        own_values = dict(getattr(job.collector, "own_values", lambda now: {})(now))
    samples, judged = judge_samples(known_checks, samples, now, is_cycle=is_whole)
    known = checks.update_checks(
        known_checks, samples, no_data, now, judged, is_cycle=is_whole, is_complete=not (result.failures or errors)
    )
    untouched = set() if is_whole else {id(check) for check in known_checks}
    shown = [check for check in known if id(check) not in untouched]
    is_many = len(shown) > MANY_CHECKS
    series = [] if is_many else checks.to_samples(shown, now, job.settings.max_age, job.check_tags)
    return Enriched(samples, series, known, shown if is_many else [], errors, own_values)


@contextmanager
def _collector_code(part: str, errors: list[PartialFailure]) -> Iterator[None]:
    """What another package's collector raises here costs this part alone."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - anybody's code
        errors.append(PartialFailure(f"unexpected {type(error).__name__}: {error}", part))


def prepare_samples(job: Job, samples: Iterable[Sample], now: datetime) -> tuple[list[Sample], list[PartialFailure]]:
    """The collected samples as they are sent, and a failure for each metric and reason for which some can't be."""
    interval = job.schedule.interval(now, job.settings.time_zone)
    version = {"version": job.version} if job.version else {}
    fixed = {"env": job.env, "service": SERVICE, **version, **job.settings.tags}
    good: list[Sample] = []
    bad: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        if fault := _find_fault(sample, now):
            bad[sample.metric.name, fault] += 1
            continue
        covered = (sample.interval or interval) if sample.metric.kind is Kind.COUNT else None
        good.append(replace(sample, tags=_add_tags(sample, fixed), interval=covered))
    errors = [
        PartialFailure(fault if count == 1 else f"{fault} ({count} samples)", f"metric {name!r:.200}")
        for (name, fault), count in sorted(bad.items())
    ]
    return good, errors


def own_samples(job: Job, values: Mapping[Metric, float], now: datetime) -> list[Sample]:
    """The collector's health."""
    tags = {"collector": job.name, "env": job.env, "service": job.settings.service}
    if job.version:
        tags["version"] = job.version
    return [Sample(metric, value, now, tags) for metric, value in values.items() if _is_finite(value)]


def _find_fault(sample: Sample, now: datetime) -> str | None:
    """Why the sample can't be sent or stored, None when it can."""
    if normalize_metric_name(sample.metric.name) is None:
        return "the metric's name does not begin with a letter"
    if not _is_finite(sample.value):
        return "the value is no finite number"
    if sample.at > now + MAX_POINT_AHEAD:
        return TOO_EARLY
    if sample.at < _EPOCH or sample.measured < _EPOCH:
        return "the time is before 1970"
    if not 0 <= (sample.interval or 0) <= _MAX_INTERVAL:
        return f"an interval of {sample.interval:.3g} seconds"
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # None, text or 10**400: other packages' collectors bring anything
        return False


def _add_tags(sample: Sample, fixed: Mapping[str, str]) -> dict[str, str]:
    """A check's required tags in their order, ``fixed`` and the sample's own; a plain metric has the last two alone."""
    own = sample.tags
    if not all(name in own for name in _CHECK_NAMES):
        return {**fixed, **{name: value for name, value in own.items() if normalize_tag_name(name) not in _FIXED}}
    tags = {name: own.get(name, "none") for name in _OF_A_CHECK}
    tags["status"] = Status.UNKNOWN if sample.rule else checks.find_status(tags, sample.value)
    tags.update(fixed)
    for name, value in own.items():
        if normalize_tag_name(name) not in _REQUIRED:
            tags[name] = value
    return tags
