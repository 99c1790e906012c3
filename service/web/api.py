"""What the calls of /api/v1 do: collectors, runs and their samples; triggers, pushes, pauses."""

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlencode

import anyio
from starlette.requests import Request
from starlette.responses import Response

from service.domain.errors import HealthError
from service.web.asked import Given, History, Last, Nothing, Page, Waiting, caller, origin, query
from service.web.check_views import Checks
from service.web.operations import Operations, Origin
from service.web.problems import RETRY_AFTER, Problem
from service.web.views import (
    Collectors,
    Log,
    Runs,
    RunView,
    Samples,
    TriggeredRuns,
    View,
    run_address,
)

# Each waiting caller holds a connection; beyond these a caller is told to come back.
MOST_WAITING = 16
# Each may take the memory of a large snapshot.
MOST_PUSHING = 2
_LONGEST_KEY = 200


class Api:
    """The calls. ``closing`` is set when the server ends: who waits for a run is answered then, not cut off."""

    def __init__(self, operations: Operations, closing: anyio.Event) -> None:
        self._operations = operations
        self._closing = closing
        self._waiting = 0
        self._pushing = 0

    async def state(self, request: Request) -> Response:
        query(request, Nothing)
        return answer(await self._operations.board.state())

    async def collectors(self, request: Request) -> Response:
        query(request, Nothing)
        return answer(Collectors(collectors=await self._operations.collectors()))

    async def collector(self, request: Request) -> Response:
        query(request, Nothing)
        return answer(await self._operations.collector(request.path_params["name"]))

    async def trigger(self, request: Request) -> Response:
        seconds = query(request, Waiting).wait
        asker = await origin(request)
        if seconds and self._waiting >= MOST_WAITING:
            raise Problem(
                429, "Too many callers wait for a run.", kind="too-many", headers={"Retry-After": str(RETRY_AFTER)}
            )
        self._waiting += 1 if seconds else 0
        try:
            triggered = await self._operations.trigger(request.path_params["name"], asker)
            location = {"Location": run_address(triggered.id)}
            ended = await self._ended(request, triggered.id, seconds) if seconds else None
        finally:
            self._waiting -= 1 if seconds else 0
        return answer(ended, headers=location) if ended else answer(triggered, 202, headers=location)

    async def push(self, request: Request) -> Response:
        """A snapshot as the body: JSON or JSON lines, plain or gzip. ``Idempotency-Key`` marks a push sent again."""
        query(request, Nothing)
        if self._pushing >= MOST_PUSHING:
            raise Problem(
                429, "Too many snapshots come at once.", kind="too-many", headers={"Retry-After": str(RETRY_AFTER)}
            )
        key = request.headers.get("idempotency-key", "").strip() or secrets.token_hex(8)
        if len(key) > _LONGEST_KEY or not (key.isascii() and key.isprintable()):
            raise Problem(400, f"Idempotency-Key is not {_LONGEST_KEY} ASCII characters at most.", kind="bad-header")
        source = caller(request)
        self._pushing += 1
        try:
            # An unknown name is refused before its snapshot is taken in.
            await self._operations.collector(request.path_params["name"])
            triggered = await self._operations.push(request.path_params["name"], await request.body(), key, source)
        finally:
            self._pushing -= 1
        return answer(triggered, 202, headers={"Location": run_address(triggered.id)})

    async def trigger_all(self, request: Request) -> Response:
        query(request, Nothing)
        return answer(TriggeredRuns(runs=await self._operations.trigger_all(await origin(request))), 202)

    async def runs(self, request: Request) -> Response:
        asked = query(request, History)
        if asked.before and await self._operations.run(asked.before) is None:
            raise unknown_run(asked.before)
        # One more than asked for tells whether there are older ones.
        found = await self._operations.runs(asked.collector, asked.limit + 1, asked.before)
        runs = found[: asked.limit]
        following = None
        if len(found) > len(runs):
            following = asked.model_copy(update={"before": runs[-1].id})
        return answer(Runs(runs=runs, next=_address(request, following)))

    async def run(self, request: Request) -> Response:
        query(request, Nothing)
        return answer(await find_run(self._operations, request.path_params["id"]))

    async def samples(self, request: Request) -> Response:
        asked = query(request, Page)
        found = await self._operations.samples(request.path_params["id"], asked.offset, asked.limit)
        if found is None:
            raise unknown_run(request.path_params["id"])
        samples, total = found
        end = asked.offset + len(samples)
        following = asked.model_copy(update={"offset": end}) if samples and end < total else None
        return answer(Samples(samples=samples, total=total, next=_address(request, following)))

    async def checks(self, request: Request) -> Response:
        asked = query(request, Page)
        name, metric = request.path_params["name"], request.path_params.get("metric")
        found = await self._operations.checks(name, metric)
        if metric and not found:
            raise Problem(404, f"Collector {name} has no check of {metric!r}.", kind="unknown-check")
        end = asked.offset + asked.limit
        following = asked.model_copy(update={"offset": end}) if end < len(found) else None
        return answer(Checks(checks=found[asked.offset : end], total=len(found), next=_address(request, following)))

    async def run_log(self, request: Request) -> Response:
        query(request, Nothing)
        run = await find_run(self._operations, request.path_params["id"])
        return answer(Log(lines=await self._operations.run_log(run.id)))

    async def log(self, request: Request) -> Response:
        return answer(Log(lines=self._operations.recent_log(query(request, Last).limit)))

    async def pause(self, request: Request) -> Response:
        return await self._change(request, self._operations.pause)

    async def resume(self, request: Request) -> Response:
        return await self._change(request, self._operations.resume)

    async def _change(self, request: Request, change: Callable[[str, Origin], Awaitable[None]]) -> Response:
        query(request, Nothing)
        name = request.path_params["name"]
        await change(name, await origin(request))
        return answer(await self._operations.collector(name))

    async def _ended(self, request: Request, run_id: str, seconds: float) -> RunView | None:
        """The ended run; None when the time is up, the daemon closes or the caller has left."""
        ended: RunView | None = None
        failure: HealthError | None = None

        async def leave_on(gone: Callable[[], Awaitable[object]]) -> None:
            await gone()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave_on, self._closing.wait)
            tasks.start_soon(leave_on, request.receive)  # the body is read: only a disconnect can come
            try:
                ended = await self._operations.wait(run_id, seconds)
            except HealthError as error:
                failure = error  # raised outside: a task group would wrap it
            tasks.cancel_scope.cancel()
        if failure:
            raise failure
        return ended


def answer(view: View, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(view.model_dump_json(), status, headers, "application/json")


async def find_run(operations: Operations, run_id: str) -> RunView:
    """Raises Problem 404."""
    run = await operations.run(run_id)
    if run is None:
        raise unknown_run(run_id)
    return run


def unknown_run(run_id: str) -> Problem:
    return Problem(404, f"There is no run {run_id!r} (any more).", kind="unknown-run")


def _address(request: Request, following: Given | None) -> str | None:
    """This same address, asking for what follows."""
    if following is None:
        return None
    return f"{quote(request.scope['path'])}?{urlencode(following.model_dump(exclude_none=True))}"
