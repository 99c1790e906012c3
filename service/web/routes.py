"""The API, the probes and /metrics: one typed function a call."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator, JsonValue, ValidationError

from service.collectors.github_ci.weekly_runs import Order
from service.config.fields import did_you_mean, read_time
from service.domain.errors import Unavailable
from service.domain.runs import Actor, Cause, Outcome, Run
from service.web import schemas
from service.web.board import read_history
from service.web.context import AppContext
from service.web.health import Health, State, check_life, check_readiness
from service.web.overview import CurrentCheck, find_job, read_checks, read_collector, read_overview, read_week
from service.web.problems import MEDIA_TYPE, Problem, invalid, unknown_run
from service.web.prometheus import METRICS_TYPE, write_metrics
from service.web.runs import Samples, read_run, read_run_log, view_runs
from service.web.schemas import API, CheckHistoryView, CollectorView, Log, Reason, RunView, Triggered, run_address

_MAX_ACTOR = _MAX_KEY = 200  # characters
_LOOK = 1.0  # seconds between two looks whether a waiting caller is still there


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
        there = f"; there are: {', '.join(sorted(known)) or 'none'}"
        hints = {name: did_you_mean(name, known) or there for name in unknown}
        raise invalid([{"loc": ("query", name), "msg": f"there is no such name{hints[name]}"} for name in unknown])


async def get_context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


def _printable(length: int) -> dict[str, JsonValue]:
    """What the description says of a header. X-Actor may be any UTF-8, which a pattern of bytes can't say."""
    return {"pattern": "^[\\x20-\\x7E]*$", "maxLength": length}


async def read_caller(
    request: Request,
    x_actor: Annotated[
        str,
        Header(alias="X-Actor", description="who asks; kept with the act", json_schema_extra=_printable(_MAX_ACTOR)),
    ] = "",
) -> Actor:
    """Who calls: the peer's address, and what it says of itself."""
    try:
        # Headers are read as latin-1; who writes a name there means UTF-8.
        name = x_actor.encode("latin-1").decode().strip()
    except UnicodeDecodeError as error:
        raise Problem(400, "X-Actor is not UTF-8.", "bad-header") from error
    if len(name) > _MAX_ACTOR or not name.isprintable():
        raise Problem(400, f"X-Actor is not {_MAX_ACTOR} printable characters at most.", "bad-header")
    # Of a socket for both families an IPv4 caller comes as ::ffff:10.0.0.7.
    return Actor(request.client.host.removeprefix("::ffff:") if request.client else "", name)


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
CallerDep = Annotated[Actor, Depends(read_caller)]
ActorDep = Annotated[Actor, Depends(read_actor)]
Wait = Annotated[float, Query(ge=0, le=300, allow_inf_nan=False, description="seconds to wait for the end")]
Limit = Annotated[int, Query(ge=1, le=200)]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**53)]


