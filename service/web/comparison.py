"""How what one run sent differs from what the run before it sent."""

from collections.abc import Iterable, Mapping, Sequence
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

Identity = tuple[str, tuple[tuple[str, str], ...]]


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
        return bool(self.before and self.after) and _tag(self.before, "status") != _tag(self.after, "status")


@dataclass(frozen=True, slots=True)
class Difference:
    """How a run differs from ``before``, the one that ended before it. ``is_whole``: all samples were compared."""

    before: str
    changes: Sequence[Change]
    is_whole: bool


async def compare_runs(store: Store, run: Run) -> Difference | None:
    """How an ended run differs from the one before; None where there is none. Raises Unavailable."""
    earlier = [each for each in await store.runs.list(run.collector, limit=10, before=run.id) if each.samples]
    if not run.ended or not earlier:
        return None
    before, total_before = await store.outbox.samples(earlier[0].id, 0, _MAX_COMPARED)
    after, total_after = await store.outbox.samples(run.id, 0, _MAX_COMPARED)
    changes = await anyio.to_thread.run_sync(find_changes, before, after)
    return Difference(earlier[0].id, changes, max(total_before, total_after) <= _MAX_COMPARED)


def find_changes(before: Iterable[StoredSample], after: Iterable[StoredSample]) -> list[Change]:
    """What is new, gone or has another value, status or condition; turned checks first, the daemon's own metrics last.

    Distributions are events that happen once, not values that change, and ages always change: both are left out.
    """
    old, new = _by_identity(before), _by_identity(after)
    found = [
        Change(identity[0], dict(identity[1]), old.get(identity), new.get(identity))
        for identity in {**new, **old}
        if _reading(old.get(identity)) != _reading(new.get(identity))
    ]
    return sorted(found, key=lambda change: (change.metric.startswith(_OWN), not change.is_turn))


def _by_identity(samples: Iterable[StoredSample]) -> dict[Identity, StoredSample]:
    found = {}
    for sample in samples:
        if sample.kind is not Kind.DISTRIBUTION and sample.point.metric != CHECK_AGE.name:
            tags = sorted((name, value) for name, value in sample.tags.items() if name not in _FLIPPING)
            found[sample.point.metric, tuple(tags)] = sample
    return found


def _reading(sample: StoredSample | None) -> object:
    return sample and (sample.point.value, *(_tag(sample, name) for name in _FLIPPING))


def _tag(sample: StoredSample | None, name: str) -> str | None:
    return sample.tags.get(name) if sample else None
