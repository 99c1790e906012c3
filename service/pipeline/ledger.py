"""What becomes of points: counted, told in the log, and owed to the store until it is written there."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import anyio
import structlog

from service.domain.points import LOST, Fate, Point
from service.pipeline.ports import Clock, Outbox

log = structlog.get_logger(__name__)

_SHOWN = 5  # reasons or metrics in one log line
_HOUR = 3600.0  # seconds


class Ledger:
    """Counts are of points since the start; ``waiting`` is as of the last look at the outbox.

    ``observe``: told the fate of points and how many they are.
    """

    def __init__(self, outbox: Outbox, clock: Clock, observe: Callable[[Fate, int], None] | None = None) -> None:
        self.waiting = 0
        self._outbox = outbox
        self._clock = clock
        self._observe = observe
        self._fates: Counter[Fate] = Counter()
        self._owed: deque[tuple[list[int], Fate, str]] = deque()
        self._refusals: Counter[str] = Counter()
        self._tell_held_from = 0.0  # monotonic

    @property
    def accepted(self) -> int:
        """By the intake."""
        return self._fates[Fate.DELIVERED]

    @property
    def lost(self) -> Mapping[Fate, int]:
        return {fate: self._fates[fate] for fate in LOST if self._fates[fate]}

    def account(self, fate: Fate, points: int) -> None:
        """Counts points that came to ``fate``, here or elsewhere."""
        self._fates[fate] += points
        if self._observe:
            self._observe(fate, points)

    async def settle(self, points: Sequence[Point], fate: Fate, reason: str = "") -> None:
        """Raises Unavailable when the store can't take it now; then it is owed."""
        self._owed.append(([point.id for point in points], fate, reason))
        if fate is not Fate.WAITING:
            self.account(fate, len(points))
            self.waiting = max(0, self.waiting - len(points))
        if fate is Fate.UNCERTAIN:
            log.warning("points were sent without an answer and are not sent again", points=len(points), reason=reason)
        await self.pay()

    async def pay(self) -> None:
        """Writes what the store still owes to the answers that came; before that nothing else may be sent."""
        # The answer can't be asked for twice, so neither cancellation nor a store that is away may lose it.
        with anyio.CancelScope(shield=True):
            while self._owed:
                await self._outbox.settle(*self._owed[0])
                self._owed.popleft()

    async def set_aside(self, points: Sequence[Point], reason: str) -> None:
        """Of points that the intake does not take as they are."""
        for point in points:
            self._refusals[f"{point.metric}: {reason}"] += 1
        await self.settle(points, Fate.REJECTED, reason)

    async def hold_back(self, points: Sequence[Point], most: int | None) -> None:
        """Of points whose series are more than ``most`` an hour. Told once an hour: the same come with each run."""
        await self.settle(points, Fate.HELD_BACK, f"more than {most} series within an hour")
        if self._clock.monotonic() >= self._tell_held_from:
            self._tell_held_from = self._clock.monotonic() + _HOUR
            worst = Counter(point.metric for point in points).most_common(_SHOWN)
            log.error("too many series: points are held back", most=most, points=dict(worst))

    def tell_refusals(self) -> None:
        """Those since the last time, in one line."""
        if self._refusals:
            shown = dict(self._refusals.most_common(_SHOWN))
            log.warning("points were refused and set aside", points=self._refusals.total(), reasons=shown)
            self._refusals.clear()
