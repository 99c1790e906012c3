"""Pings to real watchers on loopback: order, watchers that hang, and the end of the daemon."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.adapters import pings
from service.adapters.pings import Event, Pings
from service.demo.serving import served


def watcher(calls: list[str], seconds: Callable[[str], float] = lambda _: 0.0) -> Starlette:
    async def ping(request: Request) -> Response:
        await anyio.sleep(seconds(request.url.path))
        calls.append(request.url.path)
        return Response("OK")

    return Starlette(routes=[Route("/{path:path}", ping)])


@asynccontextmanager
async def running() -> AsyncIterator[Pings]:
    told = Pings()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(told.run)
        yield told
        tasks.cancel_scope.cancel()


async def test_a_hundred_collectors_that_start_at_once_are_all_heard_each_in_its_order() -> None:
    calls: list[str] = []
    with served(watcher(calls)) as (url,):
        async with running() as told:
            for event in (Event.START, Event.SUCCESS):
                for number in range(100):
                    told.tell(f"{url}/{number}", event, f"run-{number}")
            await told.flush(20)
        assert told.failures == 0
    for number in range(100):
        mine = [call for call in calls if call.split("/")[1] == str(number)]
        assert mine == [f"/{number}/start", f"/{number}"]


async def test_a_watcher_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "_TIMEOUT", 0.2)
    monkeypatch.setattr(pings, "_PAUSE", 0.0)
    calls: list[str] = []
    with served(watcher(calls, lambda path: 60.0 if "dead" in path else 0.0)) as (url,):
        async with running() as told:
            for number in range(3):
                told.tell(f"{url}/dead", Event.START, f"dead-{number}")
                told.tell(f"{url}/well", Event.SUCCESS, f"well-{number}")
            await told.flush(10)
        assert calls == ["/well"] * 3
        assert told.failures == 3


async def test_what_waited_too_long_tells_of_another_time_and_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "_FRESH", 0.0)
    calls: list[str] = []
    with served(watcher(calls)) as (url,):
        async with running() as told:
            told.tell(url, Event.SUCCESS, "run")
            await told.flush(10)
        assert (calls, told.failures) == ([], 1)


async def test_the_last_success_is_told_before_the_daemon_ends_and_a_late_one_breaks_nothing() -> None:
    calls: list[str] = []
    with served(watcher(calls, lambda _: 0.3)) as (url,):
        async with running() as told:
            told.tell(url, Event.START, "run")
            told.tell(url, Event.SUCCESS, "run")
            await told.flush(10)
            assert calls == ["/start", "/"]
        told.tell(url, Event.FAILURE, "run")
        assert told.failures == 1
