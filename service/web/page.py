"""The pages: rendered on the server, readable without a script."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.domain.errors import HealthError
from service.domain.links import may_link
from service.web import words
from service.web.api import unknown_run
from service.web.asked import Nothing, Older, Page, query
from service.web.drawing import Drawing, planned, planned_for_tv
from service.web.operations import Operations
from service.web.problems import Problem

if TYPE_CHECKING:
    import jinja2

log = structlog.get_logger(__name__)

_RECENT_RUNS = 10
_STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Pages:
    """The routes of the pages and of their style sheet and script. ``writes``: see guard.writes."""

    def __init__(self, operations: Operations, writes: str) -> None:
        self._operations = operations
        self._writes = writes
        self._drawing = Drawing()
        # Readers that come during the first making share what it reads and draws; later ones need not wait in line.
        self._first_turn = anyio.Lock()
        self._is_made = False

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/tv", self.tv),
            Route("/runs/{id}", self.run),
            Route("/collectors/{name}", self.collector),
            Route("/checks/{collector}/{id}", self.check),
            Route("/favicon.ico", _no_icon),
            *(Route(f"/static/{name}", _static(name, kind), name=name) for name, kind in _STATIC.items()),
        ]

    async def warm(self) -> None:
        """Makes the first page for nobody, so that the first reader does not wait for templates, history and charts."""
        try:
            await self._index()
        except HealthError as error:
            log.debug("the page could not be made beforehand", reason=str(error))
        except Exception:
            # Nobody asked for it: whatever is wrong with it must not end the daemon. The first reader gets the 500.
            log.exception("the page could not be made beforehand")

    async def index(self, request: Request) -> Response:
        return await self._index()

    async def _index(self) -> Response:
        if self._is_made:
            return await self._index_anew()
        async with self._first_turn:
            answer = await self._index_anew()
        self._is_made = True
        return answer

    async def _index_anew(self) -> Response:
        collectors = await self._operations.collectors()
        plan = planned(await self._operations.board.collectors(), collectors)
        past = await self._operations.board.past(plan.full, plan.checks())
        runs = await self._operations.runs(limit=_RECENT_RUNS)
        ready = await self._operations.ready()
        return await self._rendered(
            "index.html",
            collectors=collectors,
            runs=runs,
            quota=self._operations.board.quota(),
            warnings=[each for each in ready.checks if each.status != "ok"],
            draw=lambda: self._drawing.index(plan, past),
        )

    async def tv(self, request: Request) -> Response:
        collectors = await self._operations.collectors()
        plan = planned_for_tv(await self._operations.board.collectors())
        past = await self._operations.board.past((), plan.checks())
        return await self._rendered("tv.html", collectors=collectors, draw=lambda: self._drawing.tv(plan, past))

    async def collector(self, request: Request) -> Response:
        asked = query(request, Older)
        name = request.path_params["name"]
        collector = await self._operations.collector(name)
        plan = planned(await self._operations.board.collectors([name]), [collector])
        past = await self._operations.board.past(plan.full, plan.checks())
        found = await self._operations.runs(name, asked.limit + 1, asked.before)
        return await self._rendered(
            "collector.html",
            collector=collector,
            runs=found[: asked.limit],
            asked=asked,
            has_older=len(found) > asked.limit,
            draw=lambda: self._drawing.index(plan, past),
        )

    async def check(self, request: Request) -> Response:
        query(request, Nothing)
        name, number = request.path_params["collector"], request.path_params["id"]
        await self._operations.collector(name)
        (board,) = await self._operations.board.collectors([name])
        check = next((each for each in board.checks if f"{each.id:x}" == number), None)
        if check is None:
            raise Problem(404, f"{name} has no such check (any more).", kind="unknown-check")
        past = await self._operations.board.past((), [(board, check)])
        return await self._rendered(
            "check.html", board=board, check=check, draw=lambda: self._drawing.check(board, check, past)
        )

    async def run(self, request: Request) -> Response:
        asked = query(request, Page)
        run_id = request.path_params["id"]
        kept = await self._operations.run(run_id)
        run = kept or await self._operations.board.left(run_id)
        if run is None:
            raise unknown_run(run_id)
        samples, total = await self._operations.samples(run.id, asked.offset, asked.limit) or ([], 0)
        return await self._rendered(
            "run.html",
            run=run,
            is_kept=kept is not None,
            samples=samples,
            total=total,
            page=asked,
            difference=await self._operations.board.difference(run) if kept else None,
            log=await self._operations.run_log(run.id),
        )

    @cached_property
    def _templates(self) -> "jinja2.Environment":
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
        templates.filters |= {"span": words.span, "clock": words.clock, "number": words.number, "short": words.short}
        templates.filters |= {"is_failing": words.is_failing}
        templates.tests |= {"failing": words.is_failing}
        names = ("state", "tone", "relative", "why_lost", "resource")
        templates.globals |= {name: getattr(words, name) for name in names}
        return templates

    async def _rendered(self, template: str, draw: Callable[[], Any] = lambda: None, **values: Any) -> Response:
        hosts = self._operations.board.web_hosts
        values |= {
            "info": self._operations.info,
            "delivery": self._operations.delivery(),
            "now": datetime.now(UTC),
            "writes": self._writes,
            "may_link": lambda url: may_link(url, hosts),
        }

        def render() -> str:
            return self._templates.get_template(template).render(values, drawn=draw())

        # Hundreds of rows take longer than the loop may stand still.
        html = await anyio.to_thread.run_sync(render)
        return Response(html, media_type="text/html")


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


def _static(name: str, content_type: str) -> Callable[[Request], Any]:
    content = files("service.web").joinpath("static", name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, headers={"content-type": content_type})

    return endpoint
