"""What leaves of what a run collected: stamped samples, the checks after it, and the reasons why some can't leave.

Pure and without a clock: of many samples it is worked out in a thread.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from service.domain import checks
from service.domain.naming import metric_name
from service.domain.points import AHEAD, EPOCH, TOO_EARLY
from service.domain.runs import Collected, Fault, Run
from service.domain.samples import Sample
from service.pipeline.job import Job

_LONGEST_INTERVAL = 366 * 86_400  # seconds that a count may cover; the store holds no number of any size


@dataclass(frozen=True, slots=True)
class Leaving:
    """``measured``: the collected samples as they leave; ``samples``: these, the checks' series and the run's own.

    Of more than ``checks.FEW`` checks the series are thrice as many as the samples that the run is there for. They
    follow on its heels, as a heartbeat does; among ``samples`` are those alone whose value has grown too old.
    ``run``: as it ended, metrics that had to be left out included.
    """

    run: Run
    measured: Sequence[Sample]
    samples: Sequence[Sample]
    checks: Sequence[checks.Check]


class WorkedOut(NamedTuple):
    """The samples as they leave, what is wrong with others, the job's checks after them, and their stable series."""

    brought: list[Sample]
    bad: list[Fault]
    checks: list[checks.Check]
    states: list[Sample]


def worked_out(job: Job, collected: Collected, before: Sequence[checks.Check], now: datetime) -> WorkedOut:
    brought, bad = stamped(job, collected, now)
    unmeasured = [{**job.tags, **tags} for tags in collected.unmeasured]
    known = checks.updated(before, brought, unmeasured, now)
    told = known if len(known) <= checks.FEW else checks.outdated(known, now, job.max_age)
    return WorkedOut(brought, bad, known, checks.to_samples(told, now, job.max_age, job.check_tags))


def stamped(job: Job, collected: Collected, now: datetime) -> tuple[list[Sample], list[Fault]]:
    """The collected samples as they leave, and a fault for each metric and reason for which some can't."""
    interval = job.schedule.interval(now, job.zone)
    names = {sample.metric.name for sample in collected.samples}
    nameless = {name for name in names if metric_name(name) is None}
    limit = now + AHEAD
    good: list[Sample] = []
    bad: Counter[tuple[str, str]] = Counter()
    for sample in collected.samples:
        if sample.metric.name in nameless:
            bad[sample.metric.name, "the metric's name does not begin with a letter"] += 1
        elif not _is_number(sample.value):
            bad[sample.metric.name, "the value is no finite number"] += 1
        elif sample.at > limit:
            bad[sample.metric.name, TOO_EARLY] += 1
        elif sample.at < EPOCH or sample.measured < EPOCH:
            bad[sample.metric.name, "the time is before 1970"] += 1
        elif not 0 <= (sample.interval or 0) <= _LONGEST_INTERVAL:
            bad[sample.metric.name, f"an interval of {sample.interval:.3g} seconds"] += 1
        else:
            good.append(job.stamp(sample, interval))
    faults = [
        Fault(why if count == 1 else f"{why} ({count} samples)", f"metric {name!r:.200}")
        for (name, why), count in sorted(bad.items())
    ]
    return good, faults


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type] # a foreign collector may bring anything
    except (TypeError, ValueError, OverflowError):
        return False
