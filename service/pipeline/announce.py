"""Tells changes of check states as events: one each, at most ten an hour, then one that says how many were held back.

What was told last is in the store, so a restart tells nothing anew; what could not be told waits there, too. None of
this touches the points: the announcer has its own task, its own tries, and no way to fail anything else.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import anyio
import structlog

from service.domain import changes
from service.domain.changes import Change, Event, Reported, WaitingChange
from service.domain.checks import Check, CheckKey
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.pipeline.job import Job
from service.pipeline.ports import Clock

log = structlog.get_logger(__name__)

MOST = 10  # single events
HOUR = timedelta(hours=1)
# Datadog takes events of the last 18 hours.
EXPIRES_AFTER = timedelta(hours=17)
_TICK = 60.0
_SHORTEST, _LONGEST, _REFUSED = 30.0, 600.0, 600.0  # seconds between tries


class Events(Protocol):
    """Where events go."""

    async def send(self, event: Event) -> None:
        """Returns when the event was taken. Raises Unavailable, Rejected or Unauthorized."""
        ...


class Checks(Protocol):
    """The checks as the runs left them."""

    async def checks(self, job: str) -> list[Check]: ...


class Shelf(Protocol):
    """What was told, and what waits to be told; durable."""

    async def reported(self, job: str) -> dict[CheckKey, Reported]: ...
    async def note(
        self, job: str, states: Mapping[CheckKey, Reported], changes: Iterable[Change], now: datetime
    ) -> int: ...
    async def waiting(self) -> list[WaitingChange]: ...
    async def hold(self, ids: Iterable[int]) -> None: ...
    async def settle(self, ids: Iterable[int], announced_at: datetime | None, *, is_summary: bool = False) -> None: ...
    async def announced(self, since: datetime) -> tuple[int, bool]: ...


class Announcer:
    """``jobs``: the configured ones. ``look_every``: how often states are looked at between runs, because values grow
    old. ``page``: the address that events link to. ``is_silent``: in shadow mode, states are noted and nothing is told.
    """

    def __init__(
        self,
        jobs: Callable[[], Mapping[str, Job]],
        checks: Checks,
        shelf: Shelf,
        events: Events,
        clock: Clock,
        look_every: timedelta,
        page: str | None = None,
    ) -> None:
        self.is_silent = False
        self._jobs = jobs
        self._checks = checks
        self._shelf = shelf
        self._events = events
        self._clock = clock
        self._look_every = look_every.total_seconds()
        self._page = page
        self._seen: set[str] = set()
        self._due: set[str] = set()
        self._news = anyio.Event()
        self._owed: list[tuple[list[int], datetime, bool]] = []  # told, but the store could not be told so
        self._failures = 0
        self._not_before = 0.0  # monotonic
        self._trouble: str | None = None
        self._store_trouble: str | None = None

    def ended(self, job: str) -> None:
        """A run of ``job`` ended. Before its first one this process says nothing of it: a value that grew old while
        the daemon was down is no news."""
        self._seen.add(job)
        self._due.add(job)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; what waits from an earlier process goes first."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            while True:
                self._news = anyio.Event()
                due, self._due = self._due, set()
                try:
                    await self.turn(due)
                    self._store_trouble = None
                except Unavailable as error:
                    self._due |= due
                    if self._store_trouble is None:
                        log.error("changes of checks wait: the store is lost", reason=str(error))  # noqa: TRY400
                    self._store_trouble = str(error)
                await self._news.wait()

    async def turn(self, due: Iterable[str]) -> None:
        """Notes what changed in the jobs named ``due`` and tells what may be told now. Raises Unavailable (store)."""
        for name in sorted(due):
            if job := self._jobs().get(name):
                await self._look(job)
        if not self.is_silent and self._clock.monotonic() >= self._not_before:
            await self._tell()

    async def _tick(self) -> None:
        last = self._clock.monotonic()
        while True:
            await self._clock.sleep(_TICK)
            if self._clock.monotonic() - last >= self._look_every:
                last = self._clock.monotonic()
                self._due |= self._seen
            self._news.set()

    async def _look(self, job: Job) -> None:
        now = self._clock.now()
        known = await self._checks.checks(job.name)
        told = await self._shelf.reported(job.name)
        found, states = changes.changed(job.name, job.origin.env, known, told, now, job.max_age)
        if self.is_silent:
            found = []
        if states != told:
            lost = await self._shelf.note(job.name, states, map(changes.with_evidence, found), now)
            if lost:
                log.warning("changes of checks are dropped untold: too many wait", changes=lost)

    async def _tell(self) -> None:
        await self._pay()
        now = self._clock.now()
        waiting = await self._shelf.waiting()
        if old := [each.id for each in waiting if now - each.at > EXPIRES_AFTER]:
            await self._shelf.settle(old, None)
            log.warning("changes of checks are dropped untold: too old for Datadog", changes=len(old))
        waiting = [each for each in waiting if now - each.at <= EXPIRES_AFTER]
        single, is_summed_up = await self._shelf.announced(now - HOUR)
        held = [each for each in waiting if each.held]
        for each in (one for one in waiting if not one.held):
            # A check's changes are told in their order: not one by itself while an older one is held back.
            if single >= MOST or each.change.key in {one.change.key for one in held}:
                await self._shelf.hold([each.id])
                held.append(each)
                continue
            event = changes.event_of(each.change, self._page)
            event = replace(event, at=max(event.at, now - EXPIRES_AFTER))
            if not await self._send(event, [each.id], is_summary=False):
                return
            single += 1
        if held and not is_summed_up:
            event = changes.event_of_held([each.change for each in held], self._page, now)
            await self._send(event, [each.id for each in held], is_summary=True)

    async def _send(self, event: Event, ids: list[int], *, is_summary: bool) -> bool:
        """Whether the next one can be tried now."""
        try:
            await self._events.send(event)
        except Unauthorized as error:
            self._put_off(_REFUSED, str(error))
            return False
        except Rejected as error:
            log.error("Datadog refused an event; it is dropped", title=event.title, reason=str(error))  # noqa: TRY400
            await self._shelf.settle(ids, None)
            return True
        except Unavailable as error:
            self._failures += 1
            pause = min(_SHORTEST * 2 ** (self._failures - 1), _LONGEST)
            self._put_off(max(pause, min(error.retry_after or 0.0, _LONGEST)), str(error))
            return False
        self._owed.append((ids, self._clock.now(), is_summary))
        await self._pay()
        if self._trouble:
            log.info("events are taken again")
        self._failures, self._trouble = 0, None
        return True

    async def _pay(self) -> None:
        """Settles what was told; while the store does not take that, nothing more is told, so nothing is told twice."""
        while self._owed:
            ids, at, is_summary = self._owed[0]
            await self._shelf.settle(ids, at, is_summary=is_summary)
            del self._owed[0]

    def _put_off(self, seconds: float, reason: str) -> None:
        self._not_before = self._clock.monotonic() + seconds
        if self._trouble != reason:
            log.warning("events wait; the points are not concerned", reason=reason, next_try_in_seconds=seconds)
        self._trouble = reason
