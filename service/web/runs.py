"""One run as pages and calls show it: its record, its log, its samples."""

from collections.abc import Mapping, Sequence

from pydantic import AliasPath, Field

from service.domain.delivery import StoredSample
from service.domain.runs import Run
from service.domain.samples import Evidence
from service.web.context import AppContext
from service.web.problems import unknown_run
from service.web.schemas import Instant, Log, RunView, View

_OWN = ("metta.infra.check.", "metta.infra.collector.")
_OF_A_VERDICT = ("status:", "condition:")  # which has a column of its own


class SampleView(View):
    """One sample as it was stored. ``delivery``: what became of it, with the ``reason`` when it was lost.

    ``evidence``: what was behind the value, what tells most (or is newest) first.
    """

    metric: str = Field(validation_alias=AliasPath("point", "metric"))
    value: float = Field(validation_alias=AliasPath("point", "value"))
    tags: Mapping[str, str]
    kind: str
    timestamp: Instant = Field(validation_alias="at")
    delivery: str = Field(validation_alias="status")
    reason: str = ""
    evidence: tuple[Evidence, ...] = Field((), validation_alias=AliasPath("point", "evidence"))


class Samples(View):
    """One page of a run's samples. ``total``: of the run; ``next``: the address of the page after, None at the end."""

    samples: Sequence[SampleView]
    total: int
    next: str | None = None


async def read_run(context: AppContext, run_id: str) -> RunView | None:
    """One run as of now, None where there is none (any more). Raises Unavailable."""
    run = await context.store.runs.run(run_id)
    if run is None:  # one that waits for others to end is not on record yet
        run = next((each for each in context.scheduler.active.runs() if each.id == run_id), None)
    return (await view_runs(context, [run]))[0] if run else None


async def view_runs(context: AppContext, runs: Sequence[Run]) -> list[RunView]:
    """Runs with what became of their samples. Raises Unavailable."""
    counts = await context.store.outbox.counts([run.id for run in runs])
    # What an active run has come to is not on record before its end.
    active = {run.id: run for run in context.scheduler.active.runs()}
    return [RunView.of(active.get(run.id, run), counts.get(run.id, {})) for run in runs]


async def read_forgotten(context: AppContext, run_id: str) -> RunView:
    """What is still known of a run whose record has had its time. Raises Problem 404."""
    found = await context.store.checks.cycle(run_id)
    if found is None:
        raise unknown_run(run_id)
    name, cycle = found
    return RunView(
        id=run_id,
        collector=name,
        cause="not kept any more",
        scheduled_at=None,
        started=cycle.started,
        ended=cycle.ended,
        outcome=cycle.outcome,
    )


async def read_run_log(context: AppContext, run_id: str) -> Log:
    """Once a run is stored, so are its lines; until then they are in memory."""
    return Log.model_validate({"lines": context.log.run_lines(run_id) or await context.store.runs.log(run_id)})


class SamplePage:
    """Some of ``total`` samples: so many as ``limit`` behind the first ``offset``."""

    def __init__(self, offset: int, limit: int) -> None:
        self.total = 0
        self._from, self._to = offset, offset + limit
        self._found: list[StoredSample] = []
        self._shared: set[str] = set()

    def add(self, sample: StoredSample) -> None:
        if self._from <= self.total < self._to:
            self._found.append(sample)
        if self.total:
            self._shared.intersection_update(sample.point.tags)
        else:
            self._shared = {tag for tag in sample.point.tags if not tag.startswith(_OF_A_VERDICT)}
        self.total += 1

    @property
    def tags(self) -> dict[str, str]:
        """Those that all of several samples have."""
        pairs = (tag.partition(":") for tag in sorted(self._shared))
        return {name: text for name, _, text in pairs} if self.total > 1 else {}

    @property
    def samples(self) -> Sequence[SampleView]:
        """Without the shared tags."""
        views, shared = [SampleView.model_validate(each) for each in self._found], self.tags
        return [
            view.model_copy(update={"tags": {name: text for name, text in view.tags.items() if name not in shared}})
            for view in views
        ]


async def read_sample_pages(
    context: AppContext, run_id: str, text: str, offset: int, limit: int
) -> tuple[SamplePage, SamplePage]:
    """The collector's samples of a run with ``text`` in metric or tags, and the daemon's own. Raises Unavailable."""
    collected, own, wanted = SamplePage(offset, limit), SamplePage(0, limit), text.lower()

    def add(samples: Sequence[StoredSample]) -> None:
        for each in samples:
            if wanted in " ".join((each.point.metric, *each.point.tags)).lower():
                (own if each.point.metric.startswith(_OWN) else collected).add(each)

    await context.store.outbox.read_samples(run_id, add)
    return collected, own
