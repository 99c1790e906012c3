"""The API, the probes and /metrics: one typed function a call."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator, ValidationError

from service.domain.errors import Unavailable
from service.domain.runs import Actor, Cause, Outcome
from service.pipeline.scheduler import UnknownCollector
from service.web.context import AppContext
from service.web.overview import Overview, check_life, check_readiness, in_slices, read_run_views
from service.web.problems import MEDIA_TYPE, Problem, invalid, retry_after, unknown_run
from service.web.prometheus import expose
from service.web.schemas import (
    API,
    Checks,
    Collectors,
    CollectorView,
    Health,
    Info,
    Log,
    LogLine,
    Reason,
    Runs,
    RunView,
    Samples,
    SampleView,
    State,
    Triggered,
    TriggeredRuns,
    run_address,
)

_MAX_ACTOR = _MAX_KEY = 200  # characters


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These refusals for /openapi.json. By reference: FastAPI takes 2 ms to make a field of each model."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def _body(required: bool, content: Mapping[str, Any]) -> dict[str, Any]:
    """A body that the call reads itself, for /openapi.json."""
    return {"requestBody": {"required": required, "content": dict(content)}}


_AT_RUN = {"headers": {"Location": {"schema": {"type": "string"}, "description": "the run's address"}}}
_REASON = _body(False, {"application/json": {"schema": {"$ref": "#/components/schemas/Reason"}}})
_SNAPSHOT = _body(True, {f"application/{kind}": {"schema": {}} for kind in ("json", "x-ndjson", "gzip")})
# What can meet any call before its own code: the head, the size of the body, a fault of ours; then the guard.
_ANYWHERE = problems(400, 413, 431, 500, 503)


async def refuse_unknown_query(request: Request) -> None:
    """A name that means nothing is an error, as in the configuration."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    if unknown := [name for name in request.query_params if name not in known]:
        what = "Extra inputs are not permitted"
        raise invalid([{"type": "extra", "loc": ("query", name), "msg": what, "input": None} for name in unknown])


async def get_context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


async def read_overview(context: Annotated[AppContext, Depends(get_context)]) -> Overview:
    return await context.overview.read()


async def read_caller(
    request: Request, x_actor: Annotated[str, Header(alias="X-Actor", description="who asks; kept with the act")] = ""
) -> Actor:
    """Who calls: the peer's address, and what it says of itself."""
    try:
        # Headers are read as latin-1; who writes a name there means UTF-8.
        name = x_actor.encode("latin-1").decode().strip()
    except UnicodeDecodeError as error:
        raise Problem(400, "X-Actor is not UTF-8.", "bad-header") from error
    if len(name) > _MAX_ACTOR or not name.isprintable():
        raise Problem(400, f"X-Actor is not {_MAX_ACTOR} printable characters at most.", "bad-header")
    return Actor(request.client.host if request.client else "", name)


async def read_actor(request: Request, caller: Annotated[Actor, Depends(read_caller)]) -> Actor:
    """Who asks and why; the body may be sent under any media type, as ``curl -d`` does."""
    body = await request.body()
    try:
        reason = Reason.model_validate_json(body).reason if body.strip() else None
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise Problem(400, "The body is not JSON.", "bad-body") from error
        raise invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
    return Actor(caller.source, caller.name, reason or "")


ContextDep = Annotated[AppContext, Depends(get_context)]
OverviewDep = Annotated[Overview, Depends(read_overview)]
CallerDep = Annotated[Actor, Depends(read_caller)]
ActorDep = Annotated[Actor, Depends(read_actor)]
Wait = Annotated[float, Query(ge=0, le=300, allow_inf_nan=False, description="seconds to wait for the end")]
Limit = Annotated[int, Query(ge=1, le=200)]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**53)]
# Without the validator a number would be taken for seconds since the epoch.
Since = Annotated[
    Annotated[AwareDatetime, BeforeValidator(datetime.fromisoformat)] | None,
    Query(description="only those that started then or later"),
]
Before = Annotated[str | None, Query(description="a run's id, as in `next`: only those older than it")]

health = APIRouter(tags=["health"], responses=_ANYWHERE)
guarded = APIRouter(tags=["health"], responses=_ANYWHERE | problems(401, 421))
api = APIRouter(
    prefix=API,
    tags=["api"],
    responses=_ANYWHERE | problems(401, 421, 422),
    dependencies=[Depends(refuse_unknown_query)],
)


# Probes, /version, /metrics


@health.get("/livez", responses={503: {"model": Health}})
@health.get("/healthz", responses={503: {"model": Health}})
async def live(context: ContextDep, response: Response) -> Health:
    """Liveness: the event loop and the scheduler beat"""
    return _answer(check_life(context), response)


@health.get("/readyz", responses={503: {"model": Health}})
async def ready(context: ContextDep, response: Response) -> Health:
    """Readiness: configured, and the store is open"""
    return _answer(await check_readiness(context), response)


