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

    ``cycles``: how many were asked in another way than the best.
    """

    way: Way = Way.LISTED
    failures: int = 0
    cycles: int = 0

    def begin(self) -> None:
        """A cycle begins."""
        self.cycles += self.way is not Way.LISTED
        if self.cycles > _TRIES_BEST_AGAIN:
            self.way, self.cycles = Way.LISTED, 0

    def note_failure(self) -> None:
        self.failures += 1
        if self.failures > FAILURES and self.way is Way.LISTED:
            self.way = Way.SEARCHED

    def dump(self) -> list[int]:
        return [self.way, self.failures, self.cycles]


def load(state: Sequence[int]) -> Style:
    """What ``dump`` gave. Raises LookupError, TypeError or ValueError when it is something else."""
    way, failures, cycles = state
    return Style(Way(way), failures, cycles)
