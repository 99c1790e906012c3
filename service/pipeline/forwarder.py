"""From the outbox to the intake: one request at a time, and what is done at each of its answers."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from service.datadog.intake import Intake
from service.domain.delivery import DeliveryStatus
from service.pipeline.clock import Clock
from service.store.outbox import Outbox


@dataclass(frozen=True, slots=True)
class ForwarderState:
    """What pages and probes show. ``pending``: points, as of the last try. ``counts``: points by what became of them.

    ``trouble``: why nothing can be delivered now, None while it can. ``next_try_at``: None when nothing is to be tried.
    ``is_withheld``: shadow mode, in which nothing is sent.
    """

    pending: int
    counts: Mapping[DeliveryStatus, int]
    last_accepted_at: datetime | None
    trouble: str | None
    next_try_at: datetime | None
    is_withheld: bool

    @property
    def lost(self) -> Mapping[DeliveryStatus, int]:
        """Points that were lost since the start; those that shadow mode withheld are no loss."""
        raise NotImplementedError


class Forwarder:
    """Sends what is pending in ``outbox``, one request at a time.

    ``linger``: seconds to wait after ``notify``, so that collectors that end together share a request.
    ``max_series``: how many series an hour are sent at most, None for all. ``historical``: how the names of metrics
    begin that the intake takes at any age. ``on_settled``: told each status and number of points. ``jitter``: gives a
    number between two others.
    """

    on_settled: Callable[[DeliveryStatus, int], None]

    def __init__(
        self,
        outbox: Outbox,
        intake: Intake,
        clock: Clock,
        *,
        historical: Sequence[str] = (),
        max_series: int | None = None,
        linger: float = 2.0,
        jitter: Callable[[float, float], float] | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def state(self) -> ForwarderState:
        raise NotImplementedError

    def set_shadow(self, prefix: str | None, is_withheld: bool) -> None:
        """``prefix``: put before the names of what was collected in shadow mode; ``is_withheld``: it is not sent."""

    def count(self, status: DeliveryStatus, points: int) -> None:
        """Counts points that came to ``status`` elsewhere (the store)."""

    def notify(self) -> None:
        """There is something new in the outbox."""

    async def run(self) -> None:
        """Delivers until it is cancelled, what an earlier process left over first."""

    async def flush(self, until: float) -> bool:
        """Sends all that is pending and tells whether nothing is any more; ends at the monotonic time ``until``."""
        raise NotImplementedError

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Between two requests: no chunk is under way meanwhile."""
        yield
