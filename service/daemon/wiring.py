"""What the settings come to: the store, the clients at the edges, and the jobs. Built here and nowhere else."""

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import httpx
from anyio.abc import TaskGroup

from service import __version__
from service.clock import Clock, SystemClock
from service.collectors import registry
from service.collectors.github_ci.deliveries import Deliveries
from service.config.clients import http_client
from service.config.secrets import Credentials, credentials, from_environment
from service.config.settings import Settings
from service.daemon.series_forecast import max_series_per_hour
from service.datadog.intake import Intake, intake_url
from service.domain.errors import ConfigError
from service.domain.runs import Mode
from service.github.auth import InstallationToken, TokenSource
from service.github.client import Github
from service.pipeline.forwarder import Forwarder
from service.pipeline.job import Job
from service.pipeline.scheduler import Scheduler
from service.store import Store

# Seconds for a cancelled collector to stop before the process ends without it: a program is ended within them.
_STOP_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Clients:
    """What all jobs share: the clients, what GitHub's webhooks told, and the secrets."""

    github: Github
    deliveries: Deliveries
    http: httpx.AsyncClient
    intake: Intake
    credentials: Credentials


@asynccontextmanager
async def open_clients(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Clients]:
    """Opens the clients, closes them at the end. Nobody is asked anything yet. Raises ConfigError."""
    known = credentials(settings, environ)
    async with AsyncExitStack() as stack:

        async def client() -> httpx.AsyncClient:
            return await stack.enter_async_context(http_client(environ, user_agent=settings.github.user_agent))

        http, clock, api_url = await client(), SystemClock(), settings.github.api_url
        token: TokenSource = known.github_token
        if (app := settings.github.app) and (key := known.github_app_key):
            token = InstallationToken(app.id, app.installation_id, key, api_url=api_url, client=http, clock=clock)
        github = Github(api_url, token, await client(), clock)
        intake = Intake(intake_url(settings.datadog), known.api_key, await client())
        yield Clients(github, Deliveries(clock), http, intake, known)


@dataclass(slots=True)
class Wiring:
    """What a process that collects stands on. ``attempts`` owns the collectors' attempts.

    ``exit_code``: once it is set, all is said and kept; the process then ends with it soon after this is closed.
    """

    environ: Mapping[str, str]
    clock: Clock
    store: Store
    clients: Clients
    attempts: TaskGroup
    exit_code: int | None = None

    def build_jobs(self, settings: Settings) -> list[Job]:
        """A job for each configured collector. Raises ConfigError when a collector refuses its settings."""
        jobs, datadog = [], settings.datadog
        version = {"DD_VERSION": datadog.version} if datadog.version else {}
        environ = {**self.environ, "DD_ENV": datadog.env, "DD_SITE": datadog.site, **version}
        for name, each in settings.collectors.items():
            context = registry.Context(
                name,
                self.clients.github,
                self.clients.http,
                registry.CollectorState(self.store.states, name),
                partial(from_environment, environ=self.environ),
                environ | {"DD_SERVICE": each.service},
                self.clients.deliveries,
            )
            try:
                collector = registry.load_type(each.type)(each, context)
            except ConfigError:
                raise
            except Exception as error:  # a collector may be foreign code
                raise ConfigError(f"collectors.{name}: a {each.type} can't be made of it: {error!r}") from error
            jobs.append(Job(name, collector, each, datadog.env, datadog.version, context.state))
        return jobs

    def build_forwarder(self, settings: Settings) -> Forwarder:
        return Forwarder(
            self.store.outbox,
            self.clients.intake,
            self.clock,
            historical=settings.datadog.historical,
            max_series=max_series_per_hour(settings),
        )

    def set_mode(self, settings: Settings, scheduler: Scheduler, forwarder: Forwarder) -> None:
        """Live or shadow, for what runs and is sent from now on."""
        scheduler.mode = self.store.outbox.mode = settings.mode
        is_shadow, prefix = settings.mode is Mode.SHADOW, settings.shadow_prefix or None
        forwarder.set_shadow(prefix if is_shadow else None, is_withheld=is_shadow and prefix is None)


@asynccontextmanager
async def open_wiring(settings: Settings, environ: Mapping[str, str], *, writes: bool = True) -> AsyncIterator[Wiring]:
    """Opens store and clients, closes them at the end.

    Without ``writes`` the store is one to read from, beside a daemon or without one. Raises ConfigError (the state
    directory can't be used, another process writes to it) or Unavailable.
    """
    clock = SystemClock()
    async with anyio.create_task_group() as attempts:
        if writes:
            name = environ.get("HOSTNAME") or socket.gethostname()
            store = await Store.open(settings.state_dir, settings.store, clock.now, replica=(name, __version__))
        else:
            store = await Store.open_reading(settings.state_dir, settings.store)
        try:
            async with open_clients(settings, environ) as clients:
                wiring = Wiring(environ, clock, store, clients, attempts)
                yield wiring
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()
        attempts.cancel_scope.cancel()
        if wiring.exit_code is not None:
            # A task that swallows its cancellation can't be stopped from within the loop, nor a thread from anywhere.
            sys.stdout.flush()
            forced = threading.Timer(_STOP_TIMEOUT, os._exit, [wiring.exit_code])
            forced.daemon = True
            forced.start()


async def read_pushes(job: Job) -> bool:
    """Whether something was pushed that no run has read. Afterwards the collector knows what it waits for."""
    load = getattr(job.collector, "load", None)
    return load is not None and bool(await load())
