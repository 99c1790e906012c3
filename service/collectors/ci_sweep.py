"""Which pages of the list of runs to read, so that none is missed while the list moves. Pure.

The list is newest first and grows at its front, so a page number means other runs a moment later. What stays is how
many runs are older: a page read while there were ``total`` runs holds those that have from ``below`` to ``above`` - 1
older ones. Pages are read at once and answered in any order; they left none out exactly when these spans join, from
the front down. Where they don't, the page that now holds the missing place is read again. A deletion opens a gap alike.
(A run that comes and one that goes between two answers hide each other; what that hides, the next cycle reads.)

A re-run keeps its old place, so beyond the window all runs that may have been run again since it began (GitHub allows
that for 30 days) are swept in passes, a few pages a cycle, each pass within six hours.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from service.adapters.github import Quota
from service.collectors.ci_runs import PER_PAGE, Page

MARGIN = timedelta(hours=3)
RERUN_WITHIN = timedelta(days=30)
_PASS = timedelta(hours=5, minutes=30)  # half an hour is left for a cycle that fails
_LAST_PAGE = 390  # GitHub answers 422 beyond about 40,000 runs
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
_SMALL_QUOTA = 1000  # points an hour; whoever has fewer (60 without a token) can't read the whole list at once


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was read without a gap: all runs from the front but the ``below`` oldest.

    ``oldest``: created_at of the last run of it, None when no run was read. ``gap``: the list moved, so that a
    page must be read again to join the others.
    """

    below: int
    oldest: datetime | None
    gap: bool

    def reaches(self, until: datetime) -> bool:
        """Whether it holds every run created since ``until``."""
        return self.below == 0 or (self.oldest is not None and self.oldest < until)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A pass over the runs behind the window. ``below``: runs that it has not reached yet. ``done``: pages read.

    ``pages``: how many it will take. ``is_first``: no pass has been completed yet, so old re-runs may be unknown.
    """

    started: datetime
    below: int | None = None
    done: int = 0
    pages: int = 0
    is_first: bool = True


def covered(pages: Sequence[Page], above: int | None = None) -> Coverage:
    """How far ``pages``, in the order in which they came, reach without a gap: from the front, or from where ``above``
    runs are left."""
    last_shrunk = max(
        (place for place in range(1, len(pages)) if pages[place].total < pages[place - 1].total), default=0
    )
    if above is None and last_shrunk:
        return _joined(pages, last_shrunk)
    if above is None:
        above = max((page.above for page in pages if page.number == 1), default=0)
    below, oldest, gap = above, None, False
    for page in sorted(pages, key=lambda page: page.above, reverse=True):
        if page.above < below:
            gap = True
            break
        if page.below <= below:
            # A page without runs is the end, whatever the total says.
            below, oldest = (page.below if page.oldest else 0), page.oldest or oldest
    return Coverage(below, oldest, gap)


def _joined(pages: Sequence[Page], last_shrunk: int) -> Coverage:
    """The same for a list from which runs were deleted while it was read: spans from before and after can't be
    compared then, so each page must join another one that is reached."""
    reached = {place for place, page in enumerate(pages) if page.number == 1}
    fresh = list(reached)
    while fresh:
        upper = fresh.pop()
        found = [place for place in range(len(pages)) if place not in reached and _joins(pages, upper, place)]
        reached.update(found)
        fresh += found
    deepest = min((pages[place] for place in reached), key=_depth, default=None)
    if deepest is None:
        return Coverage(pages[-1].total, None, gap=True)
    if deepest.below == 0 or deepest.oldest is None:
        return Coverage(0, deepest.oldest, gap=False)
    # What goes on from here must be read from where the list is now.
    now = [pages[place] for place in reached if place >= last_shrunk]
    below = min(now, key=_depth).below if now else pages[-1].total
    return Coverage(below, deepest.oldest, gap=True)


def _joins(pages: Sequence[Page], upper: int, lower: int) -> bool:
    """Whether no run lies between the end of one page and the beginning of another, given their places in time."""
    if lower > upper:
        return pages[lower].above >= pages[upper].below
    # Runs that came since the lower page was read have pushed it down; runs that went may have lain behind it.
    grown = max(0, pages[upper].total - pages[lower].total)
    return PER_PAGE * (pages[lower].number - 1) + grown <= PER_PAGE * pages[upper].number


def _depth(page: Page) -> tuple[datetime, int]:
    return page.oldest or _BEFORE_ALL, page.below


def missing(
    pages: Sequence[Page], until: datetime, batch: int = 1, above: int | None = None, total: int = 0
) -> list[int]:
    """The pages to read next, at most ``batch``, until all runs created since ``until`` are there; none: they are.

    ``pages`` in the order in which they came. They begin where ``above`` runs are left of ``total``, else at the front.
    """
    reached = covered(pages, above)
    if reached.reaches(until) and (pages or above is not None):
        return []
    total = pages[-1].total if pages else total
    first = page_of(total, reached.below)
    last = min(last_page(total), _LAST_PAGE)
    if reached.gap:
        batch = 1
    return list(range(first, min(first + max(1, batch), last + 1)))


def page_of(total: int, below: int) -> int:
    """The page that begins with, or holds, the run that has ``below`` - 1 older ones."""
    return max(0, total - below) // PER_PAGE + 1


def last_page(total: int) -> int:
    return max(1, math.ceil(total / PER_PAGE))


def is_beyond(total: int, below: int) -> bool:
    """Whether the run that has ``below`` - 1 older ones is deeper than GitHub lists."""
    return page_of(total, below) > _LAST_PAGE


def front_pages(remembered: int, arriving: float, total: int) -> list[int]:
    """The pages that will hold the window: so many of its runs are remembered, so many have come since."""
    count = int(remembered + max(0.0, arriving)) // PER_PAGE + 1
    return list(range(1, min(count, last_page(total) if total else 1, _LAST_PAGE) + 1))


def due_pages(sweep: Sweep, front: int, total: int, now: datetime, count: int | None = None) -> list[int]:
    """The next ``count`` pages behind the ``front`` ones; without it, those due by now for this pass to end in time."""
    if count is None:
        count = math.ceil(max(1, sweep.pages) * max(0.0, (now - sweep.started) / _PASS)) - sweep.done
    first = front + 1 if sweep.below is None else max(front + 1, page_of(total, sweep.below))
    return list(range(first, min(first + count, last_page(total) + 1, _LAST_PAGE + 1)))


def is_small(quota: Quota | None) -> bool:
    return quota is not None and quota.limit < _SMALL_QUOTA


def allowance(quota: Quota | None) -> int:
    """How many questions the quota allows beside the urgent ones of the cycles until its reset."""
    if quota is None:
        return sys.maxsize
    reserve = quota.limit // 2 if is_small(quota) else quota.limit // 10
    return max(0, quota.remaining - reserve)


def affordable(pages: Sequence[int], quota: Quota | None) -> list[int]:
    """Those of the due ``pages`` that the quota allows now; of a small one two at most."""
    return list(pages[: min(allowance(quota), 2 if is_small(quota) else len(pages))])


def pages_until(pages: Sequence[Page], oldest: datetime | None, until: datetime) -> int:
    """About how many more pages lie between ``oldest`` and ``until``, by the time that each of ``pages`` spans."""
    spans = [page.newest - page.oldest for page in pages if page.newest and page.oldest]
    mean = sum(spans, timedelta(0)) / max(1, len(spans))
    if oldest is None or mean <= timedelta(0):
        return len(pages)
    return max(1, math.ceil((oldest - until) / mean))


def depth(window: timedelta) -> timedelta:
    """How old a run can be that was run again within the window, or since the pass before this one."""
    return RERUN_WITHIN + window + MARGIN + _PASS


def advanced(
    sweep: Sweep, pages: Sequence[Page], above: int, total: int, now: datetime, until: datetime
) -> tuple[Sweep, Coverage]:
    """The sweep after ``pages``, which begin where ``above`` of ``total`` runs are left; a new one past ``until``."""
    reached = covered(pages, above)
    done = sweep.done + len(pages)
    at_end = reached.below == 0 or is_beyond(total, reached.below)
    if at_end or (reached.oldest is not None and reached.oldest < until):
        return Sweep(started=now, pages=done, is_first=False), reached
    return replace(sweep, below=reached.below, done=done), reached
