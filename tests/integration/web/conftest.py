"""The web with two collectors and no tokens."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.web import server
from tests.integration.web.stage import Stage, served


@pytest.fixture
def options() -> dict[str, Any]:
    """What else ``served`` is given, for files and tests to set."""
    return {}


@pytest.fixture
async def stage(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Held by a task of its own: pytest sets up and ends fixtures in different ones, which task groups refuse."""
    monkeypatch.setattr(server, "_TICK", 0.05)
    ready, end = asyncio.Queue[Stage](), asyncio.Event()

    async def hold() -> None:
        async with served(tmp_path / "store", **options) as it:
            ready.put_nowait(it)
            await end.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold())
        yield await ready.get()
        end.set()
