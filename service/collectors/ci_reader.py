"""Reads the list of a repository's runs: the window in every cycle, older ones in turn."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio

from service.adapters.github import Github, Quota
from service.collectors import ci_runs, ci_sweep
from service.collectors.ci_ask import Failure, gathered
from service.collectors.ci_lookup import RunLookup
from service.collectors.ci_memory import BEGINNING, Remembered
from service.collectors.ci_runs import PER_PAGE, Page
from service.collectors.ci_sweep import MARGIN, Coverage, Sweep
from service.collectors.ci_time_limits import WEEK, TimeLimits
from service.domain.errors import Rejected, Unavailable

T = TypeVar("T")
Params = Mapping[str, str | int]

# A page that moved on while it was read again is read once more; a list that outruns us for so long is not readable.
_GAPS = 10
_OUTRUN = "GitHub's list of runs changes faster than it can be read"
# Pages of runs, a megabyte each: more in flight are no faster, for they are read one by one, but take more memory.
_AT_ONCE = 8


class RunsReader:
    """Reads ``repo``'s runs, "on the branch" meaning ``branch``, for a window of the length ``window``.

    ``front``: pages of the window that the cycle read. First comes ``read``, then ``read_behind``.
    """

    def __init__(self, github: Github, repo: str, branch: str, window: timedelta) -> None:
        self._github = github
        self._runs = f"/repos/{repo}/actions/runs"
        self._lookup = RunLookup(github, repo, branch)
        self._branch = branch
        self._window = window
        self._at_once = anyio.CapacityLimiter(_AT_ONCE)
        self._week = BEGINNING
        self._pages: list[Page] = []
        self._reached = Coverage(0, None, gap=False)
        self._before: set[int] = set()
        self.front = 0

    async def read(self, known: Remembered, now: datetime) -> None:
        """Brings the window's runs up to date. Raises when they can't be read whole."""
        self._week = now - WEEK
        horizon = now - self._window - MARGIN
        self._before = set(ci_runs.latest_conclusive(known.runs.values()))
        if known.read_at is None or now - known.read_at > MARGIN:
            # Re-runs of old runs may have been missed meanwhile: all is swept again.
            known.sweep = Sweep(started=now)
            known.limits.deep = -1
            known.limits.was_whole = False
        recent = sum(run.created >= horizon for run in known.runs.values())
        arriving = recent * ((now - (known.read_at or now)) / (self._window + MARGIN))
        front = ci_sweep.front_pages(recent, arriving, known.total)
        self._pages = []
        for failure in await gathered([partial(self._read_page, number, self._pages) for number in front]):
            if failure is not None:
                raise failure
        self._reached = await self._complete(self._pages, horizon)
        self.front = len(self._pages)
        self._take_front(known, self._pages, self._reached, now)
        known.limits.trim(now)
        known.note_lost(self._before)

    def due(self, known: Remembered, now: datetime) -> int:
        """How many pages behind the window this cycle should read, so that the pass ends in time."""
        if known.sweep.is_first or self._is_all(now):
            return 0
        return len(ci_sweep.due_pages(known.sweep, self.front, known.total, now))

    async def read_behind(
        self, known: Remembered, now: datetime, pages: int, unfinished: int, patience: float = math.inf
    ) -> Failure | None:
        """Reads on behind the window. What went wrong, None when nothing did.

        ``pages``: how many of the pass. ``unfinished``: how many older runs that have not ended are asked for.
        ``patience``: seconds that a first sweep, which reads all at once, may take in this cycle.
        """
        horizon = now - self._window - MARGIN
        if self._is_all(now):
            self._note_depth(known, self._reached, now)
            known.sweep = Sweep(started=now, is_first=False)
            trouble = await self._read_some(known, now, 0, unfinished)
        elif known.sweep.is_first:
            trouble = await self._sweep_all(known, self._pages, self._reached, now, patience)
        else:
            trouble = await self._read_some(known, now, pages, unfinished)
        known.broken = known.broken + 1 if trouble and known.sweep.is_first else 0
        known.trim(horizon)
        known.limits.trim(now)
        known.note_lost(self._before)
        return trouble

    def _is_all(self, now: datetime) -> bool:
        """Whether no run behind the window's pages matters."""
        return self._reached.reaches(now - ci_sweep.depth(self._window))

    async def _read_some(self, known: Remembered, now: datetime, pages: int, unfinished: int) -> Failure | None:
        horizon = now - self._window - MARGIN
        deep: list[Page] = []
        due = ci_sweep.due_pages(known.sweep, self.front, known.total, now, pages) if pages else []
        open_runs = [run for run in known.runs.values() if run.conclusion is None and run.created < horizon]
        # Those that began last are the likeliest to end next.
        open_runs.sort(key=lambda run: run.started, reverse=True)
        failures = await gathered(
            [
                *(partial(self._read_page, number, deep, horizon) for number in ci_sweep.affordable(due, self._quota)),
                *(partial(self._lookup.read_again, run, known) for run in open_runs[:unfinished]),
            ]
        )
        if not self._is_all(now):
            await self._take_behind(known, deep, self._reached, now)
        return next((failure for failure in failures if failure is not None), None)

    @property
    def _quota(self) -> Quota | None:
        return self._github.quota.get("core")

    # The window

    async def _read_page(self, number: int, pages: list[Page], horizon: datetime | None = None) -> None:
        """Adds a page to ``pages``, in the order of the answers; of runs behind the window only what can matter."""
        params: Params = {"per_page": PER_PAGE, "exclude_pull_requests": "true", "page": number}
        read = partial(_page, number, self._branch, horizon, self._week)
        question = "runs" if horizon is None else "older runs"
        async with self._at_once:
            page = await self._github.get(self._runs, params, read=read, kept=horizon is None, question=question)
        pages.append(page)

    async def _complete(self, pages: list[Page], until: datetime) -> Coverage:
        """Reads on until ``pages`` hold every run created since ``until``."""
        gaps, most = 0, _GAPS + len(pages)
        while True:
            reached = ci_sweep.covered(pages)
            batch = min(2 * len(pages), ci_sweep.pages_until(pages, reached.oldest, until))
            numbers = ci_sweep.missing(pages, until, batch)
            if not numbers:
                break
            gaps += reached.gap
            if gaps > most:
                raise Unavailable(_OUTRUN)
            for failure in await gathered([partial(self._read_page, number, pages) for number in numbers]):
                if failure is not None:
                    raise failure
        if not reached.reaches(until):
            raise Rejected(f"the window holds more runs than GitHub lists ({PER_PAGE * len(pages)} read)")
        return reached

    def _take_front(self, known: Remembered, pages: Sequence[Page], reached: Coverage, now: datetime) -> None:
        known.take_pages(pages)
        oldest = BEGINNING if reached.below == 0 else reached.oldest or BEGINNING
        if known.since is None or (known.front is not None and oldest > known.front):
            known.restart(oldest)
        known.since = min(known.since or oldest, oldest)
        known.front = max((page.newest for page in pages if page.newest), default=known.front)
        known.read_at = now
        known.total = pages[-1].total

    # Behind the window

    async def _take_behind(self, known: Remembered, pages: Sequence[Page], front: Coverage, now: datetime) -> None:
        """Keeps what was read behind the window; what did not join what this pass had read is due again."""
        if known.sweep.is_first:
            await anyio.to_thread.run_sync(known.take_pages, pages)
        else:
            known.take_pages(pages)  # a few, and others use what is known meanwhile
        sweep = known.sweep
        above = front.below if sweep.below is None else min(sweep.below, front.below)
        until = now - ci_sweep.depth(self._window)
        known.sweep, reached = ci_sweep.advanced(sweep, pages, above, known.total, now, until)
        if sweep.is_first and not known.sweep.is_first:
            self._note_depth(known, reached, now)
        oldest = BEGINNING if reached.below == 0 else reached.oldest
        if oldest and known.since:
            known.since = min(known.since, oldest)

    def _note_depth(self, known: Remembered, reached: Coverage, now: datetime) -> None:
        """The first sweep ended: what is left to read of the runs that were run again within the week."""
        is_deep = reached.reaches(now - ci_sweep.depth(WEEK)) or ci_sweep.is_beyond(known.total, reached.below)
        known.limits.deep = None if is_deep else reached.below

    async def read_deep(self, known: Remembered, now: datetime, allowed: int) -> Failure | None:
        """Reads on, at most ``allowed`` pages, until all runs that may have been run again within the week are known.

        They matter to the jobs of the week alone.
        """
        above, until = known.limits.deep, now - ci_sweep.depth(WEEK)
        if above is None or above < 0:
            return None
        pages: list[Page] = []
        horizon = now - self._window - MARGIN
        trouble = None
        while trouble is None and len(pages) < allowed:
            batch = min(_AT_ONCE, allowed - len(pages))
            numbers = ci_sweep.missing(pages, until, batch, above, known.total)
            numbers = ci_sweep.affordable(numbers, self._quota)
            if not numbers:
                break
            failures = await gathered([partial(self._read_page, number, pages, horizon) for number in numbers])
            trouble = next((failure for failure in failures if failure is not None), None)
        for place in range(0, len(pages), _AT_ONCE):  # not in a thread: others use what is known meanwhile
            known.take_pages(pages[place : place + _AT_ONCE])
            await anyio.lowlevel.checkpoint()
        known.trim(horizon)
        known.limits.trim(now)
        reached = ci_sweep.covered(pages, above)
        is_end = reached.reaches(until) or ci_sweep.is_beyond(known.total, reached.below)
        known.limits.deep = None if is_end else reached.below
        return trouble

    async def _sweep_all(
        self, known: Remembered, front: Sequence[Page], reached: Coverage, now: datetime, patience: float
    ) -> Failure | None:
        """Reads all runs that can have been run again: at once, but with a small quota a page or two a cycle.

        It takes half of the time that the caller has; the next cycle goes on where it ended.
        """
        above = reached.below if known.sweep.below is None else min(known.sweep.below, reached.below)
        pages: list[Page] = []
        started = anyio.current_time()
        deadline = min(started + patience, (started + anyio.current_effective_deadline()) / 2)
        with anyio.CancelScope(deadline=deadline) as half:
            trouble = await self._read_behind(pages, front, above, known.total, now)
        await self._take_behind(known, pages, reached, now)
        return Unavailable("GitHub answers too slowly to read them in one run") if half.cancelled_caught else trouble

    async def _read_behind(
        self, pages: list[Page], front: Sequence[Page], above: int, total: int, now: datetime
    ) -> Failure | None:
        """Adds the pages from where ``above`` of ``total`` runs are left; what it stopped at, if not at the end."""
        until, horizon = now - ci_sweep.depth(self._window), now - self._window - MARGIN
        gaps, below = 0, sys.maxsize
        while True:
            reached, read = ci_sweep.covered(pages, above), [*front, *pages]
            oldest = reached.oldest or min((page.oldest for page in front if page.oldest), default=None)
            batch = min(2 * len(read), ci_sweep.pages_until(read, oldest, until))
            numbers = ci_sweep.missing(pages, until, batch, above, total)
            numbers = ci_sweep.affordable(numbers, self._quota)
            gaps, below = (gaps + 1 if reached.gap and reached.below >= below else 0), reached.below
            if not numbers:
                return None
            if gaps > _GAPS:
                return Unavailable(_OUTRUN)
            failures = await gathered([partial(self._read_page, number, pages, horizon) for number in numbers])
            trouble = next((failure for failure in failures if failure is not None), None)
            if trouble or ci_sweep.is_small(self._quota):
                return trouble


def _page(number: int, branch: str, horizon: datetime | None, week: datetime, payload: Any) -> Page:
    page = ci_runs.to_page(number, payload, branch)
    if horizon is None:
        return page
    kept = (
        run
        for run in page.runs
        if run.conclusion is None
        or run.started >= horizon
        or (run.on_branch and run.is_conclusive)
        or (run.updated >= week and TimeLimits.may_hold(run))
    )
    return replace(page, runs=tuple(kept))
