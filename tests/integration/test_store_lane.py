"""A lane under many callers: each is answered, whoever else is cancelled, fails or closes it meanwhile."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.adapters.store_file import connect
from service.adapters.store_lane import Lane
from service.domain.errors import Unavailable

pytestmark = pytest.mark.anyio


class _OurFaultError(Exception):
    """What a bug of our own would raise."""


def lane_to(path: Path) -> Lane:
    connection = connect(path)
    connection.execute("CREATE TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY) STRICT")
    return Lane(connection, path, "IMMEDIATE")


def keep(connection: sqlite3.Connection, number: int, seconds: float = 0.0, error: BaseException | None = None) -> int:
    connection.execute("INSERT INTO kept VALUES (?)", (number,))
    time.sleep(seconds)  # the work itself takes so long, in its thread
    if error:
        raise error
    return number


def kept(connection: sqlite3.Connection) -> set[int]:
    return {number for (number,) in connection.execute("SELECT number FROM kept")}


# How a caller fares: lets its work be, is cancelled by a scope or by asyncio itself, or its work fails.
FATES = ("stays", "stays", "scope", "asyncio", "fails", "exits")
callers = st.lists(
    st.tuples(
        st.sampled_from(FATES),
        st.floats(0, 0.004),  # when it comes
        st.floats(0, 0.003),  # how long its work takes
        st.floats(0, 0.004),  # how long after its coming it is cancelled
    ),
    min_size=1,
    max_size=14,
)


@settings(deadline=None, max_examples=150)
@given(callers=callers)
async def test_each_caller_is_answered_whatever_becomes_of_the_others(
    callers: list[tuple[str, float, float, float]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What was answered is kept, what failed is not, what was cancelled is whole or not at all; and none waits on."""
    lane = lane_to(tmp_path_factory.mktemp("lane") / "lane.db")
    answered: set[int] = set()
    refused: set[int] = set()

    async def call(number: int, fate: str, seconds: float) -> None:
        error = {"fails": _OurFaultError(), "exits": SystemExit(3)}.get(fate)
        try:
            assert await lane.run(keep, number, seconds, error) == number
        except (_OurFaultError, SystemExit):
            refused.add(number)
        else:
            answered.add(number)

    async def come(number: int, fate: str, after: float, seconds: float, patience: float) -> None:
        await asyncio.sleep(after)
        if fate == "scope":
            with anyio.move_on_after(patience):
                await call(number, fate, seconds)
        elif fate == "asyncio":
            task = asyncio.ensure_future(call(number, fate, seconds))
            await asyncio.sleep(patience)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        else:
            await call(number, fate, seconds)

    with anyio.fail_after(20):
        await asyncio.gather(*(come(number, *caller) for number, caller in enumerate(callers)))
        # Whoever was left behind in a thread is done before this one.
        found = await lane.run(kept)
        await lane.close()
    assert answered <= found
    assert not refused & found
    stays = {number for number, (fate, *_) in enumerate(callers) if fate == "stays"}
    fails = {number for number, (fate, *_) in enumerate(callers) if fate in ("fails", "exits")}
    assert (stays <= answered, fails == refused) == (True, True)


async def test_a_lane_that_is_closed_answers_those_who_wait(tmp_path: Path) -> None:
    random = Random(4)
    lane = lane_to(tmp_path / "lane.db")
    ends: list[str] = []

    async def call(number: int) -> None:
        await anyio.sleep(random.uniform(0, 0.02))
        try:
            await lane.run(keep, number, 0.001)
        except Unavailable:
            ends.append("closed")
        else:
            ends.append("kept")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(call, number)
            await anyio.sleep(0.01)
            await lane.close()
    assert len(ends) == 60
    assert set(ends) <= {"closed", "kept"}
    with pytest.raises(Unavailable, match="closed"):
        await lane.run(kept)
    again = lane_to(tmp_path / "lane.db")
    assert len(await again.run(kept)) == ends.count("kept")
    await again.close()


async def test_the_store_works_while_collectors_hang_in_every_common_thread(tmp_path: Path) -> None:
    lane = lane_to(tmp_path / "lane.db")
    limiter = anyio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        with anyio.fail_after(10):
            assert await lane.run(keep, 1) == 1
            await lane.close()
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)
