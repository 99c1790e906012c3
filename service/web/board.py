"""What the pages show beyond the API: the board of checks and their history, the quota's forecast, what changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.domain.difference import Change
from service.domain.history import Cell, Cycle, Hour
from service.web.check_views import CheckView
from service.web.views import Check, DeliveryView, Instant, RunView, View


@dataclass(frozen=True, slots=True)
class CheckBoard:
    """One check. ``id``: its name in addresses; ``cells``: one for each cycle of its collector, None where it had none."""

    id: str
    view: CheckView
    cells: Sequence[Cell | None]
    hours: Sequence[Hour]


@dataclass(frozen=True, slots=True)
class CollectorBoard:
    """One collector. ``cycles``: oldest first; ``stamp`` changes with each cycle."""

    name: str
    stamp: int
    cycles: Sequence[Cycle]
    checks: Sequence[CheckBoard]


class QuotaView(View):
    """GitHub's primary limit of one resource. ``left_at_reset`` and ``empty_at``: if it is spent on as it was."""

    resource: str
    limit: int
    remaining: int
    reset_at: Instant
    left_at_reset: int
    empty_at: Instant | None = None


class CollectorCounts(View):
    total: int
    failing: int
    running: int
    paused: int


class CheckCounts(View):
    passing: int = 0
    failing: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        return self.passing + self.failing + self.unknown


class NextRun(View):
    collector: str
    at: Instant


class State(View):
    """The daemon at a glance. ``revision`` changes when anything does that the pages show; ``active``: runs under way
    (the first twenty); ``warnings``: what /readyz warns of.
    """

    now: Instant
    revision: str
    collectors: CollectorCounts
    checks: CheckCounts
    active: Sequence[str]
    next_run: NextRun | None
    delivery: DeliveryView
    quota: Sequence[QuotaView]
    warnings: Sequence[Check]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a run differs from ``before``, the one that ended before it. ``is_whole``: all of its samples were compared."""

    before: str
    changes: Sequence[Change]
    is_whole: bool


class Board(Protocol):
    """Where the store is needed and lost, ``Unavailable`` is raised."""

    @property
    def web_hosts(self) -> frozenset[str]:
        """The hosts whose addresses may become links."""
        ...

    async def collectors(self, names: Iterable[str] | None = None) -> list[CollectorBoard]:
        """The boards of these collectors (all that are configured), in the configured order."""
        ...

    def quota(self) -> Sequence[QuotaView]: ...

    async def difference(self, run: RunView) -> Difference | None:
        """How an ended run differs from the one before; None where there is none."""
        ...

    async def state(self) -> State: ...
