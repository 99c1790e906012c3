"""How what one run sent differs from what the run before sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.domain.checks import CHECK_AGE
from service.domain.points import StoredSample
from service.domain.samples import Kind

# These flip, so they don't tell one thing measured from another.
_FLIPPING = ("status", "condition", "version")

_OWN = "metta.infra.collector."

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
        return bool(self.before and self.after) and _status(self.before) != _status(self.after)


def changes(before: Iterable[StoredSample], after: Iterable[StoredSample]) -> list[Change]:
    """What is new, gone or has another value, status or condition; turned checks first, the daemon's own metrics last.

    Distributions are events that happen once, not values that change, and ages always change: both are left out.
    """
    old, new = _by_identity(before), _by_identity(after)
    found = [
        Change(identity[0], dict(identity[1]), old.get(identity), new.get(identity))
        for identity in {**new, **old}
        if _differ(old.get(identity), new.get(identity))
    ]
    return sorted(found, key=lambda change: (change.metric.startswith(_OWN), not change.is_turn))


def _by_identity(samples: Iterable[StoredSample]) -> dict[Identity, StoredSample]:
    return {_identity(sample): sample for sample in samples if _is_compared(sample)}


def _is_compared(sample: StoredSample) -> bool:
    return sample.kind is not Kind.DISTRIBUTION and sample.metric != CHECK_AGE.name


def _identity(sample: StoredSample) -> Identity:
    tags = ((name, value) for name, value in sample.tags.items() if name not in _FLIPPING)
    return sample.metric, tuple(sorted(tags))


def _differ(before: StoredSample | None, after: StoredSample | None) -> bool:
    if before is None or after is None:
        return True
    return before.value != after.value or any(before.tags.get(name) != after.tags.get(name) for name in _FLIPPING)


def _status(sample: StoredSample | None) -> str | None:
    return sample.tags.get("status") if sample else None
