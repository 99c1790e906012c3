"""Snapshots that were pushed: kept until a run has read them. Of several none may be lost, for each may hold counts."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from service.collectors.records import BadRecord, Item, read_records
from service.collectors.registry import CollectorState
from service.collectors.selection import Publication
from service.collectors.snapshot.schema import check_snapshot

if TYPE_CHECKING:  # SQLAlchemy is loaded where a store is used
    from service.store.states import Push

T = TypeVar("T")


class Pushes:
    """Those of one collector. Each method raises Unavailable while the store is away."""

    def __init__(self, state: CollectorState, max_bytes: int, max_records: int) -> None:
        self.is_any = False  # something was pushed, read or not
        self._state = state
        self._max_bytes, self._max_records = max_bytes, max_records

    async def add(self, body: bytes, key: str, now: datetime) -> None:
        """Keeps a snapshot. Raises as ``check_snapshot`` does, and Unavailable when too many wait."""
        await in_thread(partial(check_snapshot, body, "the pushed snapshot", now, self._max_bytes, self._max_records))
        packed = await in_thread(partial(zlib.compress, body, 1))
        await self._state.add_push(key, packed, now, max_bytes=self._max_bytes)
        self.is_any = True

    async def read(self) -> Sequence["Push"]:
        """Those that no run has read and the newest one, the oldest first."""
        pushes = await self._state.pushes()
        self.is_any = bool(pushes)
        return pushes

    def records(self, push: "Push", now: datetime) -> tuple[Publication, Iterator[Item | BadRecord]]:
        """What was pushed; it is read as it is asked for, which takes CPU time."""

        def read() -> Iterator[Item | BadRecord]:
            body = zlib.decompress(push.body)
            yield from read_records(body, "the pushed snapshot", now, self._max_bytes, self._max_records)

        return Publication("the pushed snapshot", f"pushed {push.key}", push.at), read()


async def in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
