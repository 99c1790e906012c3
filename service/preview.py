"""What would be sent now, and how it differs from the last cycle. Collects for real; nothing is sent or kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from service.adapters.store import SqliteStore
from service.config import Settings
from service.domain.points import StoredSample
from service.domain.runs import Run
from service.domain.samples import Kind, Sample
from service.once import chosen, look
from service.parts import build_jobs, edges
from service.pipeline.clock import SystemClock
from service.pipeline.run import Runner

Change = Literal["new", "gone", "changed", "same"]

# Tags that say how a series is doing, not which one it is.
_FLIPPING = ("status", "condition", "version")
_ENOUGH = 100_000
_RECENT = 20
_Key = tuple[str, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Line:
    """One series. ``value`` and ``status`` are None where it would not be sent, ``value_before`` where it was not."""

    change: Change
    metric: str
    tags: Mapping[str, str]
    value: float | None = None
    value_before: float | None = None
    status: str = ""
    status_before: str = ""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Line.__slots__} | {"tags": dict(self.tags)}


@dataclass(frozen=True, slots=True)
class Preview:
    """One collector's. ``before``: the id of the run that is compared with, None where there is none to compare."""

    run: Run
    before: str | None
    samples: Sequence[Sample] = ()
    lines: Sequence[Line] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "collector": self.run.job,
            "outcome": self.run.outcome,
            "errors": [str(fault) for fault in self.run.faults],
            "compared_with": self.before,
            "samples": [sample.as_json() for sample in self.samples],
            "differences": [line.as_json() for line in self.lines if line.change != "same"],
        }


async def preview(
    settings: Settings, environ: Mapping[str, str], names: Sequence[str] | None, tell: Callable[[str], None]
) -> list[Preview]:
    """Of the named collectors (None: all enabled ones). Works beside a daemon. Raises ConfigError or Unavailable."""
    wanted = chosen(settings, names)
    clock = SystemClock()
    found = []
    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        async with edges(settings, environ) as parts, anyio.create_task_group() as attempts:
            jobs = [job for job in build_jobs(settings, parts, store) if job.name in wanted]
            passed = await look(jobs, tell)
            runner = Runner(store, clock, attempts, stored=lambda: None, quota=parts.quota)
            for job, each in zip(jobs, passed.runs, strict=True):
                leaving = await runner.leaving(job, each.run, each.collected)
                before = await _last_cycle(store, job.name)
                stored = (await store.samples(before.id, 0, _ENOUGH))[0] if before else []
                lines = compared(leaving.samples, stored)
                found.append(Preview(each.run, before.id if before else None, leaving.samples, lines))
    finally:
        await store.close()
    return found


async def _last_cycle(store: SqliteStore, job: str) -> Run | None:
    """The last run that brought something."""
    runs = await store.runs(job, _RECENT)
    return next((run for run in runs if run.outcome and run.outcome.succeeded), None)


def compared(now: Iterable[Sample], before: Iterable[StoredSample]) -> list[Line]:
    """Series by series; of a distribution, whose values are events, each value that would go is new."""
    old = {_key(each.metric, each.kind, each.tags): each for each in before if each.kind is not Kind.DISTRIBUTION}
    lines = []
    for sample in now:
        status = sample.tags.get("status", "")
        known = old.pop(_key(sample.metric.name, sample.metric.kind, sample.tags), None)
        if known is None:
            lines.append(Line("new", sample.metric.name, sample.tags, sample.value, status=status))
            continue
        status_before = known.tags.get("status", "")
        is_same = (sample.value, status) == (known.value, status_before)
        change: Change = "same" if is_same else "changed"
        lines.append(Line(change, sample.metric.name, sample.tags, sample.value, known.value, status, status_before))
    lines += [
        Line("gone", each.metric, each.tags, value_before=each.value, status_before=each.tags.get("status", ""))
        for each in old.values()
    ]
    return lines


def _key(metric: str, kind: Kind, tags: Mapping[str, str]) -> _Key:
    return metric, kind.value, tuple(sorted((name, text) for name, text in tags.items() if name not in _FLIPPING))
