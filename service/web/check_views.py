"""Checks over HTTP: what each one says, since when, and what is behind it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, Self

from service.domain import conditions
from service.domain.checks import Check, status_at
from service.domain.samples import Metric, Status
from service.web.views import EvidenceView, Instant, View


class CheckView(View):
    """One check as it is now. ``metric`` is empty and ``value`` null where nothing was ever measured.

    ``tags``: those that name the check; ``why``: the verdict in words; ``since``: when the status became this one.
    """

    collector: str
    metric: str
    help: str = ""
    unit: str = ""
    tags: Mapping[str, str]
    status: Literal["pass", "fail", "unknown"]
    value: float | None = None
    condition: str
    why: str
    since: Instant
    measured_at: Instant | None = None
    evidence: tuple[EvidenceView, ...] = ()

    @classmethod
    def of(cls, collector: str, check: Check, metric: Metric | None, now: datetime, max_age: timedelta) -> Self:
        status = status_at(check, now, max_age)
        went_stale = status is not check.status and check.measured_at is not None
        return cls(
            collector=collector,
            metric=check.metric,
            help=metric.help if metric else "",
            unit=metric.unit if metric else "",
            tags=check.tags,
            status=status.value,
            value=check.value,
            condition=check.condition,
            why=_why(check, status),
            since=check.measured_at + max_age if went_stale and check.measured_at else check.since,
            measured_at=check.measured_at,
            evidence=tuple(EvidenceView.of(each) for each in check.evidence),
        )


class Checks(View):
    """One page of a collector's checks. ``next``: the address of the page after, None at the end."""

    checks: Sequence[CheckView]
    total: int
    next: str | None = None


def is_meant(check: Check, asked: str) -> bool:
    """Whether ``asked`` names the check: by its metric, the last parts of that, or the check's own name."""
    return asked in (check.metric, check.tags.get("check")) or check.metric.endswith(f".{asked}")


def _why(check: Check, status: Status) -> str:
    if check.value is None or check.measured_at is None:
        return "nothing was measured yet"
    condition = conditions.parse(check.condition)
    value = f"{check.value:.6g}"
    if status is Status.UNKNOWN:
        if check.status is not Status.UNKNOWN:
            return "the value is too old to judge by"
        return "nothing was measured lately" if condition else f"{value} has no verdict: no threshold is set"
    if condition and condition.status(check.value) is status:
        return f"{value} is{'' if status is Status.PASS else ' not'} {check.condition.strip()}"
    return f"the source says {status.value} of {value}"
