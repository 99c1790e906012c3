"""How a server can be asked to count, and which way it answers best. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

# Failures in a row after which a server is asked in a simpler way, for it may break on the question.
FAILURES = 2
_TRIES_BEST_AGAIN = 12  # cycles after which it is asked in the best way again: it may have been a passing trouble


class Way(IntEnum):
    """Of the repository's lists, of its search, of its search for numbers alone."""

    LISTED = 0
    SEARCHED = 1
    PLAIN = 2


@dataclass(slots=True)
class Style:
    """The best ``way`` in which the server answers. ``failures``: cycles in a row in which it did not.

    ``cycles``: how many were asked in another way than the best. ``has_worked``: the best one answered before.
    """

    way: Way = Way.LISTED
    failures: int = 0
    cycles: int = 0
    has_worked: bool = False

    def begin(self) -> None:
        """A cycle begins."""
        self.cycles += self.way is not Way.LISTED
        if self.cycles > _TRIES_BEST_AGAIN:
            self.way, self.cycles = Way.LISTED, 0

    @property
    def ways(self) -> list[Way]:
        """Those to try in this order. A server that answered the best one is asked no other for a passing trouble."""
        if self.has_worked and self.failures < FAILURES:
            return [Way.LISTED]
        return [way for way in Way if way >= self.way]

    def note_success(self) -> None:
        self.failures = 0
        self.has_worked = self.way is Way.LISTED

    def note_failure(self) -> None:
        self.failures += 1
        if self.failures > FAILURES:
            self.has_worked = False
            self.way = max(self.way, Way.SEARCHED)

    def dump(self) -> list[int]:
        return [self.way, self.failures, self.cycles, self.has_worked]


def load(state: Sequence[int]) -> Style:
    """What ``dump`` gave. Raises LookupError, TypeError or ValueError when it is something else."""
    way, failures, cycles, has_worked = state
    return Style(Way(way), failures, cycles, bool(has_worked))
