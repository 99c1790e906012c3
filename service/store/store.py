"""The store as its users see it: one object, whatever becomes of the disk below it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from service.domain.runs import Mode
from service.store.history import History
from service.store.notifications import Notifications
from service.store.outbox import Outbox
from service.store.runs import Runs
from service.store.states import States

if TYPE_CHECKING:
    from service.config.settings import StoreSettings


class Store:
    """Open one with ``open`` (one process a directory) or ``open_reading``; ``close`` it.

    ``mode``: the mode of heartbeat samples; a run has its own. ``history_limits``: of collectors with limits of their
    own, (failed, successful) runs that are kept, None where the general one holds. ``trouble``: why runs go on in
    memory, None while the disk takes everything. ``is_empty``: nothing was ever run with it before it was opened.
    Every method raises Unavailable when neither the disk nor the memory beside it can do it.
    """

    runs: Runs
    outbox: Outbox
    history: History
    notifications: Notifications
    states: States
    mode: Mode
    history_limits: Mapping[str, tuple[int | None, int | None]]
    trouble: str | None
    is_empty: bool

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        limits: "StoreSettings",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        url: str = "",
    ) -> Self:
        """The store of ``state_dir``, taken from its last holder as it was left; ``url``: of a PostgreSQL instead.

        Runs that were active end as Interrupted, distributions that were being sent become unknown. A damaged file, or
        one of an unknown layout, is set aside and a new one starts.
        Raises ConfigError (in use by another process, not usable, of a newer version) or Unavailable.
        """
        raise NotImplementedError

    @classmethod
    async def open_reading(cls, state_dir: Path) -> Self:
        """The store of ``state_dir`` to read from, beside a daemon or without one; a missing store is an empty one.

        Raises ConfigError (the file is of another version) or Unavailable.
        """
        raise NotImplementedError

    async def check(self) -> None:
        """Returns when the store can be read and, as far as is known, written. Raises Unavailable."""
        raise NotImplementedError

    async def recover(self) -> bool:
        """Where runs go on in memory, takes them to the disk if that works again; a damaged file is set aside.

        Whether it did: there may be more to deliver then. To be called every few seconds; it raises nothing.
        """
        raise NotImplementedError

    async def prune(self, now: datetime) -> int:
        """Removes what has had its time and keeps within ``limits``; how many pending samples had to go for it."""
        raise NotImplementedError

    async def backup(self, target: Path) -> None:
        """Copies the store while it is in use; ``target`` is whole or untouched. Raises ConfigError or Unavailable."""
        raise NotImplementedError

    async def close(self) -> None:
        """Lets the next process open it."""
        raise NotImplementedError