# Without the validator a number would be taken for seconds since the epoch.
Since = Annotated[
    Annotated[AwareDatetime, BeforeValidator(read_time)] | None,
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
async def metrics(context: ContextDep) -> Response:
    """The daemon's metrics as Prometheus text"""

    async def make() -> bytes:
        known = None
        with suppress(Unavailable):  # what can't be known while the store is lost is left out
            known = await read_overview(context)
        # Thousands of lines take longer than the loop may stand still.
        return await anyio.to_thread.run_sync(write_metrics, context, known, limiter=context.threads)

    return Response(await context.cache.get("metrics", make), headers={"content-type": METRICS_TYPE})


@guarded.get("/version")
async def version(context: ContextDep) -> schemas.Info:
    """What runs"""
    return context.info


def _answer(health: Health, response: Response) -> Health:
    response.status_code = 200 if health.ok else 503
    return health


# What there is


@api.get("/state")
async def state(context: ContextDep) -> State:
    """The daemon at a glance"""
    return (await read_overview(context)).state


@api.get("/collectors", response_model=schemas.Collectors)
async def collectors(context: ContextDep) -> Response:
    """All collectors with schedule, next run, last run, last error"""
    found = (await read_overview(context)).collectors.values()
    return await _respond(context, schemas.Collectors, collectors=list(found))


@api.get("/collectors/{name}", responses=problems(404))
async def collector(context: ContextDep, name: str) -> CollectorView:
    """One collector"""
    return CollectorView.model_validate(await read_collector(context, name))


@api.get("/collectors/{name}/checks", response_model=schemas.Checks, responses=problems(404))
async def checks(
    request: Request, context: ContextDep, name: str, offset: Offset = 0, limit: PageLimit = 100
) -> Response:
    """What its checks say, since when, and the evidence"""
    return await _find_checks(request, context, name, "", offset, limit)


@api.get("/collectors/{name}/checks/{metric}", response_model=schemas.Checks, responses=problems(404))
async def checks_of_metric(
    request: Request, context: ContextDep, name: str, metric: str, offset: Offset = 0, limit: PageLimit = 100
) -> Response:
    """The same of one metric, named in full, by its last parts, or by a check's name"""
    return await _find_checks(request, context, name, metric, offset, limit)


@api.get("/collectors/{name}/workflows", response_model=schemas.Workflows, responses=problems(404))
async def workflows(
    request: Request,
    context: ContextDep,
    name: str,
    by: Order = "failures",
    offset: Offset = 0,
    limit: PageLimit = 100,
) -> Response:
    """The last seven days of the workflows that it reads: runs, failures, durations, re-runs; the worst first"""
    weeks, found = await read_week(context, name, by)
    shown, following = found[offset : offset + limit], _next_page(request, offset, limit, len(found))
    return await _respond(
        context, schemas.Workflows, repositories=weeks, workflows=shown, total=len(found), next=following
    )


@api.get("/collectors/{name}/history/{check}", response_model=CheckHistoryView, responses=problems(404))
async def check_history(context: ContextDep, name: str, check: str) -> CheckHistoryView:
    """Seven days of one check, which its `links` name"""
    found = [each for each in await read_checks(context, name) if f"{each.id:x}" == check]
    if not found:
        raise Problem(404, f"Collector {name} has no check {check!r} (any more).", "unknown-check")
    cycles, known = await read_history(context, name, found[0].id)
    cells = [(cycle, known.cells[cycle.number]) for cycle in cycles if cycle.number in known.cells]
    return CheckHistoryView(
        hours=[schemas.HourView.model_validate(each) for each in known.hours],
        cycles=[schemas.CycleView(run=cycle.run, at=cycle.ended, **cell._asdict()) for cycle, cell in cells],
    )


async def _find_checks(
    request: Request, context: AppContext, name: str, metric: str, offset: int, limit: int
) -> Response:
    found = [check for check in await read_checks(context, name) if not metric or _is_named(check, metric)]
    if metric and not found:
        raise Problem(404, f"Collector {name} has no check of {metric!r}.", "unknown-check")
    shown, following = found[offset : offset + limit], _next_page(request, offset, limit, len(found))
    return await _respond(context, schemas.Checks, checks=shown, total=len(found), next=following)


def _is_named(current: CurrentCheck, name: str) -> bool:
    """Whether ``name`` means this check: its metric, the last parts of that, or the check's own name."""
    metric, tags = current.check.metric, current.check.tags
    return name in (metric, tags.get("check")) or metric.endswith(f".{name}")


@api.get("/log")
async def log(context: ContextDep, limit: PageLimit = 200) -> Log:
    """The daemon's last log lines"""
    return Log.model_validate({"lines": context.log.recent(limit)})


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
) -> schemas.Runs:
    """Runs, newest first; `next` leads to the older ones"""
    if collector is not None and not await context.store.runs.list(collector, limit=1):
        find_job(context, collector)  # of one that is configured no more the runs can still be read
    if before and await context.store.runs.run(before) is None:
        raise unknown_run(before)
    # One more than asked for tells whether there are older ones.
    found = await context.store.runs.list(collector, outcome=outcome, since=since, limit=limit + 1, before=before)
    views = await view_runs(context, found[:limit])
    return schemas.Runs(runs=views, next=_address(request, before=views[-1].id) if len(found) > limit else None)


@api.get("/runs/{id}", responses=problems(404))
async def run(context: ContextDep, id: str) -> RunView:
    """One run: cause, times, attempts, outcome, errors, delivery"""
    if found := await read_run(context, id):
        return found
    raise unknown_run(id)


@api.get("/runs/{id}/samples", response_model=Samples, responses=problems(404))
async def samples(
    request: Request, context: ContextDep, id: str, offset: Offset = 0, limit: PageLimit = 100
) -> Response:
    """What the run collected, and what became of each point"""
    await run(context, id)
    found, total = await context.store.outbox.samples(id, offset, limit)
    following = _next_page(request, offset, limit, total)
    return await _respond(context, Samples, samples=found, total=total, next=following)


