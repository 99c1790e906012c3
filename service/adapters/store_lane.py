"""A lane: one connection, one transaction at a time, never on the event loop."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from service.adapters.store_file import transaction, translated
from service.domain.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Runs work in a worker thread, each in a transaction of its own.

    A caller that is cancelled does not stop the work: the transaction is done whole or, where it had not begun, not
    at all (anyio waits for the thread). ``trouble``: why the last transaction failed, None when it did not.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, mode: str) -> None:
        """``path``: the connection's file, None for one in memory. ``mode``: of the transactions."""
        self.trouble: Unavailable | None = None
        self._connection = connection
        self._path = path
        self._mode = mode
        self._file = _identity(path) if path else None
        self._closed = False
        self._limiter = anyio.CapacityLimiter(1)
        # The limiter keeps the order and spares waiting threads. This lock holds even when a task is cancelled by
        # asyncio itself, past anyio's shield, and leaves its thread behind.
        self._lock = threading.Lock()

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(connection, *args)``. Raises Unavailable when the store is lost."""
        return await anyio.to_thread.run_sync(
            lambda: self._run(lambda connection: work(connection, *args, **kwargs)), limiter=self._limiter
        )

    async def close(self, last: Callable[[sqlite3.Connection], object] | None = None) -> None:
        """Does ``last`` outside of a transaction and closes the connection; a second time does nothing."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, last, limiter=self._limiter)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                raise Unavailable("the store is closed")
            try:
                self._see_the_file()
                with transaction(self._connection, self._mode):
                    result = work(self._connection)
            except Unavailable as error:
                self.trouble = error
                raise
            except sqlite3.Error as error:
                mine = translated(error, self._path or Path(":memory:"))
                if isinstance(mine, Unavailable):
                    self.trouble = mine
                if mine is error:
                    raise
                raise mine from error
            self.trouble = None
            return result

    def _see_the_file(self) -> None:
        # SQLite would go on writing to a file that was deleted or replaced, and everything would be lost with it.
        if self._path and _identity(self._path) != self._file:
            raise Unavailable(f"the state database is gone: {self._path} was removed or replaced")

    def _close(self, last: Callable[[sqlite3.Connection], object] | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if last:
                    # Whatever fails here, the write-ahead log keeps what was committed.
                    with suppress(sqlite3.Error):
                        last(self._connection)
            finally:
                self._connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
