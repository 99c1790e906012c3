"""How what one run sent differs from what the run before it sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import anyio

from service.domain.checks import CHECK_AGE
from service.domain.delivery import StoredSample
from service.domain.runs import Run
from service.domain.samples import Kind
from service.store import Store

# These flip, so they don't tell one thing measured from another.
_FLIPPING = ("status", "condition", "version")
_OWN = "metta.infra.collector."
_MAX_COMPARED = 5_000  # samples of a run

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], StoredSample]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing measured, before and after; None where it was not sent."""

    metric: str
    tags: Mapping[str, str]
    before: StoredSample | None
    after: StoredSample | None

    @property
    def is_turn(self) -> bool:
        """Whether the check says something else now."""
        both = self.before and self.after
        return bool(both) and _tags(self.before)["status"] != _tags(self.after)["status"]


async def compare_runs(store: Store, run: Run) -> tuple[str, list[Change]] | None:
    """The run before an ended one, and what changed; None where there is none. Raises Unavailable."""
    earlier = [each for each in await store.runs.list(run.collector, limit=10, before=run.id) if each.samples]
    if not run.ended or not earlier:
        return None
    before, _ = await store.outbox.samples(earlier[0].id, 0, _MAX_COMPARED)
    after, _ = await store.outbox.samples(run.id, 0, _MAX_COMPARED)
    return earlier[0].id, await anyio.to_thread.run_sync(find_changes, before, after)


def find_changes(before: Iterable[StoredSample], after: Iterable[StoredSample]) -> list[Change]:
    """What is new, gone or has another value, status or condition; turned checks first, the daemon's own metrics last.

    Distributions are events that happen once, not values that change, and ages always change: both are left out.
    """
    old, new = _by_identity(before), _by_identity(after)
    changes = [
        Change(identity[0], dict(identity[1]), old.get(identity), new.get(identity))
        for identity in {**new, **old}
        if _reading(old.get(identity)) != _reading(new.get(identity))
    ]
    return sorted(changes, key=lambda change: (change.metric.startswith(_OWN), not change.is_turn))


def _by_identity(samples: Iterable[StoredSample]) -> Samples:
    found: Samples = {}
    for sample in samples:
        if sample.kind is not Kind.DISTRIBUTION and sample.point.metric != CHECK_AGE.name:
            tags = sorted((name, value) for name, value in sample.tags.items() if name not in _FLIPPING)
            found[sample.point.metric, tuple(tags)] = sample
    return found


def _reading(sample: StoredSample | None) -> object:
    return sample and (sample.point.value, _tags(sample))


def _tags(sample: StoredSample | None) -> dict[str, str | None]:
    tags = sample.tags if sample else {}
    return {name: tags.get(name) for name in _FLIPPING}