@guarded.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, context: ContextDep) -> Response:
    """The daemon's metrics: Prometheus text, or OpenMetrics for who accepts it"""
    text, media_type = await expose(context, request.headers.get("accept", ""))
    return Response(text, headers={"content-type": media_type})


@guarded.get("/version")
async def version(context: ContextDep) -> Info:
    """What runs"""
    return context.info


def _answer(health: Health, response: Response) -> Health:
    response.status_code = 200 if health.ok else 503
    return health


# What there is


@api.get("/state")
async def state(overview: OverviewDep) -> State:
    """The daemon at a glance"""
    return overview.state


@api.get("/collectors", response_model=Collectors)
async def collectors(context: ContextDep, overview: OverviewDep) -> Response:
    """All collectors with schedule, next run, last run, last error"""
    text = await anyio.to_thread.run_sync(lambda: overview.collectors_json, limiter=context.threads)
    return Response(text, media_type="application/json")


@api.get("/collectors/{name}", responses=problems(404))
async def collector(overview: OverviewDep, name: str) -> CollectorView:
    """One collector"""
    return overview.collector(name)


@api.get("/collectors/{name}/checks", responses=problems(404))
async def checks(
    request: Request, overview: OverviewDep, name: str, offset: Offset = 0, limit: PageLimit = 100
) -> Checks:
    """What its checks say, since when, and the evidence"""
    return _find_checks(request, overview, name, "", offset, limit)


@api.get("/collectors/{name}/checks/{metric}", responses=problems(404))
async def checks_of_metric(
    request: Request, overview: OverviewDep, name: str, metric: str, offset: Offset = 0, limit: PageLimit = 100
) -> Checks:
    """The same of one metric, named in full, by its last parts, or by a check's name"""
    return _find_checks(request, overview, name, metric, offset, limit)


def _find_checks(request: Request, overview: Overview, name: str, metric: str, offset: int, limit: int) -> Checks:
    overview.collector(name)
    found = [check for _, check in overview.checks[name].checks if not metric or check.is_named(metric)]
    if metric and not found:
        raise Problem(404, f"Collector {name} has no check of {metric!r}.", "unknown-check")
    shown = found[offset : offset + limit]
    return Checks(checks=shown, total=len(found), next=_next_page(request, offset, len(shown), len(found)))


@api.get("/log")
async def log(context: ContextDep, limit: PageLimit = 200) -> Log:
    """The daemon's last log lines"""
    return Log(lines=list(map(LogLine.model_validate, context.log.recent(limit))))


# Runs


@api.get("/runs", responses=problems(404))
async def runs(
    request: Request,
    context: ContextDep,
    collector: str | None = None,
    outcome: Outcome | None = None,
    since: Since = None,
    limit: Limit = 50,
    before: Before = None,
) -> Runs:
    """Runs, newest first; `next` leads to the older ones"""
    if collector is not None and collector not in context.scheduler.jobs:
        raise UnknownCollector(collector, context.scheduler.jobs)
    if before and await context.store.runs.run(before) is None:
        raise unknown_run(before)
    # One more than asked for tells whether there are older ones.
    found = await context.store.runs.list(collector, outcome=outcome, since=since, limit=limit + 1, before=before)
    views = await read_run_views(context, found[:limit])
    return Runs(runs=views, next=_address(request, before=views[-1].id) if len(found) > limit else None)


@api.get("/runs/{id}", responses=problems(404))
async def run(context: ContextDep, id: str) -> RunView:
    """One run: cause, times, attempts, outcome, errors, delivery"""
    found = await context.store.runs.run(id)
    if found is None:
        raise unknown_run(id)
    return (await read_run_views(context, [found]))[0]


@api.get("/runs/{id}/samples", responses=problems(404))
async def samples(
    request: Request, context: ContextDep, id: str, offset: Offset = 0, limit: PageLimit = 100
) -> Samples:
    """What the run collected, and what became of each point"""
    await run(context, id)
    found, total = await context.store.outbox.samples(id, offset, limit)
    views = [SampleView.of(each) async for each in in_slices(found, 100)]
    return Samples(samples=views, total=total, next=_next_page(request, offset, len(views), total))


@api.get("/runs/{id}/log", responses=problems(404))
async def run_log(context: ContextDep, id: str) -> Log:
    """The run's log lines, debug ones included"""
    await run(context, id)
    return Log(lines=await read_run_log(context, id))


async def read_run_log(context: AppContext, run_id: str) -> list[LogLine]:
    """Once a run is stored, so are its lines; until then they are in memory."""
    lines = context.log.run_lines(run_id) or await context.store.runs.log(run_id)
    return list(map(LogLine.model_validate, lines))


# Acts


