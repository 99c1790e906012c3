"""The running daemon: how its parts start, change and end together.

It starts from the store outwards (whatever is claimed must be kept) and ends in the order of the path: no new runs,
the active ones get their time, what they stored is delivered, then the probes stop answering.
"""

import gc
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from service import __version__
from service.collectors.github_ci.deliveries import Deliveries
from service.config.loader import Loaded
from service.config.logging import buffer
from service.config.masking import mask
from service.config.settings import differences, max_series_per_hour, secret_values, shadow_prefix
from service.daemon.maintenance import Maintenance
from service.daemon.pings import PingKind, Pings
from service.daemon.wiring import Clients, build_jobs, has_unread_push
from service.domain.errors import ConfigError
from service.domain.runs import Actor, AuditEntry, Cause, Mode, Outcome, Run
from service.pipeline.clock import Clock
from service.pipeline.forwarder import Forwarder
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.job import Job
from service.pipeline.notifier import Notifier
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.app import AppContext, create_app
from service.web.schemas import Info
from service.web.server import serve

log = structlog.get_logger(__name__)

# The pod's grace period is 45 s (k8s/); these leave some of it for the process to end.
_RUNS_TIMEOUT = 20.0
_DELIVERY_TIMEOUT = 12.0
_PINGS_TIMEOUT = 3.0

# What a reload takes over; the rest needs a restart.
_RELOADABLE = ("collectors.", "datadog.env", "datadog.version", "mode", "shadow_prefix", "heartbeat_url")
_SIGNAL = Actor("signal")

Loader = Callable[[], Loaded]


