"""The running daemon: its signals and exit code, and how its parts start, change and end together.

It starts from the store outwards (whatever is claimed must be kept) and ends in the order of the path: no new runs,
the active ones get their time, what they stored is delivered, then the probes stop answering.
"""

import gc
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

import anyio
import structlog
from anyio.abc import TaskGroup

from service import __version__
from service.config.loader import Loaded
from service.config.logging import buffer
from service.config.masking import mask
from service.config.settings import Settings, differences, secret_values
from service.daemon import maintenance
from service.daemon.series_forecast import find_collisions
from service.daemon.webhook_runs import WebhookRuns
from service.daemon.wiring import Wiring, open_wiring, read_pushes
from service.domain.errors import ConfigError, Draining, Unavailable
from service.domain.runs import Actor, AuditEntry, Cause, Mode, Outcome, Run
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.job import Job
from service.pipeline.notifier import Notifier
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.web.app import create_app
from service.web.context import AppContext
from service.web.schemas import Info
from service.web.server import serve

log = structlog.get_logger(__name__)

# The pod's grace period is 45 s (k8s/); these leave some of it for the process to end.
_RUNS_TIMEOUT = 20.0
_DELIVERY_TIMEOUT = 12.0
_PINGS_TIMEOUT = 3.0
_STORE_PAUSE = 1.0
_PUSHES_PAUSE = 5.0

_SIGNAL = Actor("signal")

Loader = Callable[[], Loaded]


