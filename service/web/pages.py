"""The pages: rendered on the server, at most once a second each, and read by all from memory."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response

from service.domain.delivery import DeliveryStatus
from service.web import board, charts
from service.web.auth import is_expected
from service.web.board import Place
from service.web.comparison import compare_runs
from service.web.context import AppContext
from service.web.overview import Overview, read_run_views
from service.web.problems import Problem, unknown_run
from service.web.routes import (
    Before,
    ContextDep,
    Limit,
    Offset,
    OverviewDep,
    PageLimit,
    read_run_log,
    refuse_unknown_query,
)
from service.web.schemas import RunView, SampleView, tone

if TYPE_CHECKING:
    import jinja2

_RECENT_RUNS = 10
_LIFE = 1.0  # seconds for which a page is true
_LONGEST_LIFE = 60.0  # seconds for which it may be true when nothing is known to have changed
_MAX_BYTES = 8 * 2**20  # of the pages that are kept

router = APIRouter(
    include_in_schema=False, default_response_class=Response, dependencies=[Depends(refuse_unknown_query)]
)

# Reads what a page shows, and returns the work that is left for the thread: from nothing to the template's values.
Draw = Callable[[], dict[str, Any]]


@dataclass
class _Page:
    html: bytes = b""
    revision: str = ""
    made_at: float = float("-inf")
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class PageCache:
    """Pages by their address. One that nobody asks for is not rendered."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._pages: OrderedDict[str, _Page] = OrderedDict()

    async def get(
        self, address: str, template: str, read: Callable[[], Awaitable[Draw]], overview: Overview
    ) -> Response:
        page = self._pages.setdefault(address, _Page())
        self._pages.move_to_end(address)
        clock = self._context.clock
        async with page.lock:
            age = clock.monotonic() - page.made_at
            if age >= (_LONGEST_LIFE if page.revision == overview.state.revision else _LIFE):
                try:
                    draw = await read()
                    shared = _shared_values(self._context, overview)
                    page.html = await anyio.to_thread.run_sync(
                        _render, template, shared, draw, limiter=self._context.threads
                    )
                finally:
                    if not page.html:
                        self._pages.pop(address, None)
                page.made_at, page.revision = clock.monotonic(), overview.state.revision
                while sum(len(each.html) for each in self._pages.values()) > _MAX_BYTES and len(self._pages) > 1:
                    self._pages.popitem(last=False)
        return Response(page.html, media_type="text/html")


@router.get("/")
async def index(request: Request, context: ContextDep, overview: OverviewDep) -> Response:
    async def read() -> Draw:
        drawn = await board.read_board(context, overview.checks.values(), list(overview.collectors.values()))
        runs = await read_run_views(context, await context.store.runs.list(limit=_RECENT_RUNS))
        return lambda: {"runs": runs, **_draw(drawn)}

    return await _page(request, "index.html", read, overview)


@router.get("/tv")
async def screen(request: Request, context: ContextDep, overview: OverviewDep) -> Response:
    async def read() -> Draw:
        drawn = await board.read_screen(context, overview.checks.values())
        return lambda: {"board": drawn, "tiles": drawn.heat_tiles()}

    return await _page(request, "tv.html", read, overview)


@router.get("/collectors/{name}")
async def collector(
    request: Request, context: ContextDep, overview: OverviewDep, name: str, limit: Limit = 60, before: Before = None
) -> Response:
    async def read() -> Draw:
        drawn = await board.read_board(context, [overview.checks[name]], [view])
        found = await context.store.runs.list(name, limit=limit + 1, before=before)
        values = {"collector": view, "runs": await read_run_views(context, found[:limit]), "before": before}
        return lambda: {**values, "limit": limit, "has_older": len(found) > limit, **_draw(drawn)}

    view = overview.collector(name)
    return await _page(request, "collector.html", read, overview)


@router.get("/checks/{name}/{id}")
async def check(request: Request, context: ContextDep, overview: OverviewDep, name: str, id: str) -> Response:
    async def read() -> Draw:
        drawn = await board.read_check(context, place)

        def draw() -> dict[str, Any]:
            cells = drawn.cells(place)
            return {
                "place": place,
                "trend": charts.trend(drawn.curve(place), place.view.condition, place.view.status),
                "heat": charts.heat_row(cells, charts.BARS),
                "cells": [(cycle, cell) for cycle, cell in reversed(cells) if cell],
            }

        return draw

    overview.collector(name)
    found = [Place(name, number, view) for number, view in overview.checks[name].checks if f"{number:x}" == id]
    if not found:
        raise Problem(404, f"{name} has no such check (any more).", "unknown-check")
    place = found[0]
    return await _page(request, "check.html", read, overview)


@router.get("/runs/{id}")
async def run(
    request: Request, context: ContextDep, overview: OverviewDep, id: str, offset: Offset = 0, limit: PageLimit = 100
) -> Response:
    async def read() -> Draw:
        kept = await context.store.runs.run(id)
        samples, total = await context.store.outbox.samples(id, offset, limit) if kept else ([], 0)
        values = {
            "run": (await read_run_views(context, [kept]))[0] if kept else await _read_forgotten(context, id),
            "is_kept": kept is not None,
            "difference": await compare_runs(context.store, kept) if kept else None,
            "log": await read_run_log(context, id),
            "total": total,
            "offset": offset,
            "limit": limit,
        }
        return lambda: {**values, "samples": list(map(SampleView.of, samples))}

    return await _page(request, "run.html", read, overview)