class Daemon:
    """The parts of a running daemon. ``is_hurried``: a second signal ended the drain."""

    def __init__(
        self,
        load: Loader,
        loaded: Loaded,
        environ: Mapping[str, str],
        clock: Clock,
        store: Store,
        clients: Clients,
        tasks: TaskGroup,
        attempts: TaskGroup,
    ) -> None:
        self.is_hurried = False
        self._load = load
        self._settings = settings = loaded.settings
        self._file = loaded.file
        self._clock = clock
        self._store = store
        self._clients = clients
        self._tasks = tasks
        self._slots = anyio.CancelScope()  # what makes new work: the timer and the heartbeat
        self._forwarder = Forwarder(
            store.outbox,
            clients.intake,
            clock,
            historical=settings.datadog.historical,
            max_series=max_series_per_hour(settings),
        )
        self._pings = Pings(clients.http, tasks)
        runner = Runner(
            store,
            clock,
            attempts,
            on_stored=self._forwarder.notify,
            on_begin=lambda run: self._ping(run, PingKind.START),
            on_end=self._run_ended,
        )
        self._scheduler = Scheduler(runner, store, clock, tasks)
        jobs, interval = (lambda: self._scheduler.jobs), settings.datadog.heartbeat
        self._heartbeat = Heartbeat(jobs, store, clock, interval, self._forwarder.notify)
        self._notifier = Notifier(
            jobs, store, clients.intake, clock, interval=interval, page_url=settings.http.public_url
        )
        self._web = AppContext(
            info=Info(
                name="infra-health",
                version=__version__,
                commit=environ.get("INFRA_HEALTH_COMMIT", "unknown"),
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
            token=clients.credentials.write_token,
            read_token=clients.credentials.read_token,
            webhook_secret=clients.credentials.webhook_secret,
            deliveries=Deliveries(clock),
            secrets=tuple(clients.credentials),
            in_cluster=bool(environ.get("KUBERNETES_SERVICE_HOST")),
        )
        self._forwarder.on_settled = self._web.telemetry.points
        self._maintenance = Maintenance(clock, store, self._forwarder, clients.credentials)

    async def start(self) -> int:
        """Returns the port when the probes answer and the first slots have started. Raises ConfigError."""
        await self._scheduler.load()
        jobs = build_jobs(self._settings, self._clients, self._store)
        http = self._settings.http
        port: int = await self._tasks.start(serve, create_app(self._web), http.host, http.port)
        self._tasks.start_soon(self._forwarder.run)
        if self._settings.datadog.events:
            self._tasks.start_soon(self._notifier.run)
        self._tasks.start_soon(self._maintenance.run)
        await self._set_jobs(jobs)
        self._tasks.start_soon(self._run_slots)
        _freeze_objects()
        return port

    async def reload(self) -> None:
        """Takes over what can change in a running daemon; a wrong configuration changes nothing."""
        try:
            loaded = await anyio.to_thread.run_sync(self._load)
            if self._file and loaded.file is None:
                raise ConfigError(f"{self._file} is gone")
            mask(secret_values(loaded.settings))
            jobs = build_jobs(loaded.settings, self._clients, self._store)
        except ConfigError as error:
            log.error("reload refused: the configuration before it holds", reason=str(error))  # noqa: TRY400 - all said
            self._web.reload_error = str(error)
            await self._audit("reload refused")
            return
        changed = differences(self._settings, loaded.settings)
        taken = {key: change for key, change in changed.items() if key.startswith(_RELOADABLE)}
        if left := {key: change for key, change in changed.items() if key not in taken}:
            log.warning("these changes need a restart", changed=left)
        self._settings = self._web.settings = loaded.settings
        self._web.reload_error = None
        self._web.info = self._web.info.model_copy(update={"env": loaded.settings.datadog.env})
        await self._set_jobs(jobs)
        self._web.cache.forget()
        log.info("configuration reloaded", changed=taken or "nothing")
        _freeze_objects()
        await self._audit("reload")

    async def trigger_all(self) -> None:
        """SIGUSR1: every enabled collector, now."""
        await self._scheduler.trigger_all(Cause.SIGNAL, _SIGNAL)

    async def drain(self, signal_name: str) -> None:
        """No new slots; active runs end; what is stored is delivered, or stays stored."""
        log.info("draining", signal=signal_name, active=len(self._scheduler.active()))
        self._slots.cancel()
        await self._scheduler.drain(_RUNS_TIMEOUT)
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
        settings = self._settings
        self._web.telemetry.expect(settings.collectors)
        self._scheduler.mode = self._store.mode = settings.mode
        self._notifier.is_silent = is_shadow = settings.mode is Mode.SHADOW
        self._forwarder.set_shadow(shadow_prefix(settings), is_withheld=is_shadow and settings.shadow_prefix is None)
        self._store.history_limits = {
            name: (each.failed_runs_history_limit, each.successful_runs_history_limit)
            for name, each in settings.collectors.items()
        }
        # What was pushed to an earlier process that ended before it could read it.
        unread = [job.name for job in jobs if job.enabled and await has_unread_push(job)]
        await self._scheduler.set_jobs(jobs)
        for name in unread:
            log.info("a snapshot was pushed before the restart", collector=name)
            await self._scheduler.trigger_after(name, Cause.PUSH, Actor("a push before the restart"))

    def _run_ended(self, run: Run) -> None:
        self._web.telemetry.run_ended(run)
        self._notifier.check_soon(run.collector)
        # A run that gave way or was broken off by our own end says nothing of what it looked at.
        if run.outcome not in (None, Outcome.REPLACED, Outcome.CANCELLED, Outcome.INTERRUPTED):
            is_good = run.outcome.succeeded and self._forwarder.state.trouble is None
            self._ping(run, PingKind.SUCCESS if is_good else PingKind.FAILURE)

    def _ping(self, run: Run, kind: PingKind) -> None:
        own = self._settings.collectors.get(run.collector)
        if url := (own and own.heartbeat_url) or self._settings.heartbeat_url:
            self._pings.send(url.get_secret_value(), kind, run.id)

    async def _audit(self, action: str) -> None:
        await self._store.runs.audit(AuditEntry(self._clock.now(), action, _SIGNAL))

    async def _run_slots(self) -> None:
        with self._slots:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._scheduler.run)
                tasks.start_soon(self._heartbeat.run)


def _freeze_objects() -> None:
    """Takes what lives as long as the daemon out of the garbage collector's rounds.

    With a thousand collectors a full round holds everything up for 40 to 70 ms; without these objects, for 10.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
