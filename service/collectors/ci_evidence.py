"""What is behind a number, for who asks why: the newest few of its runs, jobs or pull requests. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from service.collectors.ci_runs import Run
from service.domain.samples import Evidence

MOST = 20
_NEVER = datetime.min.replace(tzinfo=UTC)


def of_runs(runs: Iterable[Run]) -> tuple[Evidence, ...]:
    """Each run with its end, the newest first."""
    return newest(Evidence(run.title, run.url, run.updated, run.conclusion or "", run.name) for run in runs)


def newest(found: Iterable[Evidence]) -> tuple[Evidence, ...]:
    return tuple(sorted(found, key=lambda each: each.at or _NEVER, reverse=True)[:MOST])
