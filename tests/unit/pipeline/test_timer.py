"""The timer: it says when a start is due, and looks at every name from time to time."""

from datetime import datetime, timedelta

import anyio
import pytest

from service.pipeline import timer
from service.pipeline.clock import SystemClock


async def test_a_slot_is_told_when_it_comes_and_every_name_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[str] = []
    changed = anyio.Event()

    def tick(name: str) -> None:
        ticks.append(name)
        changed.set()

    def next_start(name: str, after: datetime) -> datetime:
        return after + (timedelta(milliseconds=20) if name == "soon" else timedelta(days=1))

    it = timer.Timer(SystemClock(), tick, next_start)
    await it.set_names(["soon", "far"])
    ticks.clear()
    changed = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        with anyio.fail_after(10):
            await changed.wait()
            assert set(ticks) == {"soon"}
            beat = it.beat
            monkeypatch.setattr(timer, "_MAX_SLEEP", 0.0)
            while "far" not in ticks:
                changed = anyio.Event()
                await changed.wait()
        assert it.beat > beat
        tasks.cancel_scope.cancel()
