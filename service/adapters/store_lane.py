"""A lane: one connection, one transaction at a time, never on the event loop."""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio

from service.adapters.store_file import is_damage, transaction, translated
from service.domain.errors import Unavailable

_MOST_TOGETHER = 2_000  # tasks a transaction

P = ParamSpec("P")
T = TypeVar("T")


class _Task:
    """Work that waits for its transaction, then its result or error."""

    __slots__ = ("done", "error", "leads", "result", "woken", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.leads = False  # the lane is its: it does a round and hands the lane on, whatever becomes of itself
        self.woken = anyio.Event()  # it is done, or it leads

    def fail(self, error: BaseException) -> None:
        self.error, self.done = error, True


class Lane:
    """Runs work in a worker thread, in transactions. What waits at the same time shares one: a commit costs a flush of
    the disk, and a thousand collectors may start in the same second.

    A caller that is cancelled does not stop the work: it is done whole or, where it had not begun, not at all (anyio
    waits for the thread). ``trouble``: why the last transaction failed, None when it did not. ``damage``: what is wrong
    with the file, once that was met and until ``take``. ``undone`` is called in the worker thread when a transaction
    did not come about.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, mode: str) -> None:
        """``path``: the connection's file, None for one in memory. ``mode``: of the transactions."""
        self.trouble: Unavailable | None = None
        self.damage: str | None = None
        self.undone: Callable[[], object] = lambda: None
        self._connection: sqlite3.Connection | None = connection
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
        # Threads of its own: collectors that hang in all of the common ones must not stop the store.
        self._threads = anyio.CapacityLimiter(2)

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(connection, *args)``. Raises Unavailable when the store is lost."""
        task = _Task(lambda connection: work(connection, *args, **kwargs))
        self._queue.append(task)
        self._asleep.append(task)
        try:
            if self._led:
                await task.woken.wait()
            else:
                task.leads = self._led = True
            if not task.done:
                await anyio.to_thread.run_sync(self._run_all, limiter=self._threads)
        finally:
            if task.leads:
                self._wake(without=task)
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
            await anyio.to_thread.run_sync(self._close, last, limiter=self._threads)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For a worker thread: no transaction begins meanwhile."""
        with self._lock:
            yield

    def let_go(self, reason: str, last: Callable[[sqlite3.Connection], object] = lambda connection: None) -> None:
        """Does ``last`` and closes the connection, while ``held``; until ``take`` all work fails with ``reason``."""
        if self._connection:
            try:
                last(self._connection)
            finally:
                self._connection.close()
        self._connection, self.trouble = None, Unavailable(reason)

    def take(self, connection: sqlite3.Connection) -> None:
        """Goes on with a new connection to the file, while ``held``."""
        if self._closed:
            connection.close()
            return
        self._connection, self.trouble, self.damage = connection, None, None
        self._file = _identity(self._path) if self._path else None

    def _wake(self, without: _Task) -> None:
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
            left[0].leads = True
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

    def _try(self, tasks: list[_Task]) -> BaseException | None:
        """All of the tasks in one transaction, or none and the reason."""
        try:
            connection = self._usable()
            with transaction(connection, self._mode):
                for task in tasks:
                    task.result = task.work(connection)
        except BaseException as error:  # noqa: BLE001 - each caller is given it; none may be left waiting
            self.undone()
            mine = translated(error, self._path or Path(":memory:")) if isinstance(error, sqlite3.Error) else error
            if mine is not error:
                mine.__cause__ = error
            if isinstance(mine, Unavailable):
                self.trouble = mine
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self.damage = str(error)
            return mine
        self.trouble = None
        for task in tasks:
            task.done = True
        return None

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None:
            raise self.trouble or Unavailable("the state database is not open")
        # SQLite would go on writing to a file that was deleted or replaced, and everything would be lost with it.
        if self._path and _identity(self._path) != self._file:
            self.damage = "it was removed or replaced"
            raise Unavailable(f"the state database is gone: {self._path} was removed or replaced")
        return self._connection

    def _close(self, last: Callable[[sqlite3.Connection], object] | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._connection is None:
                return
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
