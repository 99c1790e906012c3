"""Publishing snapshots, for pipelines: ``from service.publish import publish``.

What the collector would refuse is refused here first, in the same words, while somebody can still mend it.
"""

import gzip
import hashlib
import json
import os
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from service.adapters import snapshot_files, snapshot_http, snapshot_s3
from service.adapters.secrets import Secret, from_environment
from service.collectors.snapshot_content import Limits
from service.collectors.snapshot_records import LONGEST_NAMESPACE
from service.collectors.snapshot_validation import InvalidSnapshot, refuse_bad
from service.config_values import shown
from service.domain.errors import ConfigError, Rejected, Unavailable
from service.domain.runs import Fault

__all__ = ["InvalidSnapshot", "Published", "publish", "records_of"]

Answer = TypeVar("Answer")

_DAEMON = re.compile(r".*/api/v1/collectors/[^/]+/snapshots/?")
_DAEMON_TOKEN = "INFRA_HEALTH_TOKEN"  # noqa: S105 - a variable's name
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_between = random.SystemRandom().uniform


@dataclass(frozen=True, slots=True)
class Published:
    """``to``: where the snapshot went, without secrets. ``run``: the address of the run that a daemon started for it.

    ``remarks``: what the collector will leave out of records that are good otherwise.
    """

    to: str
    records: int
    size: int
    remarks: tuple[Fault, ...] = ()
    run: str | None = None


def publish(
    records: bytes | Iterable[Mapping[str, Any]],
    to: str | os.PathLike[str],
    *,
    token_env: str | None = None,
    limits: Limits | None = None,
    name: str = "the snapshot",
) -> Published:
    """Checks a snapshot and puts it where a collector reads it; whole or not at all.

    ``records``: mappings with the fields of ``infra-health schema snapshot``, or a snapshot's bytes as they are.
    ``to``: a path, a directory (each snapshot a file of its own), ``s3://BUCKET/KEY`` or ``s3://BUCKET/PREFIX/``, an
    http(s) address (PUT; POST where that is what it takes), or a daemon's ``/api/v1/collectors/NAME/snapshots``.
    ``token_env``: the variable that holds the bearer token; for a daemon INFRA_HEALTH_TOKEN where it is set.
    Where ``to`` ends with ``.gz`` the snapshot is packed. ``name``: what messages call it.

    Raises InvalidSnapshot (bad records), Rejected, TooLarge, Unauthorized, ConfigError, or Unavailable after some
    tries. It blocks: from a coroutine call it in a thread.
    """
    body = records if isinstance(records, bytes) else _encoded(records)
    target = os.fspath(to)
    secret = _token(target, token_env)
    # In a thread of its own it works beside an event loop, too (a notebook has one).
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, partial(_publish, body, name, target, secret, limits or Limits())).result()


def records_of(body: bytes, name: str, limits: Limits | None = None) -> list[Mapping[str, Any]]:
    """The records of a snapshot that is fit to be published. Raises as ``publish`` does, naming ``name``."""
    records: list[Mapping[str, Any]] = []
    refuse_bad(body, name, datetime.now(UTC), limits or Limits(), LONGEST_NAMESPACE, records)
    return records


async def _publish(body: bytes, name: str, to: str, token: Secret | None, limits: Limits) -> Published:
    now = datetime.now(UTC)
    count, remarks = await anyio.to_thread.run_sync(refuse_bad, body, name, now, limits, LONGEST_NAMESPACE)
    if to.endswith(".gz") and not body.startswith(b"\x1f\x8b"):
        body = await anyio.to_thread.run_sync(gzip.compress, body)
    place, run = await _put(body, to, token, now)
    return Published(place, count, len(body), tuple(remarks), run)


async def _put(body: bytes, to: str, token: Secret | None, now: datetime) -> tuple[str, str | None]:
    scheme, separator, _ = to.partition("://")
    match scheme.lower() if separator else "":
        case "" | "file":
            path = snapshot_files.path_of(to)
            if path.is_dir() or to.endswith("/"):
                path /= _name(body, now)
            await anyio.to_thread.run_sync(snapshot_files.write, path, body)
            return str(path), None
        case "s3":
            if to.endswith("/"):
                to += _name(body, now)
            kind = "application/gzip" if body.startswith(b"\x1f\x8b") else "application/json"
            await _tried(partial(snapshot_s3.write, to, body, kind))
            return to, None
        case "http" | "https":
            return shown(to), await _send(body, to, token)
    raise ConfigError(
        f"{shown(to)}: {scheme}:// is not supported; it may be a path, s3://..., http://... or https://..."
    )


async def _send(body: bytes, to: str, token: Secret | None) -> str | None:
    """Sends it; the address of the run where a daemon started one."""
    headers = {
        "Content-Type": "application/gzip" if body.startswith(b"\x1f\x8b") else "application/json",
        # A daemon that took it but whose answer was lost does not count it twice.
        "Idempotency-Key": secrets.token_hex(16),
    }
    first, other = ("POST", "PUT") if _DAEMON.fullmatch(urlsplit(to).path) else ("PUT", "POST")
    async with httpx.AsyncClient(timeout=httpx.Timeout(60, connect=10)) as http:
        try:
            answer = await _tried(partial(snapshot_http.send, http, first, to, body, headers, token))
        except Rejected as error:
            if not str(error).startswith(f"{shown(to)}: answered 405"):
                raise
            answer = await _tried(partial(snapshot_http.send, http, other, to, body, headers, token))
        location = answer.headers.get("Location")
        return str(answer.url.join(location)) if location and answer.status_code == httpx.codes.ACCEPTED else None


async def _tried(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """The attempt's result; while it is Unavailable it is tried again, with full jitter or as the other side asked."""
    for number in range(_TRIES - 1):
        try:
            return await attempt()
        except Unavailable as error:
            pause = _between(0.0, min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE))
            await anyio.sleep(min(max(pause, error.retry_after or 0.0), _LONGEST_PAUSE))
    return await attempt()


def _encoded(records: Iterable[Mapping[str, Any]]) -> bytes:
    try:
        # Not orjson: it would write NaN as null, and the check below could not say what is wrong.
        return json.dumps(list(records)).encode()
    except (TypeError, ValueError) as error:
        raise Rejected(f"the snapshot: {error}") from error


def _name(body: bytes, now: datetime) -> str:
    """Of a file among others: in the order of time, and the same content at the same time is the same file."""
    packed = ".gz" if body.startswith(b"\x1f\x8b") else ""
    return f"snapshot-{now:%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(body).hexdigest()[:12]}.json{packed}"


def _token(to: str, variable: str | None) -> Secret | None:
    """Only who is named gets a token; a daemon's own variable is for daemons alone."""
    if not to.lower().startswith(("http://", "https://")):
        return None
    if variable:
        return from_environment(variable, os.environ)
    if _DAEMON.fullmatch(urlsplit(to).path):
        token = from_environment(_DAEMON_TOKEN, os.environ)
        return token if token.source != "nowhere" or token.can_change else None
    return None
