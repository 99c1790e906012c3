"""What the settings come to: clients at the edges, and the jobs. Built here and nowhere else."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx
from pydantic import SecretStr

from service.adapters.datadog import DatadogIntake, intake_url
from service.adapters.github import Github
from service.adapters.secrets import Secret, SecretsManager, aws_is_configured
from service.collectors import registry
from service.collectors.github_ci import GithubCi
from service.config import Settings
from service.domain import cron
from service.domain.errors import ConfigError
from service.pipeline.job import Job, Origin


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
    """The clients that all jobs share, and the secrets that they ask for."""

    github: Github
    http: httpx.AsyncClient
    intake: DatadogIntake
    github_token: Secret
    api_key: Secret

    def quota(self, job: Job) -> float | None:
        """Requests that are left of GitHub's primary limit, for the jobs that spend it."""
        core = self.github.quota.get("core")
        return float(core.remaining) if core and isinstance(job.collector, GithubCi) else None


@asynccontextmanager
async def edges(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Edges]:
    """Opens the clients, closes them at the end. Nothing is asked of anybody yet."""
    use_aws = settings.aws.secrets == "on" or (settings.aws.secrets == "auto" and aws_is_configured(environ))
    manager = SecretsManager() if use_aws else None
    api_key = Secret(
        "Datadog API key",
        "set DD_API_KEY, or give the process a role that may read datadog/api-key in AWS Secrets Manager",
        _plain(settings.datadog.api_key),
        manager=manager,
        name="datadog/api-key",
    )
    token = Secret(
        "GitHub token",
        "set GITHUB_DASHBOARD_TOKEN, or give the process a role that may read github/dashboard-token in AWS",
        _plain(settings.github.token),
        manager=manager,
        name="github/dashboard-token",
    )
    async with httpx.AsyncClient(timeout=30, headers={"User-Agent": settings.github.user_agent}) as http:
        github = Github(settings.github.api_url, token, settings.github.user_agent)
        intake = DatadogIntake(intake_url(settings.datadog), api_key)
        try:
            yield Edges(github, http, intake, token, api_key)
        finally:
            await github.aclose()
            await intake.aclose()


def build_jobs(settings: Settings, edges: Edges, store: Recall) -> list[Job]:
    """A job for each configured collector. Raises ConfigError when a collector refuses its settings."""
    types = registry.installed()
    origin = Origin(settings.datadog.env, settings.datadog.version)
    jobs = []
    for name, each in settings.collectors.items():
        context = registry.Context(name, edges.github, edges.http, _Memory(store, name))
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


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
