"""Pushed snapshots as they are kept until a run has read them. Pure; large ones take CPU time.

Several may come before a run has read the first (two pipelines that end together). None of them may be lost: a count is
in one of them only, and each speaks of checks of its own. So those that no run has read stay beside the newest.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
import structlog

from service.collectors.snapshot_samples import FAULTS_SHOWN, series, without_overtaken
from service.domain.errors import Unavailable
from service.domain.runs import Collected
from service.domain.samples import Kind, Sample

log = structlog.get_logger(__name__)

PUSHED = "pushed"
WAITING = "pushed-waiting"  # those before it that no run has read, the oldest first
DONE = "pushed-done"  # the key of the newest one that a run has read
_MOST = 50
_LENGTH = struct.Struct(">Q")
_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """``key`` tells one publication from another."""

    key: str
    at: datetime
    body: bytes


def pack(pushed: Pushed) -> bytes:
    head = orjson.dumps({"key": pushed.key, "at": pushed.at.isoformat()})
    return head + b"\n" + zlib.compress(pushed.body, 1)


def unpack(stored: bytes) -> Pushed | None:
    try:
        facts = orjson.loads(stored.partition(b"\n")[0])
        at = datetime.fromisoformat(facts["at"])
        return Pushed(str(facts["key"]), at, zlib.decompress(stored.partition(b"\n")[2]))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        log.warning("the pushed snapshot can't be read any more", reason=type(error).__name__)
        return None


def unread(waiting: bytes | None, newest: bytes | None, done: bytes | None) -> list[bytes]:
    """The packed snapshots that no run has read, the oldest first."""
    packed = [*_split(waiting or b""), *([newest] if newest else [])]
    for place, each in reversed(list(enumerate(packed))):
        if done is not None and _key(each) == done:
            return packed[place + 1 :]
    return packed


def waiting(packed: Iterable[bytes], key: str, longest: int) -> bytes | None:
    """What to keep of ``packed`` beside a new one with ``key``, which takes the place of one with the same.

    Raises Unavailable when they are too many, or more than ``longest`` bytes.
    """
    kept = [each for each in packed if _key(each) != key.encode()]
    if len(kept) >= _MOST or sum(map(len, kept)) > longest:
        raise Unavailable(f"{len(kept)} pushed snapshots wait for a run to read them", retry_after=_RETRY_AFTER)
    return b"".join(_LENGTH.pack(len(each)) + each for each in kept) or None


def joined(snapshots: Sequence[Collected]) -> Collected:
    """As one what was read of several snapshots, the oldest first: events of all, of each gauge the newest value."""
    samples: list[Sample] = []
    later: set[object] = set()
    for each in reversed(snapshots):
        samples[:0] = [
            sample
            for sample in each.samples
            if sample.metric.kind is not Kind.GAUGE or (series(sample), sample.at) not in later
        ]
        later.update((series(sample), sample.at) for sample in each.samples)
    return Collected(
        samples=tuple(without_overtaken(samples)),
        faults=tuple(fault for each in snapshots for fault in each.faults)[:FAULTS_SHOWN],
        unmeasured=tuple(tags for each in snapshots for tags in each.unmeasured),
        remember={key: value for each in snapshots for key, value in each.remember.items()},
        left_out=sum(each.left_out for each in snapshots),
    )


def _split(stored: bytes) -> Iterable[bytes]:
    at = 0
    while at + _LENGTH.size <= len(stored):
        end = at + _LENGTH.size + _LENGTH.unpack_from(stored, at)[0]
        yield stored[at + _LENGTH.size : end]
        at = end


def _key(packed: bytes) -> bytes | None:
    try:
        return str(orjson.loads(packed.partition(b"\n")[0])["key"]).encode()
    except (ValueError, KeyError, TypeError):
        return None
