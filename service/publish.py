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
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import msgspec

from service.collectors.records import GZIP_MAGIC, Item
from service.collectors.snapshot.schema import InvalidSnapshot, check_snapshot, snapshot_schema
from service.collectors.snapshot.sources import S3Object, authorize, open_s3, parse_place
from service.config.clients import describe_error, http_client, refuse_answer
from service.config.masking import escape_control_characters, mask_address
from service.config.secrets import from_environment
from service.domain.errors import ConfigError, Rejected, Unavailable
from service.domain.runs import PartialFailure

__all__ = ["InvalidSnapshot", "Published", "join_snapshots", "publish", "snapshot_schema"]

T = TypeVar("T")

_DAEMON = re.compile(r".*/api/v1/collectors/[^/]+/snapshots/?")
_TRIES = 5
_MAX_PAUSE = 30.0
_between = random.SystemRandom().uniform


@dataclass(frozen=True, slots=True)
class Published:
    """``to``: where the snapshot went, without secrets. ``run``: the address of the run that a daemon started for it.

    ``remarks``: what the collector will leave out of records that are good otherwise.
    """

    to: str
    records: int
    size: int
    remarks: Sequence[PartialFailure] = ()
    run: str | None = None


def publish(
    records: bytes | Iterable[Mapping[str, Any]],
    to: str | os.PathLike[str],
    *,
    token_env: str | None = None,
    name: str = "the snapshot",
) -> Published:
    """Checks a snapshot and puts it where a collector reads it; whole or not at all.

    ``records``: mappings with the fields of ``snapshot_schema()``, or a snapshot's bytes as they are.
    ``to``: a path, a directory (each snapshot a file of its own), ``s3://BUCKET/KEY`` or ``s3://BUCKET/PREFIX/``, an
    http(s) address (PUT), or a daemon's ``/api/v1/collectors/NAME/snapshots``.
    ``token_env``: the variable that holds the bearer token; for a daemon INFRA_HEALTH_TOKEN where it is set.
    Where ``to`` ends with ``.gz`` the snapshot is packed. ``name``: what messages call it.

    Raises InvalidSnapshot (bad records), Rejected, TooLarge, Unauthorized, ConfigError, or Unavailable after some
    tries. It blocks: from a coroutine call it in a thread.
    """
    body = records if isinstance(records, bytes) else _encode(records)
    now, target = datetime.now(UTC), os.fspath(to)
    checked, remarks = check_snapshot(body, name, now)
    if target.endswith(".gz") and not body.startswith(GZIP_MAGIC):
        body = gzip.compress(body)
    # In a directory in the order of time.
    file = f"snapshot-{now:%Y%m%dT%H%M%S.%fZ}.json{'.gz' if body.startswith(GZIP_MAGIC) else ''}"
    place, run = parse_place(target), None
    if isinstance(place, Path):
        place = place / file if target.endswith("/") or place.is_dir() else place
        _write(place, body)
    elif isinstance(place, S3Object):
        place = S3Object(place.bucket, place.key + file) if target.endswith("/") else place
        _try_often(partial(_put, place, body))
    else:
        run = _try_often(partial(_send, place, body, token_env, secrets.token_hex(16)))
    return Published(mask_address(str(place)), len(checked), len(body), remarks, run)


def join_snapshots(bodies: Mapping[str, bytes]) -> bytes:
    """The records of several snapshots as one; each by its name. Raises as ``publish`` does, naming the bad one."""
    records: list[Item] = []
    for name, body in bodies.items():
        records += check_snapshot(body, name, datetime.now(UTC))[0]
    return msgspec.json.encode(records)


def _encode(records: Iterable[Mapping[str, Any]]) -> bytes:
    try:
        # Not msgspec: it would write NaN as null, and the check could not say what is wrong.
        return json.dumps(list(records)).encode()
    except (TypeError, ValueError) as error:
        raise Rejected(f"the snapshot: {error}") from error


def _write(path: Path, body: bytes) -> None:
    """Writes ``path`` whole or not at all: a temporary file beside it takes its place once it is on the disk. What is
    no file (/dev/null, a pipe) is written to."""
    target = path.resolve()  # where a link leads: the link itself stays
    draft = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(body)
            return
        with draft.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(OSError):  # it took the place, or was never there
            draft.unlink()


async def _put(place: S3Object, body: bytes) -> None:
    """S3 refuses the object when it arrives with another hash than it left with."""
    digest = b64encode(hashlib.sha256(body).digest()).decode()
    async with open_s3(str(place)) as client:
        await client.put_object(
            Bucket=place.bucket, Key=place.key, Body=body, ContentType=_content_type(body), ChecksumSHA256=digest
        )


async def _send(url: httpx.URL, body: bytes, token_env: str | None, key: str) -> str | None:
    """Returns the address of the run where a daemon started one."""
    name, is_daemon = mask_address(str(url)), _DAEMON.fullmatch(url.path) is not None
    # A daemon that took it but whose answer was lost knows the key, and does not count it twice.
    headers = {"Content-Type": _content_type(body), "Idempotency-Key": key}
    token = from_environment(token_env or "INFRA_HEALTH_TOKEN", os.environ)
    # Only who is named gets a token; a daemon's own variable is for daemons alone.
    if token_env or (is_daemon and (token.is_set or token.can_change)):
        headers |= await authorize(token)
    try:
        async with http_client(timeout=httpx.Timeout(60, connect=10)) as http:
            answer = await http.request("POST" if is_daemon else "PUT", url, content=body, headers=headers)
    except httpx.HTTPError as error:
        raise Unavailable(f"{name}: {describe_error(error)}") from error
    location = answer.headers.get("Location", "")
    if answer.is_success:
        return str(url.join(location)) if location and answer.status_code == httpx.codes.ACCEPTED else None
    if answer.has_redirect_location:
        raise Rejected(f"{name} redirects to {mask_address(location)}; publish to where it leads")
    hint = "; does it need another token (--token-env)?" if answer.status_code in (401, 403) else ""
    raise refuse_answer(answer, f"{name}: answered {answer.status_code}{_read_problem(answer) or hint}")


class _Problem(msgspec.Struct):
    """Problem details (RFC 9457), as the daemon answers them."""

    detail: str
    errors: list[dict[str, str]] = []


def _read_problem(answer: httpx.Response) -> str:
    """What a daemon says of its refusal, as text that a terminal can show."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.MsgspecError:
        return ""
    lines = [problem.detail, *(f"  {each.get('where')}: {each.get('what')}" for each in problem.errors)]
    return escape_control_characters(": " + "\n".join(lines))


def _content_type(body: bytes) -> str:
    return "application/gzip" if body.startswith(GZIP_MAGIC) else "application/json"


def _try_often(attempt: Callable[[], Awaitable[T]]) -> T:
    """While the place is Unavailable it is tried again, with full jitter or as it asks."""

    async def retry() -> T:
        for number in range(_TRIES - 1):
            try:
                return await attempt()
            except Unavailable as error:
                await anyio.sleep(min(max(_between(0.0, 2.0**number), error.retry_after or 0.0), _MAX_PAUSE))
        return await attempt()

    # In a thread of its own it works beside an event loop, too (a notebook has one).
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, retry).result()
