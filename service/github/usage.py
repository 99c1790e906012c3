"""Tallies of GitHub requests and quota points: what callers have spent, and what they may. They nest, across tasks."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.domain.errors import Unavailable


class Spent(Unavailable):
    """The caller has spent what it may: see ``count_usage``. GitHub was not asked."""


@dataclass(slots=True)
class Usage:
    """Requests, and quota points (a 304 is free) by resource: core, search, graphql. ``limit``: of all points.

    What is under way is counted as a point.
    """

    limit: float = math.inf
    requests: int = 0
    points: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> float:
        return self.limit - self.points.total()


_usages: ContextVar[tuple[Usage, ...]] = ContextVar("usages", default=())


def points_left() -> float:
    """How many may still be spent here, see ``count_usage``."""
    return min((usage.left for usage in _usages.get()), default=math.inf)


@contextmanager
def count_usage(usage: Usage | None = None) -> Iterator[Usage]:
    """Counts what is asked of GitHub within, also by tasks that are started within (a cycle's tally).

    Once the limit of ``usage`` is spent, what else is asked within raises Spent. Tallies nest.
    """
    usage = usage or Usage()
    token = _usages.set((*_usages.get(), usage))
    try:
        yield usage
    finally:
        _usages.reset(token)


def take_point(resource: str) -> Sequence[Usage]:
    """The tallies, each a point further, for a request that is about to be made. Raises Spent."""
    if points_left() < 1:
        raise Spent("GitHub is not asked: it would cost more points than this run may spend")
    for usage in _usages.get():
        usage.points[resource] += 1
    return _usages.get()