@api.get("/runs/{id}/log", responses=problems(404))
async def run_log(context: ContextDep, id: str) -> Log:
    """The run's log lines, debug ones included"""
    await run(context, id)
    return await read_run_log(context, id)


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
    with _place(context.waiting, "Too many callers wait for a run.") if wait else nullcontext():
        started = await context.scheduler.trigger(name, Cause.HTTP, actor)
        response.headers["Location"] = run_address(started.id)
        ended = await _wait_for(request, context, started.id, wait)
    context.changed()
    if ended:
        text = (await view_runs(context, [ended]))[0].model_dump_json()
        return Response(text, 200, response.headers, "application/json")
    return Triggered(id=started.id, collector=name)


@api.post("/runs", status_code=202, responses=problems(403), openapi_extra=_REASON)
async def run_all(context: ContextDep, actor: ActorDep) -> schemas.TriggeredRuns:
    """Runs all enabled collectors now; tells also which were active already"""
    triggered = await context.scheduler.trigger_all(Cause.HTTP, actor)
    context.changed()
    return schemas.TriggeredRuns.model_validate({"runs": triggered})


@api.post("/runs/{id}/cancel", status_code=202, responses=problems(403, 404, 409), openapi_extra=_REASON)
async def cancel_run(context: ContextDep, id: str, actor: ActorDep) -> RunView:
    """Ends the run as Cancelled"""
    await context.scheduler.cancel(id, actor)
    context.changed()
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
    idempotency_key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            description="marks a push sent again: until a run has read it, it is kept once",
            json_schema_extra=_printable(_MAX_KEY),
        ),
    ] = "",
) -> Triggered:
    """Takes a snapshot, keeps it and runs the collector, after the active run if there is one"""
    key = idempotency_key.strip() or secrets.token_hex(8)
    if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Problem(400, f"Idempotency-Key is not {_MAX_KEY} ASCII characters at most.", "bad-header")
    accept = getattr(find_job(context, name).collector, "accept", None)
    if accept is None:
        raise Problem(404, f"Collector {name} takes no snapshots.", "takes-no-snapshots")
    with _place(context.pushing, "Too many snapshots come at once."):
        await accept(await request.body(), key, context.clock.now())
    started = await context.scheduler.trigger_after(name, Cause.PUSH, caller)
    context.changed()
    response.headers["Location"] = run_address(started.id)
    return Triggered(id=started.id, collector=name)


@api.post("/collectors/{name}/pause", responses=problems(403, 404), openapi_extra=_REASON)
async def pause(context: ContextDep, name: str, actor: ActorDep) -> CollectorView:
    """Suspends the schedule, across restarts, too"""
    await context.scheduler.pause(name, actor)
    context.changed()
    return CollectorView.model_validate(await read_collector(context, name))


@api.post("/collectors/{name}/resume", responses=problems(403, 404), openapi_extra=_REASON)
async def resume(context: ContextDep, name: str, actor: ActorDep) -> CollectorView:
    """Resumes the schedule; the latest slot that was missed starts at once"""
    await context.scheduler.resume(name, actor)
    context.changed()
    return CollectorView.model_validate(await read_collector(context, name))


async def _wait_for(request: Request, context: AppContext, run_id: str, seconds: float) -> Run | None:
    """The ended run; None when the time is up or the caller has left."""
    until = context.clock.monotonic() + seconds
    while (left := until - context.clock.monotonic()) > 0 and not await request.is_disconnected():
        if ended := await context.scheduler.active.wait(run_id, min(left, _LOOK)):
            return ended
    return None


@contextmanager
def _place(places: anyio.Semaphore, detail: str) -> Iterator[None]:
    """One of the places. Raises Problem 429 when there is none."""
    try:
        places.acquire_nowait()
    except anyio.WouldBlock as error:
        raise Problem(429, detail, "too-many") from error
    try:
        yield
    finally:
        places.release()


async def _respond(context: AppContext, model: type[schemas.View], **values: Any) -> Response:
    """Hundreds of rows take longer than the loop may stand still, but a thread gives it its turns."""
    text = await anyio.to_thread.run_sync(
        lambda: model.model_validate(values).model_dump_json(), limiter=context.threads
    )
    return Response(text, media_type="application/json")


def _next_page(request: Request, offset: int, limit: int, total: int) -> str | None:
    return _address(request, offset=offset + limit) if offset + limit < total else None


def _address(request: Request, **changes: str | int) -> str:
    """This same address with another query."""
    return f"{quote(request.scope['path'])}?{urlencode({**request.query_params, **changes})}"
