"""GitHub's limits."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The part of the pipeline's clock that waits here need."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Quota:
    """A primary limit of one resource (core, search, graphql), in points: at most ``limit`` until ``reset_at``."""

    limit: int
    remaining: int
    reset_at: datetime
    used: int
