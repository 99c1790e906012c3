"""What would be sent now, and how it differs from the last run. Collects for real; nothing is sent or kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from service.config.settings import Settings
from service.daemon.once import HEALTH_PREFIX, collect_only, select_jobs
from service.daemon.wiring import build_jobs, open_clients
from service.domain.delivery import StoredSample, to_point
from service.domain.runs import Run
from service.domain.samples import Kind, Sample
from service.pipeline.clock import SystemClock
from service.pipeline.enrich import enrich
from service.store import Store

Change = Literal["new", "gone", "changed", "same"]

# Tags that say how a series is doing, not which one it is.
_VOLATILE_TAGS = ("status", "condition", "version")
_MAX_SAMPLES = 100_000
_RECENT_RUNS = 20
_SeriesKey = tuple[str, Kind, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """One series. ``value`` and ``status`` are empty where it would not be sent, ``value_before`` where it was not."""

    change: Change
    metric: str
    tags: Mapping[str, str]
    value: float | None = None
    value_before: float | None = None
    status: str = ""
    status_before: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """One collector's. ``before``: the id of the run that is compared with, None where there is none to compare."""

    run: Run
    before: str | None
    samples: Sequence[Sample] = ()
    changes: Sequence[SeriesChange] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "collector": self.run.collector,
            "outcome": self.run.outcome,
            "errors": [str(error) for error in self.run.errors],
            "compared_with": self.before,
            "samples": [sample.as_json() for sample in self.samples],
            "differences": [asdict(change) for change in self.changes if change.change != "same"],
        }


async def preview(
    settings: Settings, environ: Mapping[str, str], names: Sequence[str] | None, progress: Callable[[str], None]
) -> list[Preview]:
    """Of the named collectors (None: all enabled ones). Works beside a daemon. Raises ConfigError or Unavailable."""
    clock = SystemClock()
    previews = []
    store = await Store.open_reading(settings.state_dir)
    try:
        async with open_clients(settings, environ) as clients:
            jobs, _ = await select_jobs(build_jobs(settings, clients, store), names)
            for job, done in zip(jobs, await collect_only(jobs, clock, progress), strict=True):
                enriched = enrich(job, done.result, await store.runs.checks(job.name), clock.now())
                before = await _last_success(store, job.name)
                stored = (await store.outbox.samples(before.id, 0, _MAX_SAMPLES))[0] if before else []
                samples = [*enriched.samples, *enriched.series]
                # The health of the collector is the run's, and this is none.
                stored = [each for each in stored if not each.point.metric.startswith(HEALTH_PREFIX)]
                changes = compare_series(samples, stored)
                previews.append(Preview(done.run, before.id if before else None, samples, changes))
    finally:
        await store.close()
    return previews


def compare_series(now: Iterable[Sample], before: Iterable[StoredSample]) -> list[SeriesChange]:
    """Series by series; of a distribution, whose values are events, each value that would be sent is new."""
    stored = {
        _series_key(each.point.metric, each.kind, each.tags): each
        for each in before
        if each.kind is not Kind.DISTRIBUTION
    }
    changes = []
    for sample in now:
        tags = {name: value for name, _, value in (tag.partition(":") for tag in to_point(sample).tags)}
        status = tags.get("status", "")
        known = stored.pop(_series_key(sample.metric.name, sample.metric.kind, tags), None)
        if known is None:
            changes.append(SeriesChange("new", sample.metric.name, tags, sample.value, status=status))
            continue
        status_before, value_before = known.tags.get("status", ""), known.point.value
        change: Change = "same" if (sample.value, status) == (value_before, status_before) else "changed"
        changes.append(
            SeriesChange(change, sample.metric.name, tags, sample.value, value_before, status, status_before)
        )
    changes += [
        SeriesChange(
            "gone",
            each.point.metric,
            each.tags,
            value_before=each.point.value,
            status_before=each.tags.get("status", ""),
        )
        for each in stored.values()
    ]
    return changes


async def _last_success(store: Store, collector: str) -> Run | None:
    """The last run that brought something."""
    runs = await store.runs.list(collector, limit=_RECENT_RUNS)
    return next((run for run in runs if run.outcome and run.outcome.succeeded), None)


def _series_key(metric: str, kind: Kind, tags: Mapping[str, str]) -> _SeriesKey:
    return metric, kind, tuple(sorted((name, value) for name, value in tags.items() if name not in _VOLATILE_TAGS))
