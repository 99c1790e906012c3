"""A run's samples as its page shows them: the collector's, and apart from them those of the daemon on its checks."""

from collections.abc import Sequence

from service.domain.delivery import StoredSample
from service.web.context import AppContext
from service.web.schemas import SampleView

_OWN = ("metta.infra.check.", "metta.infra.collector.")
_OF_A_VERDICT = ("status:", "condition:")  # which has a column of its own


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
    """The collector's and the daemon's samples of a run with ``text`` in metric or tags. Raises Unavailable."""
    collected, own, wanted = SamplePage(offset, limit), SamplePage(0, limit), text.lower()

    def add(samples: Sequence[StoredSample]) -> None:
        for each in samples:
            if wanted in " ".join((each.point.metric, *each.point.tags)).lower():
                (own if each.point.metric.startswith(_OWN) else collected).add(each)

    await context.store.outbox.read_samples(run_id, add)
    return collected, own
