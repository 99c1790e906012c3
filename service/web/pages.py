"""The pages: rendered on the server, each at most once a second, and read by all from memory."""

import gzip
from collections.abc import Awaitable, Callable
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request, Response

from service.collectors.github_ci.weekly_runs import Order
from service.domain.samples import Status, format_number
from service.web import assets, charts, formats
from service.web.assets import accepts_gzip
from service.web.auth import is_expected
from service.web.board import find_worst, read_board, read_history, to_cells
from service.web.context import AppContext
from service.web.formats import format_ago
from service.web.overview import CurrentCheck, CurrentCollector, Overview, read_overview, read_week
from service.web.problems import Problem
from service.web.routes import Before, ContextDep, Limit, Offset, PageLimit, refuse_unknown_query
from service.web.runs import read_forgotten, read_run, read_run_log, read_sample_pages, view_runs
from service.web.schemas import CheckView

if TYPE_CHECKING:
    import jinja2

_RECENT_RUNS = 10
# More than this and a page is no board any more: the worst are shown, the others are on their collectors' pages.
_MOST, _MOST_OF_MANY = 50, 30
_MOST_CHECKS = 100  # on the page of one collector
# What the office screen holds in letters that are read from five metres: columns and lines, from few checks to many.
_TV_GRIDS = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (5, 4))
_TV_TILES = 20

Text = Annotated[str, Query(max_length=200)]


class Filters(NamedTuple):
    """What the board is narrowed to; empty texts narrow nothing. ``q``: a part of a name, tag or metric."""

    q: str = ""
    status: str = ""
    category: str = ""
    collector: str = ""

    def match(self, each: CurrentCheck) -> bool:
        tags = each.check.tags
        text = " ".join((each.collector, each.check.metric, *tags.values()))
        return (
            self.q.lower() in text.lower()
            and self.status in ("", each.status)
            and self.category in ("", tags.get("workflow_category"))
            and self.collector in ("", each.collector)
        )

    def match_self(self, each: CurrentCollector) -> bool:
        """Whether a collector is meant itself, whatever checks it has."""
        is_meant = self.status == "" or (self.status == "fail" and (each.is_failing or each.is_retrying))
        return (
            is_meant and not self.category and self.collector in ("", each.name) and self.q.lower() in each.name.lower()
        )


router = APIRouter(
    include_in_schema=False, default_response_class=Response, dependencies=[Depends(refuse_unknown_query)]
)


@router.get("/")
async def index(
    request: Request,
    context: ContextDep,
    q: Text = "",
    status: Literal["", "fail", "unknown", "pass"] = "",
    category: Text = "",
    collector: Text = "",
) -> Response:
    filters = Filters(q, status, category, collector)

    async def read(overview: Overview) -> dict[str, Any]:
        every = overview.every_check
        checks = [check for check in every if filters.match(check)] if any(filters) else every
        named = {check.collector for check in checks}
        collectors = [each for each in overview.collectors.values() if each.name in named or filters.match_self(each)]
        most = _MOST_OF_MANY if len(collectors) > _MOST else _MOST
        full = find_worst(collectors, most, _concern)
        full.sort(key=lambda each: min(_concern(each), 2))
        names = dict.fromkeys(each.name for each in full)
        others = [each for each in collectors if each.name not in names]
        return {
            "filters": filters._asdict(),
            "is_filtered": any(filters),
            "choices": {
                "status": list(Status),
                "category": sorted({each.check.tags.get("workflow_category", "") for each in every} - {""}),
                "collector": list(overview.collectors),
            },
            "worst_checks": [CheckView.model_validate(check) for check in every if check.status is Status.FAIL][:3],
            "board": await read_board(context, checks, names, rows=most, tiles=most),
            "full": full,
            "others": others,
            "write_lines": lambda: "\n  ".join(map(_write_line, others)),
            "runs": await view_runs(context, await context.store.runs.list(limit=_RECENT_RUNS)),
        }

    return await _page(request, context, "index.html", read)


@router.get("/tv")
async def screen(request: Request, context: ContextDep) -> Response:
    async def read(overview: Overview) -> dict[str, Any]:
        board = await read_board(context, overview.every_check, tiles=_TV_TILES)
        return {
            "board": board,
            "grid": next((each for each in _TV_GRIDS if each[0] * each[1] >= len(board.tiles)), _TV_GRIDS[-1]),
        }

    return await _page(request, context, "tv.html", read)


