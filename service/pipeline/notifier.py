"""Changes of check states as Datadog events: one each, at most ten an hour, then one that says how many were held back.

What was notified last is in the store, so a restart repeats nothing; what could not be sent waits there, too. None of
this touches the points: the notifier has its own task, its own tries, and no way to fail anything else.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

import anyio
import structlog

from service.datadog.intake import Intake
from service.domain.alerts import Event, find_changes, format_change, format_summary
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.pipeline.clock import Clock
from service.pipeline.incidents import Incidents
from service.pipeline.job import Job
from service.store import Store

log = structlog.get_logger(__name__)

MAX_EVENTS = 10  # an hour, of one change each
MAX_EVENT_AGE = timedelta(hours=17)  # Datadog takes events of the last 18 hours
_HOUR = timedelta(hours=1)
_TICK = 60.0
_MIN_PAUSE, _MAX_PAUSE = 30.0, 600.0  # seconds between tries


class Notifier:
    """``jobs``: gives the configured ones. ``interval``: between looks at states, because values grow old between runs.

    ``page_url``: the address that events link to. ``is_silent``: shadow mode: states are noted, nothing is sent.
    """

    def __init__(
        self,
        jobs: Callable[[], Mapping[str, Job]],
        store: Store,
        intake: Intake,
        clock: Clock,
        *,
        interval: timedelta,
        page_url: str | None = None,
    ) -> None:
        self.is_silent = False
        self._jobs = jobs
        self._store = store
        self._intake = intake
        self._clock = clock
        self._interval = interval.total_seconds()
        self._page_url = page_url
        self._seen: set[str] = set()
        self._due: set[str] = set()
        self._news = anyio.Event()
        self._unsettled: list[tuple[list[int], bool]] = []  # sent, but the store does not know yet
        self._incidents = Incidents()
        self._failures = 0
        self._not_before = 0.0  # monotonic

    def check_soon(self, collector: str) -> None:
        """A run of ``collector`` ended. Before its first one nothing is said of it: a value that grew old while the
        daemon was down is no news."""
        self._seen.add(collector)
        self._due.add(collector)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; what is pending from an earlier process goes first."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            while True:
                self._news = anyio.Event()
                due, self._due = self._due, set()
                try:
                    await self.notify(due)
                    self._incidents.resolve("store")
                except Unavailable as error:
                    self._due |= due
                    if self._incidents.report("store", str(error), self._clock.now()):
                        log.error("changes of checks wait: the store is lost", reason=str(error))  # noqa: TRY400
                await self._news.wait()

    async def notify(self, due: Iterable[str]) -> None:
        """Notes what changed in the checks of ``due``, sends what may be sent now. Raises Unavailable (the store)."""
        for name in sorted(due):
            if job := self._jobs().get(name):
                await self._record_changes(job)
        if not self.is_silent and self._clock.monotonic() >= self._not_before:
            await self._send_pending()

    async def _tick(self) -> None:
        last = self._clock.monotonic()
        while True:
            await self._clock.sleep(_TICK)
            if self._clock.monotonic() - last >= self._interval:
                last = self._clock.monotonic()
                self._due |= self._seen
            self._news.set()

    async def _record_changes(self, job: Job) -> None:
        now, notifications = self._clock.now(), self._store.notifications
        checks = await self._store.runs.checks(job.name)
        notified = await notifications.notified(job.name)
        changes, states = find_changes(job.name, job.env, checks, notified, now, job.max_age)
        if states != notified:
            lost = await notifications.record(job.name, [] if self.is_silent else changes, states, now)
            if lost:
                log.warning("changes of checks are dropped: too many wait to be sent", changes=lost)

    async def _send_pending(self) -> None:
        await self._settle_sent()
        now, notifications = self._clock.now(), self._store.notifications
        pending = await notifications.pending()
        if old := [each.id for each in pending if now - each.at > MAX_EVENT_AGE]:
            await notifications.settle(old, None)
            log.warning("changes of checks are dropped: too old for Datadog", changes=len(old))
        pending = [each for each in pending if each.id not in set(old)]
        sent, had_summary = await notifications.sent_since(now - _HOUR)
        held = [each for each in pending if each.held]
        for each in [one for one in pending if not one.held]:
            # A check's changes are sent in their order: not one by itself while an older one is held back.
            if sent >= MAX_EVENTS or each.change.key in {one.change.key for one in held}:
                await notifications.hold([each.id])
                held.append(each)
                continue
            event = format_change(each.change, self._page_url)
            if not await self._send(replace(event, at=max(event.at, now - MAX_EVENT_AGE)), [each.id]):
                return
            sent += 1
        if held and not had_summary:
            event = format_summary([each.change for each in held], self._page_url, now)
            await self._send(event, [each.id for each in held], is_summary=True)

    async def _send(self, event: Event, ids: list[int], *, is_summary: bool = False) -> bool:
        """Whether the next one can be tried now."""
        try:
            await self._intake.send_event(event)
        except (Unauthorized, Unavailable) as error:
            self._failures += 1
            pause = min(_MIN_PAUSE * 2 ** (self._failures - 1), _MAX_PAUSE)
            if isinstance(error, Unauthorized):
                pause = _MAX_PAUSE
            elif error.retry_after:
                pause = max(pause, min(error.retry_after, _MAX_PAUSE))
            self._not_before = self._clock.monotonic() + pause
            if self._incidents.report("intake", str(error), self._clock.now()):
                log.warning("events wait; the points are not concerned", reason=str(error), next_try_in_seconds=pause)
            return False
        except Rejected as error:
            log.error("Datadog refused an event; it is dropped", title=event.title, reason=str(error))  # noqa: TRY400
            await self._store.notifications.settle(ids, None)
            return True
        self._unsettled.append((ids, is_summary))
        await self._settle_sent()
        if self._incidents.resolve("intake"):
            log.info("events are taken again")
        self._failures = 0
        return True

    async def _settle_sent(self) -> None:
        """While the store does not take what was sent, nothing more is, so that nothing is sent twice."""
        while self._unsettled:
            ids, is_summary = self._unsettled[0]
            await self._store.notifications.settle(ids, self._clock.now(), is_summary=is_summary)
            del self._unsettled[0]
