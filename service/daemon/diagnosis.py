"""The diagnosis of `diagnose`: whether all is there that the daemon needs. Nothing is sent or changed."""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread

from service.clock import SystemClock
from service.config.secrets import AWS
from service.config.settings import Settings
from service.daemon import read_store
from service.daemon.wiring import Clients, Wiring, open_clients
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized
from service.pipeline.job import Job
from service.store import Store
from service.store.engine import LoginRefused, OtherVersion
from service.store.state_directory import find_lock_holder

_TIMEOUT = 20.0  # for each question, so that one that hangs keeps no other waiting
_LITTLE_SPACE = 512 * 2**20
_MAX_SKEW = 60.0

Status = Literal["ok", "warn", "fail"]
# What to do by the kind of error that came, the narrower kind first.
Remedies = Mapping[type[HealthError], str]

_AWS_REMEDY = "set AWS_REGION, or give the process a role (IRSA) or keys"
_AWS_REMEDIES: Remedies = {
    ConfigError: _AWS_REMEDY,
    HealthError: "check AWS_REGION, AWS_ENDPOINT_URL, DNS, and HTTPS_PROXY where there is a proxy",
}
_SOURCE_REMEDIES: Remedies = {
    Unauthorized: "let it read there: token_env of an HTTP source; a role with s3:GetObject, s3:ListBucket and the key",
    ConfigError: _AWS_REMEDY,
    Rejected: "correct the collector's keys, or what its source brings",
    HealthError: "does it work by hand? Is the server up, and do DNS and HTTPS_PROXY lead there?",
}
# Of programs and other packages' collectors nobody knows here what they ask.
_OTHER_REMEDIES: Remedies = {HealthError: "does it work by hand?"}
_DIRECTORY_REMEDIES: Remedies = {
    ConfigError: "set state_dir (INFRA_HEALTH_STATE_DIR) to a directory that this user may read",
    OtherVersion: "run the daemon of this version, or the version that wrote it",
    HealthError: "stop the daemon and move state.db aside: the next start makes a new one",
}
_STORE_REMEDY = "correct store.url (INFRA_HEALTH_STORE__URL); docs/replicas.md shows how to make user and database"
_SERVER_REMEDIES: Remedies = {
    ConfigError: _STORE_REMEDY,
    LoginRefused: _STORE_REMEDY,
    HealthError: "does the server run, and do DNS, firewall and sslmode let this host to it?",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` is empty where all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


async def diagnose(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Whether all is there that the daemon needs: GitHub, its webhook's secret, Datadog, AWS, clock, what each other
    collector reads, state directory or, where replicas share one, store, in this order.

    Raises ConfigError where no client can be built.
    """
    async with open_clients(settings, environ) as clients, anyio.create_task_group() as attempts:
        wiring = Wiring(environ, SystemClock(), Store.empty(), clients, attempts)
        jobs = [job for job in wiring.build_jobs(settings) if job.settings.enabled and job.settings.type != "github_ci"]
        api_key, token = clients.credentials.api_key, clients.credentials.github_token
        github: Remedies = {
            Unauthorized: token.remedy,
            Rejected: "check collectors.*.repo (METTA_GITHUB_REPO), and that the token may read its actions",
            HealthError: "check github.api_url, DNS, and HTTPS_PROXY where there is a proxy; then"
            " https://www.githubstatus.com",
        }
        datadog: Remedies = {
            Unauthorized: f"{api_key.remedy}; and is DD_SITE the key's site?",
            HealthError: "check DD_SITE or DD_URL, DNS, and HTTPS_PROXY",
        }
        questions: dict[str, tuple[Callable[[str], Awaitable[Finding]], Remedies]] = {
            "GitHub": (partial(_check_github, settings, clients), github),
            "webhook secret": (partial(_check_webhook_secret, clients), {}),
            "Datadog": (partial(_check_datadog, clients), datadog),
            "AWS": (partial(_check_aws, settings, clients), _AWS_REMEDIES),
        }
        slow: dict[str, Finding] = {}  # what is no failure after that time
        for job in jobs:
            name, has_source = f"collector {job.name}", job.settings.type == "snapshot"
            questions[name] = partial(_check_collector, job), _SOURCE_REMEDIES if has_source else _OTHER_REMEDIES
            if not has_source and job.settings.active_deadline.total_seconds() > _TIMEOUT:
                slow[name] = Finding(name, "ok", f"still running after {_TIMEOUT:g} s, as its active_deadline allows")
        if settings.store.url:
            questions["store"] = partial(_check_server, settings), _SERVER_REMEDIES
        else:
            questions["state directory"] = partial(_check_directory, settings), _DIRECTORY_REMEDIES
        found: dict[str, Finding] = {}

        async def ask(name: str) -> None:
            check, remedies = questions[name]
            try:
                with anyio.fail_after(_TIMEOUT):
                    found[name] = await check(name)
            except TimeoutError:
                remedy = "is it slow, or does a firewall or proxy swallow the requests?"
                found[name] = slow.get(name) or Finding(name, "fail", f"no answer within {_TIMEOUT:g} s", remedy)
            except HealthError as error:
                remedy = next(text for kind, text in remedies.items() if isinstance(error, kind))
                found[name] = Finding(name, "fail", str(error), remedy)

        async with anyio.create_task_group() as tasks:
            for name in questions:
                tasks.start_soon(ask, name)
        attempts.cancel_scope.cancel()
    findings = [found[name] for name in questions]
    findings.insert(findings.index(found["AWS"]) + 1, _check_clock(clients.intake.clock_skew))
    return findings


async def _check_github(settings: Settings, clients: Clients, name: str) -> Finding:
    token = clients.credentials.github_token
    collectors = [each for each in settings.collectors.values() if each.type == "github_ci" and each.enabled]
    if not collectors:
        return Finding(name, "ok", "no collector needs it")
    from service.collectors.github_ci import GithubCiSettings, check_settings

    details, problems = [], []
    for each in collectors:
        if isinstance(each, GithubCiSettings):
            seen, missing = await check_settings(clients.github, each)
            details.append(seen)
            problems += missing
    core = clients.github.quota.get("core")
    details.append(f"{core.remaining} of {core.limit} requests left" if core else "no quota told")
    detail = "; ".join([*details, *filter(None, [clients.github.shortage]), *problems])
    if problems:
        return Finding(name, "fail", detail, "correct the names in the collector's keys")
    if not await clients.github.has_token():
        return Finding(name, "warn", f"{detail}; no token", token.remedy)
    if core and core.remaining < core.limit // 10:
        return Finding(name, "warn", detail, "who else uses this token? Give the daemon one of its own")
    return Finding(name, "ok", detail)


async def _check_datadog(clients: Clients, name: str) -> Finding:
    key = clients.credentials.api_key
    if not await key.get():
        return Finding(name, "fail", f"no {key.title}" + (f": {key.trouble}" if key.trouble else ""), key.remedy)
    try:
        await clients.intake.validate()
    except Unauthorized:
        raise
    except Rejected as error:
        remedy = "DD_URL names a proxy that does not pass on /api/v1/validate, or something else than an intake"
        return Finding(name, "warn", str(error), remedy)
    return Finding(name, "ok", f"the key (from {key.source}) is good")


async def _check_aws(settings: Settings, clients: Clients, name: str) -> Finding:
    """The secrets that are read there."""
    names = settings.aws.names
    secrets = {names.datadog_api: clients.credentials.api_key, names.github: clients.credentials.github_token}
    for secret in secrets.values():
        await secret.get()
    if troubles := [f"{key}: {secret.trouble}" for key, secret in secrets.items() if AWS in (secret.trouble or "")]:
        remedy = "give the process a role that may read these secrets, set AWS_REGION, or set the secrets themselves"
        is_needed = any(secret.trouble and secret.source == "nowhere" for secret in secrets.values())
        return Finding(name, "fail" if is_needed else "warn", "; ".join(troubles), remedy)
    read = [key for key, secret in secrets.items() if AWS in secret.source]
    detail = f"read from Secrets Manager: {', '.join(read)}" if read else "no secret has to be read there"
    return Finding(name, "ok", detail)


async def _check_webhook_secret(clients: Clients, name: str) -> Finding:
    secret = clients.credentials.webhook_secret
    if await secret.get():
        return Finding(name, "ok", f"from {secret.source}; `infra-health webhook test` tries the way")
    if secret.trouble:
        return Finding(name, "fail", secret.trouble, secret.remedy)
    return Finding(name, "ok", "not set: GitHub's deliveries are not taken, runs are polled for")


async def _check_collector(job: Job, name: str) -> Finding:
    """Asks it as a run does, and keeps nothing."""
    if reason := job.waits_for:
        return Finding(name, "ok", f"{reason}, or has had one")
    result = await job.collect(datetime.now(UTC))
    detail = f"{len(result.samples):,} samples"
    if result.failures:
        left_out = max(result.skipped, len(result.failures))
        remedy = "mend it in the source; the rest is sent all the same"
        return Finding(name, "warn", f"{detail}, {left_out} left out: {result.failures[0]}", remedy)
    return Finding(name, "ok", detail)


def _check_clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding("clock", "warn", "Datadog sent no time to compare with", "see Datadog above")
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Datadog's"
    if abs(skew) > _MAX_SKEW:
        remedy = "set the clock (chrony, ntpd): Datadog drops points from 10 minutes ahead or an hour behind"
        return Finding("clock", "fail", detail, remedy)
    return Finding("clock", "ok", detail)


async def _check_server(settings: Settings, name: str) -> Finding:
    """The database that replicas share."""
    async with read_store(settings) as store:
        if store:
            await store.check()
    return Finding(name, "ok", "the server of store.url answers")


async def _check_directory(settings: Settings, name: str) -> Finding:
    directory = settings.state_dir
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "set state_dir (INFRA_HEALTH_STATE_DIR) to a directory that this user may write to"
        return Finding(name, "fail", f"{existing} can't be written to", remedy)
    holder, pending = await anyio.to_thread.run_sync(find_lock_holder, directory), 0
    async with read_store(settings) as store:
        if store:
            await store.check()
            pending = (await store.outbox.pending()).samples
    size = sum(path.stat().st_size for path in directory.glob("state.db*"))
    user, free = f"in use by {holder}" if holder else "no daemon uses it", shutil.disk_usage(existing).free
    detail = f"{directory}: {size / 2**20:.1f} MiB, {pending} points wait, {free / 2**30:.1f} GiB free, {user}"
    if free < _LITTLE_SPACE:
        return Finding(name, "warn", detail, "make room: without it nothing can be kept while Datadog is away")
    return Finding(name, "ok", detail)