@router.get("/favicon.ico")
async def no_icon() -> Response:
    return Response(status_code=204)


async def _page(request: Request, template: str, read: Callable[[], Awaitable[Draw]], overview: Overview) -> Response:
    pages: PageCache = request.app.state.pages
    query = "&".join(f"{name}={value}" for name, value in sorted(request.query_params.items()))
    return await pages.get(f"{request.scope['path']}?{query}", template, read, overview)


async def _read_forgotten(context: AppContext, run_id: str) -> RunView:
    """What is still known of a run whose record has had its time. Raises Problem 404."""
    found = await context.store.history.cycle(run_id)
    if found is None:
        raise unknown_run(run_id)
    name, cycle = found
    return RunView(
        id=run_id,
        collector=name,
        cause="not kept any more",
        started=cycle.started,
        ended=cycle.ended,
        outcome=cycle.outcome,
    )


def _draw(drawn: board.Board) -> dict[str, Any]:
    return {"board": drawn, "bars": drawn.bars(), "groups": drawn.heat_rows(), "tiles": drawn.spark_tiles()}


def _shared_values(context: AppContext, overview: Overview) -> dict[str, Any]:
    state = overview.state
    hosts = _web_hosts(context.settings.github.api_url)
    return {
        "info": context.info,
        "state": state,
        "now": state.now,
        "collectors": list(overview.collectors.values()),
        "writes": "token" if is_expected(context.token) else "refused" if context.in_cluster else "local",
        "may_link": lambda url: _may_link(url, hosts),
    }


def _render(template: str, shared: dict[str, Any], draw: Draw) -> bytes:
    """Hundreds of rows take longer than the loop may stand still: to be called in a thread."""
    return load_templates().get_template(template).render(shared, **draw()).encode(errors="replace")


@lru_cache(maxsize=1)
def load_templates() -> "jinja2.Environment":
    # A tenth of what the web takes to import: not before the daemon is ready.
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("service.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= {"span": format_span, "clock": format_clock, "number": format_number, "short": format_short}
    templates.globals |= {"time": format_time, "ago": format_ago}
    names = {"describe_state": board.describe_state, "tone": tone, "why_lost": _WHY_LOST, "resource": _RESOURCES}
    templates.globals |= names
    return templates


_RESOURCES = {"core": "REST", "graphql": "GraphQL"}  # GitHub's limits, as its documentation speaks of them
_WHY_LOST = {
    DeliveryStatus.REJECTED: "Datadog refused them for good",
    DeliveryStatus.EXPIRED: "older than Datadog takes before they could be sent, or the store was full",
    DeliveryStatus.UNKNOWN: "sent without an answer; sending them again could count them twice",
    DeliveryStatus.THROTTLED: "of a series beyond ten times max_series",
}


def format_span(seconds: float) -> str:
    """A length of time in its two largest units: ``40 ms``, ``4.4 s``, ``1 min 5 s``, ``3 d 2 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit} {rest // lesser_size} {lesser}" if rest >= lesser_size else f"{count} {unit}"
    return f"{whole} s"


def format_clock(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(" ")[:19]


class _Markup(str):
    """Markup of ours, which is not escaped."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def format_time(at: datetime) -> str:
    """The instant, and beside it how long ago that is, which the browser fills in."""
    clock = format_clock(at)
    return _Markup(f'<time datetime="{at.isoformat()}">{clock}</time> <small data-time="{at.isoformat()}"></small>')


def format_ago(at: datetime) -> str:
    """The instant; the browser says instead how long ago it was."""
    clock = format_clock(at)
    return _Markup(f'<time datetime="{at.isoformat()}" data-time title="{clock} UTC">{clock}</time>')


def format_number(value: float) -> str:
    """As short as it can be without losing anything: ``1``, ``0.91``, ``30000``."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def format_short(value: float) -> str:
    """As a person reads it: six digits at most."""
    return format_number(value) if len(format_number(value)) <= 6 else f"{value:.4g}"


@lru_cache(maxsize=8)
def _web_hosts(api_url: str) -> frozenset[str]:
    """The hosts (with a port where it is not the scheme's) of the pages that belong to a GitHub API address.

    https://docs.github.com/enterprise-server/rest/using-the-rest-api/getting-started-with-the-rest-api
    (``HOST/api/v3``) and https://docs.github.com/enterprise-cloud@latest/admin/data-residency (``api.NAME.ghe.com``).
    What answers on loopback stands in for github.com, whose addresses it passes on.
    """
    parts = urlsplit(api_url)
    name = (parts.hostname or "").lower()
    if name == "api.github.com":
        return frozenset({"github.com"})
    if name.startswith("api.") and name.endswith(".ghe.com"):
        return frozenset({name.removeprefix("api.")})
    own = parts.netloc.rpartition("@")[2].lower()
    return frozenset({own, "github.com"}) if _is_loopback(name) else frozenset({own})


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _may_link(url: str, hosts: frozenset[str]) -> bool:
    """Whether ``url`` is an http(s) address of one of ``hosts``, with nothing in it that a browser reads otherwise."""
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in ' \\"<>'):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() in hosts
