"""The process: how the parts are put together, how they start, change and end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.config.settings import Settings
    from service.store import Store


@asynccontextmanager
async def read_store(settings: "Settings") -> "AsyncIterator[Store | None]":
    """The store to read from, also beside a daemon.

    None where nothing was ever run: `check` and `schedule` need neither store nor its library then. Raises ConfigError
    (the directory can't be read) or Unavailable.
    """
    if not settings.store.url and not (settings.state_dir / "state.db").exists():
        yield None
        return
    from service.store import Store

    store = await Store.open_reading(settings.state_dir, settings.store)
    try:
        yield store
    finally:
        await store.close()
