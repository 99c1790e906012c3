"""What operators do, whether by HTTP or by signal: with what they see, the daemon behind the web's ``Operations``."""

from contextlib import suppress

import anyio
import structlog

from service.collectors.snapshot import Snapshot
from service.collectors.snapshot_validation import InvalidSnapshot
from service.domain.actions import Action
from service.domain.errors import Rejected, TooLarge, Unavailable
from service.domain.runs import Cause, Run
from service.pipeline import dispatch
from service.readings import DaemonReadings
from service.web.operations import (
    AlreadyRunning,
    BadSnapshot,
    Draining,
    Origin,
    SnapshotTooLarge,
    TakesNoSnapshots,
    TooManyRuns,
)
from service.web.views import RunView, Triggered

log = structlog.get_logger(__name__)

_MOST_ACTIVE = 8  # runs of one collector, as far as callers start them


class DaemonOperations(DaemonReadings):
    """Meets ``service.web.operations.Operations``."""

    async def trigger(self, name: str, origin: Origin) -> Triggered:
        self._job(name)
        # Under Forbid one is active at most; Allow and Replace would let a caller start any number.
        if (active := len(self._dispatcher.active(name))) >= _MOST_ACTIVE:
            raise TooManyRuns(name, active)
        try:
            run = self._start(name, Cause.HTTP, origin)
        except dispatch.AlreadyRunning as error:
            raise AlreadyRunning(error.run_id) from error
        except dispatch.Draining as error:
            raise Draining from error
        await self.record("trigger", name, origin, run.id)
        return Triggered(id=run.id, collector=name)

    async def trigger_all(self, origin: Origin) -> list[Triggered]:
        return await self.trigger_enabled(Cause.HTTP, origin)

    async def trigger_enabled(self, cause: Cause, origin: Origin) -> list[Triggered]:
        """Starts every enabled collector that is not running under Forbid."""
        triggered = []
        for job in list(self._dispatcher.jobs.values()):
            active = self._dispatcher.active(job.name)
            if not job.enabled:
                continue
            if len(active) >= _MOST_ACTIVE:
                triggered.append(Triggered(id=active[-1].id, collector=job.name, started=False))
                continue
            try:
                run = self._start(job.name, cause, origin)
            except dispatch.AlreadyRunning as error:
                triggered.append(Triggered(id=error.run_id, collector=job.name, started=False))
            except dispatch.Draining as error:
                raise Draining from error
            else:
                triggered.append(Triggered(id=run.id, collector=job.name))
                await self.record("trigger", job.name, origin, run.id)
        return triggered

    async def push(self, name: str, body: bytes, key: str, origin: Origin) -> Triggered:
        collector = self._job(name).collector
        if not isinstance(collector, Snapshot):
            raise TakesNoSnapshots(name)
        try:
            kept = await collector.accept(body, key, self._clock.now())
        except InvalidSnapshot as error:
            bad = [{"where": fault.part, "what": fault.reason} for fault in error.faults]
            raise BadSnapshot(error.summary, bad, error.count) from error
        except TooLarge as error:
            raise SnapshotTooLarge(str(error)) from error
        except Rejected as error:
            raise BadSnapshot(str(error)) from error
        await self._store.remember(name, kept)
        try:
            run = self._dispatcher.follow(name, Cause.HTTP, origin.source)
        except dispatch.Draining as error:
            # What was stored is read by the first run after the restart.
            raise Draining from error
        await self.record("push", name, origin, run.id)
        return Triggered(id=run.id, collector=name)

    async def take_up_pushes(self) -> None:
        """Runs what was pushed to an earlier process that ended before it could. To be called once, at the start."""
        for name, job in self._dispatcher.jobs.items():
            # A run that is active began in this process, so it reads the pushed snapshot anyway.
            if isinstance(job.collector, Snapshot) and job.enabled and not self._dispatcher.active(name):
                with suppress(Unavailable):
                    if await job.collector.is_due():
                        log.info("a snapshot was pushed before the restart: it is taken up", collector=name)
                        self._dispatcher.follow(name, Cause.HTTP, "a push before the restart")

    async def pause(self, name: str, origin: Origin) -> None:
        await self._set_paused(name, True, origin)

    async def resume(self, name: str, origin: Origin) -> None:
        await self._set_paused(name, False, origin)

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        run = None
        with anyio.move_on_after(seconds):
            run = await self._dispatcher.wait(run_id)
        if run is None and any(run_id == active.id for active in self._dispatcher.all_active()):
            return None
        view = await self.run(run_id)
        return view if view and view.ended else None

    async def record(self, what: str, target: str, origin: Origin, run: str = "") -> None:
        """Keeps who did what when; an act that can't be kept is done all the same, and said in the log."""
        action = Action(self._clock.now(), what, target, origin.source, origin.actor or "", origin.reason or "", run)
        who = {"source": origin.source, "actor": origin.actor, "reason": origin.reason}
        # Of a trigger the run's own lines tell it: they carry who asked.
        tell = log.debug if run else log.info
        tell(what, target=target, **{name: value for name, value in who.items() if value})
        try:
            await self._store.act(action)
        except Unavailable as error:
            log.error("an action could not be kept", reason=str(error))  # noqa: TRY400 - the reason says it all

    def _start(self, name: str, cause: Cause, origin: Origin) -> Run:
        """Starts a run whose log lines say who asked for it and why: its task takes over this context."""
        asked = {"actor": origin.actor, "asked_because": origin.reason}
        with structlog.contextvars.bound_contextvars(**{key: text for key, text in asked.items() if text}):
            return self._dispatcher.trigger(name, cause, origin.source)

    async def _set_paused(self, name: str, paused: bool, origin: Origin) -> None:
        self._job(name)
        await self._store.set_paused(name, paused)
        self._dispatcher.set_paused(name, paused)
        await self.record("pause" if paused else "resume", name, origin)
