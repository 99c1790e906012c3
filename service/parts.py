"""What the settings come to: clients at the edges, and the jobs. Built here and nowhere else."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import httpx

from service.adapters.datadog import DatadogIntake, intake_url
from service.adapters.datadog_events import DatadogEvents
from service.adapters.github import Github
from service.adapters.github_app import InstallationToken, KeyFile
from service.adapters.github_limits import RealClock
from service.adapters.secrets import Secret, from_environment
from service.adapters.store import SqliteStore
from service.collectors import registry
from service.collectors.github_ci import GithubCi
from service.config import Mode, Settings, kept_prefix
from service.credentials import Credentials, aws_manager, credentials
from service.domain import cron
from service.domain.errors import ConfigError
from service.pipeline.deliver import Delivery
from service.pipeline.job import Job, Origin
from service.pipeline.ports import Clock
from service.pipeline.reserve import Reserve


async def open_store(settings: Settings, clock: Clock) -> SqliteStore:
    """The store to write to, as configured. Raises as ``SqliteStore.open`` does."""
    limits = settings.store
    return await SqliteStore.open(
        settings.state_dir,
        now=clock.now(),
        clock=clock.now,
        retention=limits.retention,
        keep_failed=limits.keep_failed,
        keep_ended=limits.keep_ended,
        max_bytes=limits.max_bytes,
    )


def set_mode(settings: Settings, store: SqliteStore, reserve: Reserve, delivery: Delivery) -> None:
    """Live or shadow: which slots are claimed, under which names points leave, whether they leave at all."""
    is_shadow = settings.mode is Mode.SHADOW
    store.is_shadow = is_shadow
    reserve.shadow_prefix = kept_prefix(settings)
    delivery.withholds = is_shadow and settings.shadow_prefix is None


class Recall(Protocol):
    """The store's reading of what collectors remembered."""

    async def recall(self, job: str, key: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class _Memory:
    store: Recall
    job: str

    async def read(self, key: str) -> bytes | None:
        return await self.store.recall(self.job, key)


@dataclass(frozen=True, slots=True)
class Edges:
    """The clients that all jobs share, and the secrets that they ask for. ``secret``: that of a variable's name."""

    github: Github
    http: httpx.AsyncClient
    intake: DatadogIntake
    events: DatadogEvents
    credentials: Credentials
    secret: Callable[[str], Secret]

    def quota(self, job: Job) -> tuple[float, float] | None:
        """Requests that are left of GitHub's primary limit, and that limit, for the jobs that spend it."""
        core = self.github.quota.get("core")
        return (float(core.remaining), float(core.limit)) if core and isinstance(job.collector, GithubCi) else None


@asynccontextmanager
async def edges(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Edges]:
    """Opens the clients, closes them at the end. Nothing is asked of anybody yet."""
    known = credentials(settings, environ)
    async with httpx.AsyncClient(timeout=30, headers={"User-Agent": settings.github.user_agent}) as http:
        app = _github_app(settings, environ, http)
        github = Github(settings.github.api_url, app or known.github_token, settings.github.user_agent)
        intake = DatadogIntake(intake_url(settings.datadog), known.api_key)
        try:
            events = DatadogEvents(intake_url(settings.datadog), known.api_key)
            yield Edges(github, http, intake, events, known, partial(from_environment, environ=environ))
        finally:
            await github.aclose()
            await intake.aclose()


def _github_app(settings: Settings, environ: Mapping[str, str], http: httpx.AsyncClient) -> InstallationToken | None:
    app = settings.github.app
    if app is None:
        return None
    key = Secret(
        "GitHub App's private key",
        "set github.app.private_key or private_key_file, or keep it in AWS Secrets Manager as github/app-private-key",
        app.private_key.get_secret_value() if app.private_key else None,
        manager=aws_manager(settings, environ),
        name="github/app-private-key",
    )
    return InstallationToken(
        app.id,
        app.installation_id,
        KeyFile(app.private_key_file) if app.private_key_file and not app.private_key else key,
        api_url=settings.github.api_url,
        user_agent=settings.github.user_agent,
        client=http,
        clock=RealClock(),
    )


def build_jobs(settings: Settings, edges: Edges, store: Recall) -> list[Job]:
    """A job for each configured collector. Raises ConfigError when a collector refuses its settings."""
    types = registry.installed()
    origin = Origin(settings.datadog.env, settings.datadog.version)
    jobs = []
    for name, each in settings.collectors.items():
        context = registry.Context(name, edges.github, edges.http, _Memory(store, name), edges.secret)
        try:
            collector = types[each.type](each, context)
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
                origin=origin,
                service=each.service,
                zone=each.time_zone,
                enabled=each.enabled,
                policy=each.concurrency_policy,
                starting_deadline=each.starting_deadline,
                active_deadline=each.active_deadline,
                backoff_limit=each.backoff_limit,
                jitter=each.jitter,
                max_age=each.max_age,
                tags=each.tags,
                starts_after=each.starts_after,
            )
        )
    return jobs
