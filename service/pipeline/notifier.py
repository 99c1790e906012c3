"""Changes of check states as Datadog events: one each, at most ten an hour, then one an hour that sums up the others.

What was notified last is in the store, so a restart repeats nothing; what could not be sent waits there, too. None of
this touches the points: the notifier has its own task, its own tries, and no way to fail anything else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import anyio
import structlog

from service.clock import Clock
from service.datadog.intake import Intake
from service.domain.alerts import Event, find_changes, format_change, format_summary
from service.domain.errors import Rejected, Unauthorized, Unavailable
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
        self._sent: list[datetime] = []  # events within the last hour
        self._unsettled: list[int] = []  # changes that are sent, but the store does not know yet
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
        looked = self._clock.monotonic()
        while True:
            self._news = anyio.Event()
            due, self._due = self._due, set()
            try:
                await self.notify(due)
            except Unavailable as error:
                self._due |= due
                log.error("changes of checks wait: the store is lost", reason=str(error))  # noqa: TRY400
            await self._clock.wait(self._news, _TICK)
            if self._clock.monotonic() - looked >= self._interval:
                looked = self._clock.monotonic()
                self._due |= self._seen

    async def notify(self, due: Iterable[str]) -> None:
        """Notes what changed in the checks of ``due``, sends what may be sent now. Raises Unavailable (the store)."""
        for name in sorted(due):
            if job := self._jobs().get(name):
                await self._record_changes(job)
        if not self.is_silent and self._clock.monotonic() >= self._not_before:
            await self._send_pending()

    async def _record_changes(self, job: Job) -> None:
        now, store = self._clock.now(), self._store.checks
        checks = await store.read(job.name)
        notified, revision = await store.notified(job.name)
        changes, current = find_changes(
            job.name,
            job.env,
            checks,
            notified,
            now,
            job.settings.max_age,
            notify_after=job.settings.notify_after,
            interval=timedelta(seconds=job.schedule.interval(now, job.settings.time_zone)),
        )
        if current != notified:
            await store.record_changes(job.name, [] if self.is_silent else changes, current, now, revision)

    async def _send_pending(self) -> None:
        await self._settle()
        now = self._clock.now()
        pending = await self._store.checks.pending_changes()
        if old := [each.id for each in pending if now - each.at > MAX_EVENT_AGE]:
            log.warning("changes of checks are dropped: too old for Datadog", changes=len(old))
            await self._settle(old)
        pending = [each for each in pending if now - each.at <= MAX_EVENT_AGE]
        self._sent = [at for at in self._sent if now - at < _HOUR]
        room = max(0, MAX_EVENTS - len(self._sent))
        for each in pending[:room]:  # in their order, so that no check's last event is of an earlier change
            event = format_change(each.change, self._page_url)
            if not await self._send(replace(event, at=max(event.at, now - MAX_EVENT_AGE)), [each.id]):
                return
            self._sent.append(now)
        if (others := pending[room:]) and len(self._sent) == MAX_EVENTS:
            event = format_summary([each.change for each in others], self._page_url, now)
            if await self._send(event, [each.id for each in others]):
                self._sent.append(now)

    async def _send(self, event: Event, ids: list[int]) -> bool:
        """Whether the next one can be tried now."""
        try:
            await self._intake.send_event(event)
        except (Unauthorized, Unavailable) as error:
            wait = error.retry_after if isinstance(error, Unavailable) else None
            pause = min(max(_MIN_PAUSE * 2**self._failures, wait or 0.0), _MAX_PAUSE)
            if not self._failures:
                log.warning("events wait; the points are not concerned", reason=str(error), next_try_in_seconds=pause)
            self._failures += 1
            self._not_before = self._clock.monotonic() + pause
            return False
        except Rejected as error:
            log.error("Datadog refused an event; it is dropped", title=event.title, reason=str(error))  # noqa: TRY400
        self._failures = 0
        await self._settle(ids)
        return True

    async def _settle(self, ids: Sequence[int] = ()) -> None:
        """While the store does not take what was sent, nothing more is, so that nothing is sent twice."""
        self._unsettled += ids
        if self._unsettled:
            await self._store.checks.settle_changes(self._unsettled)
            self._unsettled.clear()
