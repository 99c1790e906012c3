"""The store on a file, in memory and on PostgreSQL: what holds for one holds for all."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.config.settings import StoreSettings
from service.store import Store
from service.store.engine import open_memory
from service.store.fallback import Failover
from tests.integration.store.cases import NOW, opened
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(params=["file", "memory", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = Store(Failover(open_memory(), lambda: NOW), StoreSettings())
        yield memory
        await memory.close()
        return
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    async with opened(tmp_path, url=url) as opened_store:
        yield opened_store