@api.post(
    "/collectors/{name}/runs",
    status_code=202,
    response_model=Triggered,
    responses=problems(403, 404, 409, 429) | {200: {"model": RunView} | _AT_RUN, 202: _AT_RUN},
    openapi_extra=_REASON,
)
async def run_collector(
    request: Request, response: Response, context: ContextDep, name: str, actor: ActorDep, wait: Wait = 0
) -> Triggered | Response:
    """Runs the collector now; with `wait` answers 200 with the run when it has ended by then"""
    with _within(context.waiting, "Too many callers wait for a run.", applies=wait > 0):
        started = await context.scheduler.trigger(name, Cause.HTTP, actor)
        response.headers["Location"] = run_address(started.id)
        if wait and (ended := await _wait_for(request, context, started.id, wait)):
            return Response(ended.model_dump_json(), 200, response.headers, "application/json")
    return Triggered(id=started.id, collector=name)


@api.post("/runs", status_code=202, responses=problems(403), openapi_extra=_REASON)
async def run_all(context: ContextDep, actor: ActorDep) -> TriggeredRuns:
    """Runs all enabled collectors now; tells also which were active already"""
    triggered = await context.scheduler.trigger_all(Cause.HTTP, actor)
    views = [Triggered(id=each.run_id, collector=each.collector, started=each.is_new) for each in triggered]
    return TriggeredRuns(runs=views)


@api.post("/runs/{id}/cancel", status_code=202, responses=problems(403, 404, 409), openapi_extra=_REASON)
async def cancel_run(context: ContextDep, id: str, actor: ActorDep) -> RunView:
    """Ends the run as Cancelled"""
    await context.scheduler.cancel(id, actor)
    return await run(context, id)


@api.post(
    "/collectors/{name}/snapshots",
    status_code=202,
    responses=problems(403, 404, 429) | {202: _AT_RUN},
    openapi_extra=_SNAPSHOT,
)
async def push_snapshot(
    request: Request,
    response: Response,
    context: ContextDep,
    name: str,
    caller: CallerDep,
    idempotency_key: Annotated[str, Header(alias="Idempotency-Key", description="marks a push sent again")] = "",
) -> Triggered:
    """Takes a snapshot, keeps it and runs the collector, after the active run if there is one"""
    key = idempotency_key.strip() or secrets.token_hex(8)
    if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Problem(400, f"Idempotency-Key is not {_MAX_KEY} ASCII characters at most.", "bad-header")
    if name not in context.scheduler.jobs:
        raise UnknownCollector(name, context.scheduler.jobs)
    accept = getattr(context.scheduler.jobs[name].collector, "accept", None)
    if accept is None:
        raise Problem(404, f"Collector {name} takes no snapshots.", "takes-no-snapshots")
    with _within(context.pushing, "Too many snapshots come at once."):
        await accept(await request.body(), key, context.clock.now())
    started = await context.scheduler.trigger_after(name, Cause.PUSH, caller)
    response.headers["Location"] = run_address(started.id)
    return Triggered(id=started.id, collector=name)


@api.post("/collectors/{name}/pause", responses=problems(403, 404), openapi_extra=_REASON)
async def pause(context: ContextDep, name: str, actor: ActorDep) -> CollectorView:
    """Suspends the schedule, across restarts, too"""
    await context.scheduler.pause(name, actor)
    return (await context.overview.read(fresh=True)).collector(name)


@api.post("/collectors/{name}/resume", responses=problems(403, 404), openapi_extra=_REASON)
async def resume(context: ContextDep, name: str, actor: ActorDep) -> CollectorView:
    """Resumes the schedule; the latest slot that was missed starts at once"""
    await context.scheduler.resume(name, actor)
    return (await context.overview.read(fresh=True)).collector(name)


async def _wait_for(request: Request, context: AppContext, run_id: str, seconds: float) -> RunView | None:
    """The ended run; None when the time is up, the daemon closes or the caller has left."""
    ended: list[RunView] = []
    lost: Unavailable | None = None

    async with anyio.create_task_group() as tasks:

        async def leave_when(happens: Any) -> None:
            await happens()
            tasks.cancel_scope.cancel()

        tasks.start_soon(leave_when, context.closing.wait)
        tasks.start_soon(leave_when, request.receive)  # the body is read: only a disconnect can come
        try:
            if found := await context.scheduler.wait(run_id, seconds):
                ended = await read_run_views(context, [found])
        except Unavailable as error:
            lost = error  # raised outside: a task group would wrap it
        tasks.cancel_scope.cancel()
    if lost:
        raise lost
    return ended[0] if ended else None


@contextmanager
def _within(limiter: anyio.CapacityLimiter, detail: str, *, applies: bool = True) -> Iterator[None]:
    """A place below the limit. Raises Problem 429 when there is none."""
    place = object()
    if applies:
        try:
            limiter.acquire_on_behalf_of_nowait(place)
        except anyio.WouldBlock as error:
            raise Problem(429, detail, "too-many", headers=retry_after()) from error
    try:
        yield
    finally:
        if applies:
            limiter.release_on_behalf_of(place)


def _next_page(request: Request, offset: int, shown: int, total: int) -> str | None:
    return _address(request, offset=offset + shown) if shown and offset + shown < total else None


def _address(request: Request, **changes: str | int) -> str:
    """This same address with another query."""
    return f"{quote(request.scope['path'])}?{urlencode({**request.query_params, **changes})}"
