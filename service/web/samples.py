"""A run's samples as its page shows them: the collector's, and apart from them those of the daemon on its checks."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread

from service.domain.delivery import StoredSample
from service.web.context import AppContext
from service.web.schemas import SampleView

_OWN = ("metta.infra.check.", "metta.infra.collector.")
_ALL = 2**31  # what is shared, and how many match, is known once all are read


@dataclass(frozen=True, slots=True)
class SamplePage:
    """Some of ``total`` samples. ``tags``: those that all of them have, which the samples shown here lack."""

    samples: Sequence[SampleView]
    total: int
    tags: dict[str, str]

    @classmethod
    def of(cls, samples: Sequence[StoredSample], offset: int, limit: int) -> "SamplePage":
        shared = set(samples[0].point.tags) if len(samples) > 1 else set()
        for each in samples:
            shared.intersection_update(each.point.tags)
        # A verdict has a column of its own.
        pairs = (tag.partition(":") for tag in sorted(shared))
        tags = {name: text for name, _, text in pairs if name not in ("status", "condition")}
        views = [SampleView.model_validate(each) for each in samples[offset : offset + limit]]
        shown = [
            view.model_copy(update={"tags": {name: text for name, text in view.tags.items() if name not in tags}})
            for view in views
        ]
        return cls(shown, len(samples), tags)


async def read_sample_pages(
    context: AppContext, run_id: str, text: str, offset: int, limit: int
) -> tuple[SamplePage, SamplePage]:
    """The collector's and the daemon's samples of a run with ``text`` in metric or tags. Raises Unavailable."""
    every, _ = await context.store.outbox.samples(run_id, 0, _ALL)

    def work() -> tuple[SamplePage, SamplePage]:
        wanted = text.lower()
        found = [each for each in every if wanted in " ".join((each.point.metric, *each.point.tags)).lower()]
        own = [each for each in found if each.point.metric.startswith(_OWN)]
        collected = [each for each in found if not each.point.metric.startswith(_OWN)]
        return SamplePage.of(collected, offset, limit), SamplePage.of(own, 0, limit)

    return await anyio.to_thread.run_sync(work, limiter=context.threads)
