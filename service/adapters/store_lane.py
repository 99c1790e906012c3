"""A lane: one connection, one transaction at a time, never on the event loop."""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio

from service.adapters.store_file import transaction, translated
from service.domain.errors import Unavailable

_MOST_TOGETHER = 2_000  # tasks a transaction

P = ParamSpec("P")
T = TypeVar("T")


class _Task:
    """Work that waits for its transaction, then its result or error."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.error, self.done = error, True


class Lane:
    """Runs work in a worker thread, in transactions. What waits at the same time shares one: a commit costs a flush of
    the disk, and a thousand collectors may start in the same second.

    A caller that is cancelled does not stop the work: it is done whole or, where it had not begun, not at all (anyio
    waits for the thread). ``trouble``: why the last transaction failed, None when it did not.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, mode: str) -> None:
        """``path``: the connection's file, None for one in memory. ``mode``: of the transactions."""
        self.trouble: Unavailable | None = None
        self._connection = connection
        self._path = path
        self._mode = mode
        self._file = _identity(path) if path else None
        self._closed = False
        self._queue: deque[_Task] = deque()
        # The turn keeps the order and spares waiting threads. The lock holds even when a task is cancelled by asyncio
        # itself, past anyio's shield, and leaves its thread behind.
        self._turn = anyio.Lock()
        self._lock = threading.Lock()

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(connection, *args)``. Raises Unavailable when the store is lost."""
        task = _Task(lambda connection: work(connection, *args, **kwargs))
        self._queue.append(task)
        try:
            async with self._turn:
                if not task.done:
                    await anyio.to_thread.run_sync(self._run_all)
        finally:
            if not task.done:
                with suppress(ValueError):  # taken already: it is under way
                    self._queue.remove(task)
        if task.error:
            raise task.error
        result: T = task.result
        return result

    async def close(self, last: Callable[[sqlite3.Connection], object] | None = None) -> None:
        """Does ``last`` outside of a transaction and closes the connection; a second time does nothing."""
        with anyio.CancelScope(shield=True):
            async with self._turn:
                await anyio.to_thread.run_sync(self._close, last)

    def _run_all(self) -> None:
        """Everything that waits, in one transaction."""
        with self._lock:
            tasks: list[_Task] = []
            while self._queue and len(tasks) < _MOST_TOGETHER:
                tasks.append(self._queue.popleft())
            if self._closed:
                for task in tasks:
                    task.fail(Unavailable("the store is closed"))
                return
            try:
                self._see_the_file()
                with transaction(self._connection, self._mode):
                    for task in tasks:
                        self._run(task, alone=len(tasks) == 1)
            except Exception as error:  # noqa: BLE001 - each caller is given it
                mine = translated(error, self._path or Path(":memory:")) if isinstance(error, sqlite3.Error) else error
                if isinstance(mine, Unavailable):
                    self.trouble = mine
                if mine is not error:
                    mine.__cause__ = error
                for task in tasks:
                    # One that failed by itself knows better; none was kept.
                    task.fail(task.error or mine)
                return
            self.trouble = None
            for task in tasks:
                task.done = True

    def _run(self, task: _Task, alone: bool) -> None:
        """An error of our own code is the task's alone; one of the store ends the transaction."""
        if alone:
            task.result = task.work(self._connection)
            return
        self._connection.execute("SAVEPOINT task")
        try:
            task.result = task.work(self._connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and translated(error, Path()) is not error:
                raise
            task.error = error
            self._connection.execute("ROLLBACK TO task")
        self._connection.execute("RELEASE task")

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
