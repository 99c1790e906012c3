"""Whether everything that the daemon needs is there: one finding each, with the remedy. Nothing is sent or changed."""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

from service.adapters import snapshot_s3
from service.adapters.secrets_manager import aws_is_configured
from service.adapters.store import SqliteStore
from service.adapters.store_file import holder
from service.collectors.github_ci import GithubCi, workflows
from service.config import Settings
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable
from service.parts import Edges, edges

_SECONDS = 20.0  # for each, so that one that hangs keeps no other waiting
_LITTLE_SPACE = 512 * 2**20
_SKEW = 60.0

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` is empty where all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "detail": self.detail, "remedy": self.remedy}


async def diagnose(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """GitHub, Datadog, AWS, clock, state directory, in this order."""
    async with edges(settings, environ) as parts:
        checks: dict[str, Callable[[], Awaitable[Finding]]] = {
            "GitHub": lambda: _github(settings, parts),
            "Datadog": lambda: _datadog(parts),
            "AWS": lambda: _aws(settings, environ, parts),
            "state directory": lambda: _state_directory(settings.state_dir),
        }
        found: dict[str, Finding] = {}

        async def look(name: str) -> None:
            try:
                with anyio.fail_after(_SECONDS):
                    found[name] = await checks[name]()
            except TimeoutError:
                remedy = "is it slow, or does a firewall or proxy swallow the requests?"
                found[name] = Finding(name, "fail", f"no answer within {_SECONDS:g} s", remedy)

        async with anyio.create_task_group() as tasks:
            for name in checks:
                tasks.start_soon(look, name)
        found["clock"] = _clock(parts.intake.clock_skew)
        return [found[name] for name in ("GitHub", "Datadog", "AWS", "clock", "state directory")]


async def _github(settings: Settings, parts: Edges) -> Finding:
    repos = sorted({each.repo for each in settings.collectors.values() if isinstance(each, GithubCi.Settings)})
    if not repos:
        return Finding("GitHub", "ok", "no collector needs it")
    try:
        counts = [f"{repo}: {len(await workflows(parts.github, repo))} workflows" for repo in repos]
        has_token = await parts.github.has_token()
    except Unauthorized as error:
        return Finding("GitHub", "fail", str(error), parts.credentials.github_token.remedy)
    except Rejected as error:
        remedy = "check collectors.*.repo (METTA_GITHUB_REPO), and that the token may read the repository's actions"
        return Finding("GitHub", "fail", str(error), remedy)
    except HealthError as error:
        remedy = "check github.api_url, DNS, and HTTPS_PROXY where there is a proxy; then https://www.githubstatus.com"
        return Finding("GitHub", "fail", str(error), remedy)
    core = parts.github.quota.get("core")
    quota = f"{core.remaining} of {core.limit} requests left" if core else "no quota told"
    detail = f"{', '.join(counts)}; {quota}"
    if not has_token:
        return Finding("GitHub", "warn", f"{detail}; no token", parts.credentials.github_token.remedy)
    if core and core.remaining < core.limit // 10:
        return Finding("GitHub", "warn", detail, "who else uses this token? Give the daemon one of its own")
    return Finding("GitHub", "ok", detail)


async def _datadog(parts: Edges) -> Finding:
    if not await parts.credentials.api_key.get():
        return Finding("Datadog", "fail", f"no {parts.credentials.api_key.title}", parts.credentials.api_key.remedy)
    try:
        await parts.intake.validate()
    except Unauthorized as error:
        return Finding(
            "Datadog", "fail", str(error), f"{parts.credentials.api_key.remedy}; and is DD_SITE the key's site?"
        )
    except Rejected as error:
        remedy = "DD_URL names a proxy that does not pass on /api/v1/validate, or something else than an intake"
        return Finding("Datadog", "warn", str(error), remedy)
    except Unavailable as error:
        return Finding("Datadog", "fail", str(error), "check DD_SITE or DD_URL, DNS, and HTTPS_PROXY")
    return Finding("Datadog", "ok", f"the key (from {parts.credentials.api_key.source}) is good")


async def _aws(settings: Settings, environ: Mapping[str, str], parts: Edges) -> Finding:
    secrets = {
        settings.aws.names.datadog_api: parts.credentials.api_key,
        settings.aws.names.github: parts.credentials.github_token,
    }
    for secret in secrets.values():
        await secret.get()
    troubles = [f"{name}: {secret.trouble}" for name, secret in secrets.items() if secret.trouble]
    if troubles:
        remedy = "give the process a role that may read these secrets, set AWS_REGION, or set the secrets themselves"
        needed = any(secret.trouble and secret.source == "nowhere" for secret in secrets.values())
        return Finding("AWS", "fail" if needed else "warn", "; ".join(troubles), remedy)
    read = [name for name, secret in secrets.items() if "AWS" in secret.source]
    told = f"read from Secrets Manager: {', '.join(read)}" if read else "no secret has to be read there"
    sources = {str(getattr(each, "source", "") or "") for each in settings.collectors.values() if each.enabled}
    objects = sorted(source for source in sources if source.startswith("s3://"))
    if not objects:
        return Finding("AWS", "ok", told)
    if not aws_is_configured(environ):
        return Finding(
            "AWS", "fail", "an s3:// source, but no identity in AWS", "give the process a role (IRSA) or keys"
        )
    return await _objects(objects, told)


async def _objects(sources: Sequence[str], told: str) -> Finding:
    """Whether the snapshots in S3 can be seen. The client of AWS needs a loop of its own (adapters.snapshots)."""
    seen, troubles, remedies = [], [], []
    for source in sources:
        try:
            name, published = await anyio.to_thread.run_sync(
                anyio.run, snapshot_s3.newest, source, abandon_on_cancel=True
            )
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
            seen.append(f"{name} of {published:%Y-%m-%d %H:%M} UTC")
    if troubles:
        remedy = (
            "; ".join(dict.fromkeys(remedies)) or "does the pipeline publish there? Correct `source` if it is elsewhere"
        )
        return Finding("AWS", "fail", "; ".join(troubles), remedy)
    return Finding("AWS", "ok", f"{told}; seen: {', '.join(seen)}")


def _clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding("clock", "warn", "Datadog told no time to compare with", "see Datadog above")
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Datadog's"
    if abs(skew) > _SKEW:
        remedy = "set the clock (chrony, ntpd): Datadog drops points from 10 minutes ahead or an hour behind"
        return Finding("clock", "fail", detail, remedy)
    return Finding("clock", "ok", detail)


async def _state_directory(directory: Path) -> Finding:
    name = "state directory"
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "set state_dir (INFRA_HEALTH_STATE_DIR) to a directory that this user may write to"
        return Finding(name, "fail", f"{existing} can't be written to", remedy)
    free = shutil.disk_usage(existing).free
    try:
        user = await anyio.to_thread.run_sync(holder, directory) if existing == directory else None
        store = await SqliteStore.open_reading(directory)
        try:
            await store.check()
            size, waiting = await store.size(), await store.count_waiting()
        finally:
            await store.close()
    except ConfigError as error:
        return Finding(name, "fail", str(error), "run the version that wrote it, or set state_dir to another directory")
    except Unavailable as error:
        return Finding(
            name, "fail", str(error), "stop the daemon and move state.db aside: the next start makes a new one"
        )
    who = f"in use by {user}" if user else "no daemon uses it"
    detail = f"{directory}: {size / 2**20:.1f} MiB, {waiting} points wait, {free / 2**30:.1f} GiB free, {who}"
    if free < _LITTLE_SPACE:
        return Finding(name, "warn", detail, "make room: without it nothing can be kept while Datadog is away")
    return Finding(name, "ok", detail)