@router.get("/collectors/{name}")
async def collector(
    request: Request,
    context: ContextDep,
    name: str,
    limit: Limit = 60,
    before: Before = None,
    by: Order = "failures",
) -> Response:
    async def read(overview: Overview) -> dict[str, Any]:
        current = overview.collector(name)
        found = await context.store.runs.list(name, limit=limit + 1, before=before)
        weeks, workflows = await read_week(context, name, by)
        return {
            "collector": current,
            "weeks": weeks,
            "workflows": workflows,
            "by": by,
            "board": await read_board(context, overview.checks[name], [name], rows=_MOST_CHECKS, tiles=_MOST_CHECKS),
            "runs": await view_runs(context, found[:limit]),
            "before": before,
            "limit": limit,
            "has_older": len(found) > limit,
        }

    return await _page(request, context, "collector.html", read)


@router.get("/checks/{name}/{id}")
async def check(request: Request, context: ContextDep, name: str, id: str) -> Response:
    async def read(overview: Overview) -> dict[str, Any]:
        overview.collector(name)
        found = [each for each in overview.checks[name] if f"{each.id:x}" == id]
        if not found:
            raise Problem(404, f"{name} has no such check (any more).", "unknown-check")
        view = CheckView.model_validate(found[0])
        cycles, known = await read_history(context, name, view.id)
        cells = to_cells(cycles[-charts.BARS :], [known])
        return {
            "view": view,
            "trend": charts.trend(charts.to_curve(cells, known.hours), view.limit, view.status),
            "heat": charts.heat_row(cells, charts.BARS),
            "cells": cells,
        }

    return await _page(request, context, "check.html", read)


@router.get("/runs/{id}")
async def run(
    request: Request, context: ContextDep, id: str, q: Text = "", offset: Offset = 0, limit: PageLimit = 100
) -> Response:
    async def read(_: Overview) -> dict[str, Any]:
        kept = await read_run(context, id)
        collected, own = await read_sample_pages(context, id, q, offset, limit)
        return {
            "run": kept or await read_forgotten(context, id),
            "is_kept": kept is not None,
            "log": (await read_run_log(context, id)).lines,
            "collected": collected,
            "own": own,
            "q": q,
            "offset": offset,
            "limit": limit,
        }

    return await _page(request, context, "run.html", read)


@router.get("/favicon.ico")
async def no_icon() -> Response:
    return Response(status_code=204)


async def _page(
    request: Request, context: AppContext, template: str, read: Callable[[Overview], Awaitable[dict[str, Any]]]
) -> Response:
    """``read``: the template's values from an overview. Raises Unavailable, and what ``read`` does."""

    async def make() -> tuple[bytes, bytes]:
        overview = await read_overview(context)
        values = {
            "info": context.info,
            "state": overview.state,
            "now": overview.state.now,
            "collectors": list(overview.collectors.values()),
            "writes": "token" if is_expected(context.token) else "refused" if context.in_cluster else "local",
            **await read(overview),
        }

        def work() -> tuple[bytes, bytes]:
            page = _load_templates().get_template(template).render(values).encode(errors="replace")
            return page, gzip.compress(page, 1)

        # Hundreds of rows take longer than the loop may stand still.
        return await anyio.to_thread.run_sync(work, limiter=context.threads)

    address = f"{request.scope['path']}?{urlencode(sorted(request.query_params.items()))}"
    page, packed = await context.cache.get(address, make)
    headers = {"vary": "accept-encoding"}
    if accepts_gzip(request.headers):
        return Response(packed, headers=headers | {"content-encoding": "gzip"}, media_type="text/html")
    return Response(page, headers=headers, media_type="text/html")


@lru_cache(maxsize=1)
def _load_templates() -> "jinja2.Environment":
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
    templates.filters |= {"span": formats.format_span, "clock": formats.format_clock}
    templates.filters |= {"number": format_number, "sentence": formats.format_sentence}
    templates.globals |= {"time": formats.format_time, "ago": format_ago, "tone": formats.tone}
    templates.globals |= {"link_host": formats.link_host, "static": assets.address_of}
    return templates


def _write_line(collector: CurrentCollector) -> str:
    """A row of a table; by hand, because a thousand of them take a template 60 ms."""
    name, (label, colour) = collector.name, collector.state
    return (
        f'<tr><th scope="row"><a href="/collectors/{quote(name)}">{escape(name)}</a></th>'
        f'<td><span class="badge {colour}">{label}</span></td><td>{escape(collector.schedule_in_words)}</td>\n'
        f"    <td>{format_ago(collector.next_run) if collector.next_run else '–'}</td>\n"
        f"    <td>{format_ago(collector.last_success) if collector.last_success else 'never'}</td></tr>"
    )


def _concern(collector: CurrentCollector) -> int:
    """Less is worse."""
    if collector.is_retrying or collector.is_failing:
        return 0 if collector.is_retrying else 1
    return {"warn": 2, "busy": 3}.get(collector.state[1], 4)
