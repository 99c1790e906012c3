"""The status page and a page a run: rendered on the server, readable without a script."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.domain.runs import Outcome
from service.web.api import Page, find_run, query, unknown_run
from service.web.operations import Operations
from service.web.views import RUNNING, CollectorView, RunView

if TYPE_CHECKING:
    import jinja2

_RECENT_RUNS = 20
_STATIC = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}

# A tone is a colour and a sign of the style sheet; the word beside it says the same for who sees no colours.
_OUTCOME_TONES = {
    RUNNING: "busy",
    Outcome.COMPLETE: "good",
    Outcome.PARTIAL: "warn",
    Outcome.REPLACED: "warn",
    Outcome.INTERRUPTED: "warn",
}


class Pages:
    """The routes of the pages and of their style sheet and script."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/runs/{id}", self.run),
            Route("/favicon.ico", _no_icon),
            *(Route(f"/static/{name}", _static(name, kind), name=name) for name, kind in _STATIC.items()),
        ]

    async def index(self, request: Request) -> Response:
        collectors = await self._operations.collectors()
        runs = await self._operations.runs(limit=_RECENT_RUNS)
        return await self._rendered(
            "index.html",
            collectors=collectors,
            failing=sum(1 for collector in collectors if is_failing(collector)),
            runs=runs,
        )

    async def run(self, request: Request) -> Response:
        asked = query(request, Page)
        run = await find_run(self._operations, request.path_params["id"])
        found = await self._operations.samples(run.id, asked.offset, asked.limit)
        if found is None:
            raise unknown_run(run.id)
        samples, total = found
        return await self._rendered("run.html", run=run, samples=samples, total=total, page=asked)

    @cached_property
    def _templates(self) -> "jinja2.Environment":
        # A tenth of what the web takes to import: the first reader pays for it, not the start of the daemon.
        import jinja2

        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("service.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.filters |= {"span": span, "clock": clock, "number": number}
        templates.globals |= {"state": state, "tone": tone, "relative": relative}
        return templates

    async def _rendered(self, template: str, **values: Any) -> Response:
        values |= {"info": self._operations.info, "delivery": self._operations.delivery(), "now": datetime.now(UTC)}

        def render() -> str:
            return self._templates.get_template(template).render(values)

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


def state(collector: CollectorView) -> tuple[str, str]:
    """What to call the collector's state, and its tone."""
    last = collector.last_run
    if collector.running:
        return "Running", "busy"
    if not collector.enabled:
        return "Disabled", "idle"
    if collector.paused:
        return "Paused", "warn"
    if last is None:
        return "No run yet", "idle"
    return {"good": "Healthy", "warn": last.outcome, "bad": "Failing"}.get(tone(last), last.outcome), tone(last)


def tone(run: RunView) -> str:
    return _OUTCOME_TONES.get(run.outcome, "bad")


def is_failing(collector: CollectorView) -> bool:
    """By the last run that ended: a run under way does not make a failing collector well."""
    last, error = collector.last_run, collector.last_error
    if not collector.enabled or last is None:
        return False
    if last.ended:
        return tone(last) == "bad"
    return error is not None and (collector.last_success is None or error.at > collector.last_success)


def span(seconds: float) -> str:
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


def relative(at: datetime, now: datetime) -> str:
    """``4 min ago``, ``in 6 min``; one unit is enough to judge by."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    whole = round(abs(seconds))
    size, unit = next(
        (size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if whole >= size
    )
    return f"{whole // size} {unit} ago" if seconds > 0 else f"in {whole // size} {unit}"


def clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def number(value: float) -> str:
    """As short as it can be without losing anything: ``1``, ``0.91``, ``30000``."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
