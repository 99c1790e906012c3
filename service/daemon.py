"""The running daemon: how its parts are put together, and how they start, change and end.

It starts from the store outwards (whatever is claimed must be kept) and ends in the order of the path: no new runs,
the active ones get their time, what they stored is delivered, then the probes stop answering.
"""

import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from service import __version__, logs
from service.adapters.pings import Event, Pings
from service.adapters.store import SqliteStore
from service.config import Mode, most_series
from service.config_sources import Loaded
from service.config_view import differences, secret_values
from service.domain.errors import ConfigError
from service.domain.points import Fate
from service.domain.runs import Cause, Outcome, Run
from service.domain.samples import Sample
from service.operations import DaemonOperations
from service.parts import Edges, build_jobs, set_mode
from service.pipeline.announce import Announcer
from service.pipeline.deliver import Delivery
from service.pipeline.dispatch import Dispatcher
from service.pipeline.heartbeat import keep_beating
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.pipeline.reserve import Reserve
from service.pipeline.run import Runner
from service.pipeline.schedule import Timer
from service.upkeep import Upkeep
from service.web.metrics import Telemetry
from service.web.operations import Origin
from service.web.server import build_app, serve
from service.web.views import Info

log = structlog.get_logger(__name__)

# The pod's grace period is 45 s (k8s/base/deployment.yaml); these leave some of it for the process to end.
_RUNS_GET = 20.0
_DELIVERY_GETS = 12.0
_PINGS_GET = 3.0

# What a reload takes over; the rest needs a restart.
_RELOADED = ("collectors.", "datadog.env", "datadog.version", "mode", "shadow_prefix", "heartbeat_url")
_SIGNAL = Origin("signal")

Loader = Callable[[], Loaded]


