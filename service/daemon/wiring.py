"""What the settings come to: the store, the clients at the edges, and the jobs. Built here and nowhere else."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from service.collectors import registry
from service.config.clients import http_client
from service.config.secrets import Credentials, Secret, credentials, from_environment
from service.config.settings import Settings
from service.datadog.intake import Intake, intake_url
from service.domain import cron
from service.domain.errors import ConfigError
from service.github.auth import InstallationToken, TokenSource
from service.github.client import Github
from service.pipeline.clock import Clock, SystemClock
from service.pipeline.job import Job
from service.store import Store


async def open_store(settings: Settings, clock: Clock) -> Store:
    """The store to write to, as configured. Raises ConfigError or Unavailable."""
    return await Store.open(settings.state_dir, settings.store, clock.now)


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that all jobs share, and their secrets. ``secret``: that of a variable's name in ``environ``."""

    github: Github
    http: httpx.AsyncClient
    intake: Intake
    credentials: Credentials
    secret: Callable[[str], Secret]
    environ: Mapping[str, str]


@asynccontextmanager
async def open_clients(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Clients]:
    """Opens the clients, closes them at the end. Nobody is asked anything yet. Raises ConfigError."""
    known = credentials(settings, environ)
    async with AsyncExitStack() as stack:

        async def client() -> httpx.AsyncClient:
            return await stack.enter_async_context(http_client(environ, user_agent=settings.github.user_agent))

        http, clock = await client(), SystemClock()
        token: TokenSource = known.github_token
        if (app := settings.github.app) and known.github_app_key:
            token = InstallationToken(
                app.id,
                app.installation_id,
                known.github_app_key,
                api_url=settings.github.api_url,
                client=http,
                clock=clock,
            )
        github = Github(settings.github.api_url, token, await client(), clock)
        intake = Intake(intake_url(settings.datadog), known.api_key, await client())
        yield Clients(github, http, intake, known, partial(from_environment, environ=environ), environ)


def build_jobs(settings: Settings, clients: Clients, store: Store) -> list[Job]:
    """A job for each configured collector. Raises ConfigError when a collector refuses its settings."""
    jobs, datadog = [], settings.datadog
    unified = {
        "DD_ENV": datadog.env,
        "DD_SITE": datadog.site,
        **({"DD_VERSION": datadog.version} if datadog.version else {}),
    }
    for name, each in settings.collectors.items():
        state = registry.CollectorState(store.states, name)
        environ = {**clients.environ, **unified, "DD_SERVICE": each.service}
        context = registry.Context(name, clients.github, clients.http, state, clients.secret, environ)
        try:
            collector = registry.load_type(each.type)(each, context)
        except ConfigError:
            raise
        except Exception as error:  # a collector may be foreign code
            raise ConfigError(f"collectors.{name}: a {each.type} can't be made of it: {error!r}") from error
        jobs.append(
            Job(
                name=name,
                type=each.type,
                collector=collector,
                schedule=cron.parse(each.schedule),
                time_zone=each.time_zone,
                service=each.service,
                env=settings.datadog.env,
                version=settings.datadog.version,
                enabled=each.enabled,
                policy=each.concurrency_policy,
                starting_deadline=each.starting_deadline,
                active_deadline=each.active_deadline,
                backoff_limit=each.backoff_limit,
                jitter=each.jitter,
                max_age=each.max_age,
                tags=each.tags,
                starts_after=each.starts_after,
                state=state,
            )
        )
    return jobs


async def has_unread_push(job: Job) -> bool:
    """Whether something was pushed that no run has read. Afterwards the collector knows what it waits for."""
    load: Callable[[], Awaitable[bool]] | None = getattr(job.collector, "load", None)
    return load is not None and await load()
