"""The table of the calls: each is one route and one operation of /openapi.json, so they agree."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.web.asked import Given, Nothing
from service.web.views import View

Handler = Callable[[Request], Awaitable[Response]]
# A model, or the media types of a text.
Content = type[View] | tuple[str, ...] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    ``answers``: by status, what is said and its content; ``problems``: the statuses of its own refusals, beyond those
    that any call can get. ``query`` None: the query is ignored. ``locates``: the statuses that carry Location.
    ``upload``: the media types of a body that is no model.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, tuple[str, Content]]
    query: type[Given] | None = Nothing
    body: type[Given] | None = None
    upload: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    locates: tuple[int, ...] = ()
    tag: str = "api"
    is_probe: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_write(self) -> bool:
        return self.method != "GET"

    def route(self) -> Route:
        name = f"{self.method} {self.path}"
        return Route(self.path, self.handler, methods=[self.method], name=name)