class Daemon:
    """The parts of a running daemon and how they start, change and end together."""

    def __init__(
        self,
        load: Loader,
        loaded: Loaded,
        environ: Mapping[str, str],
        clock: Clock,
        store: SqliteStore,
        parts: Edges,
        tasks: TaskGroup,
        attempts: TaskGroup,
    ) -> None:
        self.hurried = False
        self._load = load
        self._settings = settings = loaded.settings
        self._file = loaded.file
        self._environ = environ
        self._clock = clock
        self._store = store
        self._parts = parts
        self._tasks = tasks
        self._slots = anyio.CancelScope()  # what makes new work: the timer and the heartbeat
        commit = environ.get("INFRA_HEALTH_COMMIT", "unknown")
        self._telemetry = Telemetry(version=__version__, commit=commit)
        self._reserve = reserve = Reserve(store)
        self._delivery = Delivery(
            reserve,
            parts.intake,
            clock,
            observe=self._telemetry.points,
            historical=settings.datadog.historical,
            max_series=most_series(settings),
        )
        # Points that are lost before the delivery sees them are counted with the others.
        store.observe = reserve.observe = self._delivery.account
        self._delivery.account(Fate.UNCERTAIN, store.uncertain)
        self._announcer = Announcer(
            lambda: self._dispatcher.jobs,
            reserve,
            store.changes,
            parts.events,
            clock,
            settings.datadog.heartbeat,
            settings.http.public_url,
        )
        self._pings = Pings()
        runner = Runner(
            reserve,
            clock,
            attempts,
            stored=self._delivery.notify,
            quota=parts.quota,
            began=self._began,
            ended=self._ended,
        )
        self._dispatcher = Dispatcher(runner, reserve, clock, tasks)
        self._timer = Timer(clock, self._dispatcher.tick, self._dispatcher.next_start)
        self._operations = DaemonOperations(
            Info(
                name="infra-health",
                version=__version__,
                commit=commit,
                started=clock.now(),
                env=settings.datadog.env,
                service=settings.datadog.service,
            ),
            clock=clock,
            store=store,
            reserve=reserve,
            dispatcher=self._dispatcher,
            timer=self._timer,
            delivery=self._delivery,
            edges=parts,
            github_api_url=settings.github.api_url,
        )
        self._upkeep = Upkeep(clock, store, reserve, self._delivery, parts.credentials, self._operations.lags)

    async def start(self, listener: socket.socket) -> None:
        """Returns when the probes answer and the first slots have started."""
        await self._dispatcher.load()
        jobs = build_jobs(self._settings, self._parts, self._reserve)
        http = self._settings.http
        app = build_app(
            self._operations,
            token=self._parts.credentials.write_token,
            read_token=self._parts.credentials.read_token,
            in_cluster=bool(self._environ.get("KUBERNETES_SERVICE_HOST")),
            allowed_hosts=http.allowed_hosts,
            telemetry=self._telemetry,
        )
        await self._tasks.start(serve, app, listener)
        self._tasks.start_soon(self._delivery.run)
        if self._settings.datadog.events:
            self._tasks.start_soon(self._announcer.run)
        self._tasks.start_soon(self._pings.run)
        self._tasks.start_soon(self._make_slots)
        self._tasks.start_soon(self._upkeep.run)
        self._set_jobs(jobs)
        await self._operations.take_up_pushes()
        _set_apart()
        self._tasks.start_soon(app.state.warm)

    async def reload(self) -> None:
        """Takes over what can change in a running daemon; a wrong configuration changes nothing."""
        try:
            loaded = await anyio.to_thread.run_sync(self._load)
            if self._file and loaded.file is None:
                raise ConfigError(f"{self._file} is gone")
            logs.mask(secret_values(loaded.settings))
            jobs = build_jobs(loaded.settings, self._parts, self._reserve)
        except Exception as error:
            # A collector of somebody else's package may raise anything when it is built anew.
            if not isinstance(error, ConfigError):
                log.exception("the reload met an unexpected error")
            reason = str(error) if isinstance(error, ConfigError) else f"unexpected {type(error).__name__}: {error}"
            log.error("reload refused: the configuration before it holds", reason=reason)  # noqa: TRY400 - logged above
            self._operations.reload_error = reason
            await self._operations.record("reload refused", "configuration", _SIGNAL)
            return
        changed = differences(self._settings, loaded.settings)
        taken = {key: change for key, change in changed.items() if key.startswith(_RELOADED)}
        left = {key: change for key, change in changed.items() if key not in taken}
        log.info("configuration reloaded", changed=taken or "nothing")
        if left:
            log.warning("these changes need a restart", changed=left)
        self._settings = loaded.settings
        self._operations.reload_error = None
        self._operations.info = self._operations.info.model_copy(update={"env": loaded.settings.datadog.env})
        self._set_jobs(jobs)
        _set_apart()
        await self._operations.record("reload", "configuration", _SIGNAL)

    async def trigger_all(self) -> None:
        """SIGUSR1: every enabled collector, now."""
        await self._operations.trigger_enabled(Cause.SIGNAL, _SIGNAL)

    async def drain(self, name: str) -> None:
        """No new slots; active runs end; what is stored is delivered, or stays stored."""
        log.info("draining", signal=name, active=len(self._dispatcher.all_active()))
        self._slots.cancel()
        await self._dispatcher.drain(_RUNS_GET)
        if not await self._delivery.flush(self._clock.monotonic() + _DELIVERY_GETS):
            state = self._delivery.state
            log.warning("points stay stored for the next start", waiting=state.waiting, reason=state.trouble)
        await self._pings.flush(_PINGS_GET)
        async with self._delivery.paused(break_off=True):  # an intake that hangs would use up the pod's grace period
            await self._store.mend(self._clock.now())
            if not await self._reserve.repay():
                log.error("what is in memory is lost: the store can't be written", reason=self._reserve.trouble)

    async def hurry(self, signals: AsyncIterator[signal.Signals]) -> None:
        """A second SIGTERM or SIGINT ends the drain."""
        async for each in signals:
            if each in (signal.SIGTERM, signal.SIGINT):
                log.warning("ended at once by a second signal; what was not delivered stays stored")
                self.hurried = True
                self._tasks.cancel_scope.cancel()

    def _set_jobs(self, jobs: Sequence[Job]) -> None:
        settings = self._settings
        self._telemetry.expect(settings.collectors)
        self._dispatcher.is_shadow = self._announcer.is_silent = settings.mode is Mode.SHADOW
        set_mode(settings, self._store, self._reserve, self._delivery)
        self._store.limit_history(
            {
                name: (each.failed_runs_history_limit, each.successful_runs_history_limit)
                for name, each in settings.collectors.items()
            }
        )
        self._dispatcher.set_jobs(jobs)
        self._timer.set_jobs(jobs)
        for job in jobs:
            self._dispatcher.tick(job.name)

    def _began(self, run: Run) -> None:
        self._ping(run, Event.START)

    def _ended(self, run: Run, samples: Sequence[Sample]) -> None:
        due = run.slot.scheduled_at
        self._telemetry.run_ended(run, (run.started - due).total_seconds() if due else None)
        self._announcer.ended(run.job)
        # A run that gave way or was broken off by our own end says nothing of what it looked at.
        if run.outcome not in (None, Outcome.REPLACED, Outcome.INTERRUPTED):
            good = run.outcome.succeeded and self._delivery.state.trouble is None
            self._ping(run, Event.SUCCESS if good else Event.FAILURE)

    def _ping(self, run: Run, event: Event) -> None:
        own = self._settings.collectors.get(run.job)
        if url := (own and own.heartbeat_url) or self._settings.heartbeat_url:
            self._pings.tell(url.get_secret_value(), event, run.id)

    async def _make_slots(self) -> None:
        with self._slots:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._timer.run)
                await keep_beating(
                    lambda: [job for job in self._dispatcher.jobs.values() if job.enabled],
                    self._reserve,
                    self._clock,
                    self._settings.datadog.heartbeat,
                    self._delivery.notify,
                )


def _set_apart() -> None:
    """Takes what lives as long as the daemon out of the garbage collector's rounds.

    With a thousand collectors a full round holds everything up for 40 to 70 ms; without these objects, for 10.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
