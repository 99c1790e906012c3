"""What would be sent now, and how it differs from the last run. Collects for real; nothing is sent or kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.config.settings import Settings
from service.daemon.once import HEALTH_PREFIX, Progress, collect_only, select_jobs
from service.daemon.wiring import open_wiring
from service.domain.delivery import StoredSample, to_point
from service.domain.runs import Run
from service.domain.samples import Kind, Sample
from service.pipeline.enrich import enrich
from service.store import Store

Change = Literal["new", "gone", "changed", "same"]

# Tags that say how a series is doing, not which one it is.
_VOLATILE_TAGS = ("status", "condition", "version")
_MAX_SAMPLES = 100_000
_RECENT_RUNS = 20


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
    changes: Sequence[SeriesChange] = ()

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
    settings: Settings, environ: Mapping[str, str], names: Sequence[str] | None, progress: Progress
) -> list[Preview]:
    """Of the named collectors (None: all enabled ones). Works beside a daemon. Raises ConfigError or Unavailable."""
    previews = []
    async with open_wiring(settings, environ, writes=False) as wiring:
        store, clock = wiring.store, wiring.clock
        jobs, _ = await select_jobs(wiring.build_jobs(settings), names)
        for job, done in zip(jobs, await collect_only(jobs, wiring, progress), strict=True):
            enriched = enrich(job, done.result, await store.runs.checks(job.name), clock.now())
            samples = [*enriched.samples, *enriched.series]
            before, stored = await _read_last_success(store, job.name)
            previews.append(Preview(done.run, before, samples, compare_series(samples, stored)))
    return previews


async def _read_last_success(store: Store, collector: str) -> tuple[str | None, list[StoredSample]]:
    """Id and samples of the last run that brought something, but for the collector's health: a preview is no run."""
    for run in await store.runs.list(collector, limit=_RECENT_RUNS):
        if run.outcome and run.outcome.succeeded:
            stored, _ = await store.outbox.samples(run.id, 0, _MAX_SAMPLES)
            return run.id, [each for each in stored if not each.point.metric.startswith(HEALTH_PREFIX)]
    return None, []


def compare_series(now: Iterable[Sample], before: Iterable[StoredSample]) -> list[SeriesChange]:
    """Series by series; of a distribution, whose values are events, each value that would be sent is new."""
    known = {
        _key(each.point.metric, each.kind, each.tags): (each.point.value, each.tags)
        for each in before
        if each.kind is not Kind.DISTRIBUTION
    }
    changes = []
    for sample in now:
        metric, value = sample.metric.name, sample.value
        tags = {name: text for name, _, text in (tag.partition(":") for tag in to_point(sample).tags)}
        value_before, tags_before = known.pop(_key(metric, sample.metric.kind, tags), (None, {}))
        status, status_before = tags.get("status", ""), tags_before.get("status", "")
        change: Change = "same" if (value, status) == (value_before, status_before) else "changed"
        if value_before is None:
            change = "new"
        changes.append(SeriesChange(change, metric, tags, value, value_before, status, status_before))
    for (metric, _, _), (value_before, tags) in known.items():
        gone = SeriesChange("gone", metric, tags, None, value_before, status_before=tags.get("status", ""))
        changes.append(gone)
    return changes


def _key(metric: str, kind: Kind, tags: Mapping[str, str]) -> tuple[str, Kind, frozenset[tuple[str, str]]]:
    return metric, kind, frozenset((name, value) for name, value in tags.items() if name not in _VOLATILE_TAGS)
