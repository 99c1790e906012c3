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

    __slots__ = ("done", "error", "result", "woken", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.woken = anyio.Event()  # it is done, or it is to lead

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
        self._queue: deque[_Task] = deque()  # not begun
        self._asleep: deque[_Task] = deque()  # whose callers are to be woken; the first of them leads the next round
        self._led = False
        # One leads at a time. The lock holds even when a leader is cancelled by asyncio itself, past anyio's shield,
        # and leaves its thread behind.
        self._lock = threading.Lock()

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(connection, *args)``. Raises Unavailable when the store is lost."""
        task = _Task(lambda connection: work(connection, *args, **kwargs))
        self._queue.append(task)
        self._asleep.append(task)
        leads = False
        try:
            if self._led:
                await task.woken.wait()
            if not task.done:
                leads = self._led = True
                await anyio.to_thread.run_sync(self._run_all)
        finally:
            if leads or (task.woken.is_set() and not task.done):  # it led, or was to lead when it was cancelled
                self._wake(without=None if task.done else task)
            elif not task.done:
                self._asleep.remove(task)
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
            await anyio.to_thread.run_sync(self._close, last)

    def _wake(self, without: _Task | None) -> None:
        """Wakes those that are done, and one that leads on where there are more."""
        left: deque[_Task] = deque()
        for task in self._asleep:
            if task.done:
                task.woken.set()
            elif task is not without:
                left.append(task)
        self._asleep = left
        self._led = bool(left)
        if left:
            left[0].woken.set()

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
            if error := self._try(tasks):
                for task in tasks:
                    # An error of our own code is its task's alone, one of the store everybody's.
                    if len(tasks) == 1 or isinstance(error, Unavailable):
                        task.fail(error)
                    else:
                        self._try_alone(task)

    def _try_alone(self, task: _Task) -> None:
        if error := self._try([task]):
            task.fail(error)

    def _try(self, tasks: list[_Task]) -> Exception | None:
        """All of the tasks in one transaction, or none and the reason."""
        try:
            self._see_the_file()
            with transaction(self._connection, self._mode):
                for task in tasks:
                    task.result = task.work(self._connection)
        except Exception as error:  # noqa: BLE001 - each caller is given it
            mine = translated(error, self._path or Path(":memory:")) if isinstance(error, sqlite3.Error) else error
            if mine is not error:
                mine.__cause__ = error
            if isinstance(mine, Unavailable):
                self.trouble = mine
            return mine
        self.trouble = None
        for task in tasks:
            task.done = True
        return None

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
