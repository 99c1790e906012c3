"""What the pages show beyond the API: the board of checks and their history, the quota's forecast, what changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Protocol, Self

import orjson

from service.domain.difference import Change
from service.domain.history import CheckHistory, Cycle
from service.web.check_views import CheckView
from service.web.views import Check, CollectorView, DeliveryView, Health, Instant, RunView, View
from service.web.words import is_failing

_MOST_ACTIVE = 20


@dataclass(frozen=True, slots=True)
class CheckBoard:
    """One check. ``id``: its number, which stands in addresses as hexadecimal."""

    id: int
    view: CheckView


@dataclass(frozen=True, slots=True)
class CollectorBoard:
    """One collector. ``stamp`` changes with each cycle."""

    name: str
    stamp: int
    checks: Sequence[CheckBoard]


@dataclass(frozen=True, slots=True)
class Past:
    """What charts are drawn from. ``cycles``: by collector, oldest first; ``checks``: by the check's id."""

    cycles: Mapping[str, Sequence[Cycle]]
    checks: Mapping[int, CheckHistory]


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

    @classmethod
    def of(
        cls,
        now: datetime,
        collectors: Sequence[CollectorView],
        boards: Sequence[CollectorBoard],
        *,
        active: Iterable[str],
        delivery: DeliveryView,
        quota: Sequence[QuotaView],
        ready: Health,
    ) -> Self:
        statuses = [check.view.status for board in boards for check in board.checks]
        coming = [(each.next_run, each.name) for each in collectors if each.next_run]
        state = cls(
            now=now,
            revision="",
            collectors=CollectorCounts(
                total=len(collectors),
                failing=sum(is_failing(each) for each in collectors),
                running=sum(each.running is not None for each in collectors),
                paused=sum(each.paused for each in collectors),
            ),
            checks=CheckCounts(
                passing=statuses.count("pass"), failing=statuses.count("fail"), unknown=statuses.count("unknown")
            ),
            active=sorted(active)[:_MOST_ACTIVE],
            next_run=NextRun(collector=min(coming)[1], at=min(coming)[0]) if coming else None,
            delivery=delivery,
            quota=quota,
            warnings=[check for check in ready.checks if check.status != "ok"],
        )
        stamps = [[board.name, board.stamp] for board in boards] + [each.name for each in collectors if each.paused]
        shown = state.model_dump_json(exclude={"now", "revision", "next_run"}).encode() + orjson.dumps(stamps)
        return state.model_copy(update={"revision": blake2b(shown, digest_size=8).hexdigest()})


@dataclass(frozen=True, slots=True)
class Difference:
    """How a run differs from ``before``, the one that ended before it. ``is_whole``: all samples were compared."""

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

    async def past(self, boards: Iterable[CollectorBoard], picked: Iterable[tuple[CollectorBoard, CheckBoard]]) -> Past:
        """The last cycles of these collectors and the history of these checks: of a thousand only some are drawn."""
        ...

    def quota(self) -> Sequence[QuotaView]: ...

    async def left(self, run_id: str) -> RunView | None:
        """What is still known of a run whose record has had its time."""
        ...

    async def difference(self, run: RunView) -> Difference | None:
        """How an ended run differs from the one before; None where there is none."""
        ...

    async def state(self) -> State: ...