async def run_daemon(load: Loader, loaded: Loaded, environ: Mapping[str, str], announce: Callable[[str], None]) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. ``load`` reads the configuration anew for SIGHUP.

    Raises ConfigError when the port is taken, the state directory can't be used or another daemon holds it.
    """
    settings = loaded.settings
    for warning in (*loaded.warnings, *find_collisions(settings)):
        log.warning(warning)
    # Ours before uvicorn's, which would raise SIGTERM anew so that nothing drains; and open to the very end.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))
        async with open_wiring(settings, environ) as wiring:
            async with anyio.create_task_group() as tasks:
                daemon = Daemon(load, loaded, wiring, tasks)
                port = await daemon.start()
                url = f"http://{_reachable(settings.http.host)}:{port}/"
                log.info("ready", version=__version__, url=url, port=port, store=wiring.store.where)
                announce(url)
                async for each in signals:
                    if each == signal.SIGHUP:
                        await daemon.reload()
                    elif each == signal.SIGUSR1:
                        tasks.start_soon(daemon.trigger_all)  # it may wait for runs by webhook; signals must not
                    else:
                        break
                tasks.start_soon(daemon.watch_second_signal, signals)
                await daemon.drain(signal.Signals(each).name)
                tasks.cancel_scope.cancel()
            wiring.exit_code = int(daemon.is_hurried)
            log.info("ended")
    # The receiver's end brings back the default handlers: a signal that comes now would spoil the exit code.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return wiring.exit_code


def _reachable(host: str) -> str:
    """The host of an address that a person on this machine can open."""
    if host in ("*", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


class Daemon:
    """The parts of a running daemon. ``is_hurried``: a second signal ended the drain."""

    def __init__(self, load: Loader, loaded: Loaded, wiring: Wiring, tasks: TaskGroup) -> None:
        self.is_hurried = False
        self._load = load
        self._file = loaded.file
        settings = loaded.settings
        self._wiring = wiring
        self._clock, self._store = clock, store = wiring.clock, wiring.store
        self._tasks = tasks
        self._jobs: Sequence[Job] = ()
        self._slots = anyio.CancelScope()  # what makes new work: the timer and the heartbeat
        clients, credentials = wiring.clients, wiring.clients.credentials
        self._pings = maintenance.Pings(clients.http, tasks)
        self._forwarder = wiring.build_forwarder(settings)
        runner = Runner(
            store,
            clock,
            wiring.attempts,
            on_stored=self._forwarder.notify,
            on_begin=lambda run: self._ping(run, "/start"),
            on_end=self._run_ended,
        )
        self._scheduler = Scheduler(runner, store, clock, tasks)
        self._webhook_runs = WebhookRuns(clients.deliveries, self._scheduler, clock)
        jobs, interval = (lambda: self._scheduler.jobs), settings.datadog.heartbeat
        self._heartbeat = Heartbeat(jobs, store, clock, interval, self._forwarder.notify)
        page_url = settings.http.public_url
        self._notifier = Notifier(jobs, store, clients.intake, clock, interval=interval, page_url=page_url)
        self._web = AppContext(
            info=Info(
                name="infra-health",
                version=__version__,
                commit=wiring.environ.get("INFRA_HEALTH_COMMIT", "unknown"),
                started=clock.now(),
                env=settings.datadog.env,
                service=settings.datadog.service,
            ),
            settings=settings,
            clock=clock,
            store=store,
            scheduler=self._scheduler,
            forwarder=self._forwarder,
            intake=clients.intake,
            github=clients.github,
            log=buffer,
            token=credentials.write_token,
            read_token=credentials.read_token,
            webhook_secret=credentials.webhook_secret,
            deliveries=clients.deliveries,
            secrets=tuple(credentials),
            in_cluster=bool(wiring.environ.get("KUBERNETES_SERVICE_HOST")),
        )
        self._forwarder.on_settled = self._web.telemetry.points

    async def start(self) -> int:
        """Returns the port when the probes answer and the first slots have started. Raises ConfigError."""
        self._jobs = self._wiring.build_jobs(self._web.settings)
        is_open = self._store.is_prepared
        if is_open:
            await self._scheduler.load()
        http, tasks = self._web.settings.http, self._tasks
        port: int = await tasks.start(serve, create_app(self._web), http.host, http.port)
        tasks.start_soon(maintenance.refresh_secrets, self._clock, self._wiring.clients.credentials)
        tasks.start_soon(maintenance.recover_store, self._clock, self._store, self._forwarder)
        await self._begin() if is_open else tasks.start_soon(self._begin_later)
        _freeze_objects()
        return port

    async def _begin(self) -> None:
        """What needs the store, once its slots are loaded."""
        tasks = self._tasks
        tasks.start_soon(self._forwarder.run)
        if self._web.settings.datadog.events:
            tasks.start_soon(self._notifier.run)
        tasks.start_soon(maintenance.prune_store, self._clock, self._store, self._forwarder)
        if self._store.replicas:
            tasks.start_soon(maintenance.follow_replicas, self._clock, self._store.replicas, self._scheduler)
            tasks.start_soon(self._watch_pushes)
        await self._set_jobs(self._jobs)
        tasks.start_soon(self._run_slots)

    async def _begin_later(self) -> None:
        """A shared store may be away at the start: the probes answer, and nothing else is done."""
        with self._slots:
            while not self._scheduler.is_loaded:
                await self._clock.sleep(_STORE_PAUSE)
                with suppress(Unavailable):
                    if self._store.is_prepared:  # and this process one of its replicas: a run without one is nobody's
                        await self._scheduler.load()
            await self._begin()

    async def reload(self) -> None:
        """Takes over what can change in a running daemon; a wrong configuration changes nothing."""
        try:
            loaded = await anyio.to_thread.run_sync(self._load)
            if self._file and loaded.file is None:
                raise ConfigError(f"{self._file} is gone")
            mask(secret_values(loaded.settings))
            settings = _take_over(self._web.settings, loaded.settings)
            jobs = self._wiring.build_jobs(settings)
        except ConfigError as error:
            log.error("reload refused: the configuration before it holds", reason=str(error))  # noqa: TRY400 - all said
            self._web.reload_error = str(error)
            await self._audit("reload refused")
            return
        if left := differences(settings, loaded.settings):
            log.warning("these changes need a restart", changed=left)
        changed = differences(self._web.settings, settings)
        self._web.settings = settings
        self._web.reload_error = None
        self._web.info = self._web.info.model_copy(update={"env": settings.datadog.env})
        await self._set_jobs(jobs)
        self._web.cache.forget()
        log.info("configuration reloaded", changed=changed or "nothing")
        _freeze_objects()
        await self._audit("reload")

    async def trigger_all(self) -> None:
        """SIGUSR1: every enabled collector, now."""
        try:
            with suppress(Draining):
                await self._scheduler.trigger_all(Cause.SIGNAL, _SIGNAL)
        except Unavailable as error:
            log.error("SIGUSR1 starts no runs: the store is lost", reason=str(error))  # noqa: TRY400 - all said

    async def drain(self, signal_name: str) -> None:
        """No new slots; active runs end; what is stored is delivered, or stays stored."""
        log.info("draining", signal=signal_name, active=len(self._scheduler.active.runs()))
        self._slots.cancel()
        await self._scheduler.active.drain(_RUNS_TIMEOUT)
        if not await self._forwarder.flush(self._clock.monotonic() + _DELIVERY_TIMEOUT):
            state = self._forwarder.state
            log.warning("points stay stored for the next start", pending=state.pending, reason=state.trouble)
        await self._pings.flush(_PINGS_TIMEOUT)
        if self._store.trouble and not await self._store.recover():
            log.error("what is in memory is lost: the store can't be written", reason=self._store.trouble)

    async def watch_second_signal(self, signals: AsyncIterator[signal.Signals]) -> None:
        """A second SIGTERM or SIGINT ends the drain."""
        async for each in signals:
            if each in (signal.SIGTERM, signal.SIGINT):
                log.warning("ended at once by a second signal; what was not delivered stays stored")
                self.is_hurried = True
                self._tasks.cancel_scope.cancel()

    async def _set_jobs(self, jobs: Sequence[Job]) -> None:
        self._jobs, settings = jobs, self._web.settings
        self._web.telemetry.expect(settings.collectors)
        self._wiring.set_mode(settings, self._scheduler, self._forwarder)
        self._notifier.is_silent = settings.mode is Mode.SHADOW
        self._store.history_limits = {
            name: (each.failed_runs_history_limit, each.successful_runs_history_limit)
            for name, each in settings.collectors.items()
        }
        self._webhook_runs.set_jobs(jobs)
        # What was pushed to an earlier process that ended before it could read it.
        unread = []
        for job in jobs:
            with suppress(Unavailable):  # of a shared store; ``_watch_pushes`` reads them when it is back
                if job.settings.enabled and await read_pushes(job):
                    unread.append(job.name)
        await self._scheduler.set_jobs(jobs)
        for name in unread:
            log.info("a snapshot was pushed before the restart", collector=name)
            await self._scheduler.trigger_after(name, Cause.PUSH, Actor("a push before the restart"))

    async def _watch_pushes(self) -> None:
        """What waits for a first push has it when any replica took one."""
        while True:
            await self._clock.sleep(_PUSHES_PAUSE)
            for job in list(self._scheduler.jobs.values()):
                if job.settings.enabled and job.waits_for:
                    with suppress(Unavailable):
                        await read_pushes(job)

    def _run_ended(self, run: Run) -> None:
        self._web.telemetry.run_ended(run)
        self._notifier.check_soon(run.collector)
        # A run that gave way or was broken off by our own end says nothing of what it looked at.
        if run.outcome not in (None, Outcome.REPLACED, Outcome.CANCELLED, Outcome.INTERRUPTED):
            is_good = run.outcome.succeeded and self._forwarder.state.trouble is None
            self._ping(run, "" if is_good else "/fail")

    def _ping(self, run: Run, ending: maintenance.Ending) -> None:
        if run.cause is Cause.WEBHOOK:
            return  # who watches waits for the schedule's runs
        own = self._web.settings.collectors.get(run.collector)
        if url := (own and own.heartbeat_url) or self._web.settings.heartbeat_url:
            self._pings.send(url.get_secret_value(), ending, run.id)

    async def _audit(self, action: str) -> None:
        try:
            await self._store.runs.audit(AuditEntry(self._clock.now(), action, _SIGNAL))
        except Unavailable as error:
            log.error("the audit log can't be written", reason=str(error))  # noqa: TRY400 - the reason says it all

    async def _run_slots(self) -> None:
        with self._slots:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._scheduler.run)
                tasks.start_soon(self._heartbeat.run)
                tasks.start_soon(self._webhook_runs.run)


def _take_over(running: Settings, loaded: Settings) -> Settings:
    """``running`` with what a reload takes over of ``loaded``; the rest needs a restart."""
    datadog = {"env": loaded.datadog.env, "version": loaded.datadog.version}
    return running.model_copy(
        update={
            "collectors": loaded.collectors,
            "mode": loaded.mode,
            "shadow_prefix": loaded.shadow_prefix,
            "heartbeat_url": loaded.heartbeat_url,
            "datadog": running.datadog.model_copy(update=datadog),
        }
    )


def _freeze_objects() -> None:
    """Takes what lives as long as the daemon out of the garbage collector's rounds.

    With a thousand collectors a full round holds everything up for 40 to 70 ms; without these objects, for 10.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
