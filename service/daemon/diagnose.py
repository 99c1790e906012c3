"""Whether everything that the daemon needs is there: one finding each, with the remedy. Nothing is sent or changed."""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from service.config.settings import Settings
from service.daemon.wiring import Clients, open_clients
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable
from service.store import Store, find_lock_holder

_TIMEOUT = 20.0  # for each, so that one that hangs keeps no other waiting
_LITTLE_SPACE = 512 * 2**20
_MAX_SKEW = 60.0

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` is empty where all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


async def diagnose(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """GitHub, Datadog, AWS, clock, state directory, in this order. Raises ConfigError where no client can be built."""
    async with open_clients(settings, environ) as clients:
        checks: dict[str, Callable[[], Awaitable[Finding]]] = {
            "GitHub": lambda: _check_github(settings, clients),
            "Datadog": lambda: _check_datadog(clients),
            "AWS": lambda: _check_aws(settings, environ, clients),
            "state directory": lambda: _check_state_dir(settings.state_dir),
        }
        found: dict[str, Finding] = {}

        async def check(name: str) -> None:
            try:
                with anyio.fail_after(_TIMEOUT):
                    found[name] = await checks[name]()
            except TimeoutError:
                remedy = "is it slow, or does a firewall or proxy swallow the requests?"
                found[name] = Finding(name, "fail", f"no answer within {_TIMEOUT:g} s", remedy)

        async with anyio.create_task_group() as tasks:
            for name in checks:
                tasks.start_soon(check, name)
        found["clock"] = _check_clock(clients.intake.clock_skew)
        return [found[name] for name in ("GitHub", "Datadog", "AWS", "clock", "state directory")]


async def _check_github(settings: Settings, clients: Clients) -> Finding:
    collectors = [each for each in settings.collectors.values() if each.type == "github_ci" and each.enabled]
    if not collectors:
        return Finding("GitHub", "ok", "no collector needs it")
    from service.collectors.github_ci import GithubCiSettings, check_settings

    token = clients.credentials.github_token
    details, problems = [], []
    try:
        for each in collectors:
            if isinstance(each, GithubCiSettings):
                seen, missing = await check_settings(clients.github, each)
                details.append(seen)
                problems += missing
        has_token = await clients.github.has_token()
    except Unauthorized as error:
        return Finding("GitHub", "fail", str(error), token.remedy)
    except Rejected as error:
        remedy = "check collectors.*.repo (METTA_GITHUB_REPO), and that the token may read the repository's actions"
        return Finding("GitHub", "fail", str(error), remedy)
    except HealthError as error:
        remedy = "check github.api_url, DNS, and HTTPS_PROXY where there is a proxy; then https://www.githubstatus.com"
        return Finding("GitHub", "fail", str(error), remedy)
    core = clients.github.quota.get("core")
    details.append(f"{core.remaining} of {core.limit} requests left" if core else "no quota told")
    if shortage := clients.github.shortage:
        details.append(shortage)
    detail = "; ".join(details)
    if problems:
        return Finding(
            "GitHub", "fail", f"{detail}; {'; '.join(problems)}", "correct the names in the collector's keys"
        )
    if not has_token:
        return Finding("GitHub", "warn", f"{detail}; no token", token.remedy)
    if core and core.remaining < core.limit // 10:
        return Finding("GitHub", "warn", detail, "who else uses this token? Give the daemon one of its own")
    return Finding("GitHub", "ok", detail)


async def _check_datadog(clients: Clients) -> Finding:
    key = clients.credentials.api_key
    if not await key.get():
        return Finding("Datadog", "fail", f"no {key.title}", key.remedy)
    try:
        await clients.intake.validate()
    except Unauthorized as error:
        return Finding("Datadog", "fail", str(error), f"{key.remedy}; and is DD_SITE the key's site?")
    except Rejected as error:
        remedy = "DD_URL names a proxy that does not pass on /api/v1/validate, or something else than an intake"
        return Finding("Datadog", "warn", str(error), remedy)
    except Unavailable as error:
        return Finding("Datadog", "fail", str(error), "check DD_SITE or DD_URL, DNS, and HTTPS_PROXY")
    return Finding("Datadog", "ok", f"the key (from {key.source}) is good")


async def _check_aws(settings: Settings, environ: Mapping[str, str], clients: Clients) -> Finding:
    secrets = {
        settings.aws.names.datadog_api: clients.credentials.api_key,
        settings.aws.names.github: clients.credentials.github_token,
    }
    for secret in secrets.values():
        await secret.get()
    if troubles := [f"{name}: {secret.trouble}" for name, secret in secrets.items() if secret.trouble]:
        remedy = "give the process a role that may read these secrets, set AWS_REGION, or set the secrets themselves"
        is_needed = any(secret.trouble and secret.source == "nowhere" for secret in secrets.values())
        return Finding("AWS", "fail" if is_needed else "warn", "; ".join(troubles), remedy)
    read = [name for name, secret in secrets.items() if "AWS" in secret.source]
    detail = f"read from Secrets Manager: {', '.join(read)}" if read else "no secret has to be read there"
    sources = {str(getattr(each, "source", "") or "") for each in settings.collectors.values() if each.enabled}
    if not (objects := sorted(source for source in sources if source.startswith("s3://"))):
        return Finding("AWS", "ok", detail)
    return await _check_objects(objects, detail, clients)


async def _check_objects(sources: list[str], detail: str, clients: Clients) -> Finding:
    """Whether the snapshots in S3 can be read."""
    from service.collectors.records import MAX_BYTES
    from service.collectors.snapshot.sources import parse_place, read_place

    seen, troubles, remedies = [], [], []
    for source in sources:
        try:
            found = await read_place(parse_place(source), clients.http, MAX_BYTES)
        except Unauthorized as error:
            troubles.append(str(error))
            remedies.append(
                "let the role s3:GetObject the object and s3:ListBucket the bucket (and decrypt with its key)"
            )
        except Rejected as error:
            # It says itself how to publish one.
            troubles.append(str(error))
        except ConfigError as error:
            troubles.append(str(error))
            remedies.append("set AWS_REGION, or give the process a role (IRSA) or keys")
        except Unavailable as error:
            troubles.append(str(error))
            remedies.append("check AWS_REGION, AWS_ENDPOINT_URL, DNS, and HTTPS_PROXY where there is a proxy")
        else:
            seen.append(found.name + (f" of {found.published:%Y-%m-%d %H:%M} UTC" if found.published else ""))
    if troubles:
        remedy = "; ".join(dict.fromkeys(remedies)) or "does the pipeline publish there? Correct `source` if not"
        return Finding("AWS", "fail", "; ".join(troubles), remedy)
    return Finding("AWS", "ok", f"{detail}; seen: {', '.join(seen)}")


def _check_clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding("clock", "warn", "Datadog sent no time to compare with", "see Datadog above")
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Datadog's"
    if abs(skew) > _MAX_SKEW:
        remedy = "set the clock (chrony, ntpd): Datadog drops points from 10 minutes ahead or an hour behind"
        return Finding("clock", "fail", detail, remedy)
    return Finding("clock", "ok", detail)


def _measure(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("state.db*"))


async def _check_state_dir(directory: Path) -> Finding:
    name = "state directory"
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "set state_dir (INFRA_HEALTH_STATE_DIR) to a directory that this user may write to"
        return Finding(name, "fail", f"{existing} can't be written to", remedy)
    free = shutil.disk_usage(existing).free
    try:
        holder = await anyio.to_thread.run_sync(find_lock_holder, directory) if existing == directory else None
        store = await Store.open_reading(directory)
        try:
            await store.check()
            pending = (await store.outbox.pending()).samples
        finally:
            await store.close()
    except ConfigError as error:
        return Finding(name, "fail", str(error), "run the version that wrote it, or set state_dir to another directory")
    except Unavailable as error:
        return Finding(
            name, "fail", str(error), "stop the daemon and move state.db aside: the next start makes a new one"
        )
    size = await anyio.to_thread.run_sync(_measure, directory)
    user = f"in use by {holder}" if holder else "no daemon uses it"
    detail = f"{directory}: {size / 2**20:.1f} MiB, {pending} points wait, {free / 2**30:.1f} GiB free, {user}"
    if free < _LITTLE_SPACE:
        return Finding(name, "warn", detail, "make room: without it nothing can be kept while Datadog is away")
    return Finding(name, "ok", detail)
