"""What callers give: the models of queries and bodies, and who asks. What does not fit is a problem, 400 or 422."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.web.operations import Origin
from service.web.problems import Problem

_LONGEST_ACTOR = 200


class Given(BaseModel):
    """What a caller gives, in the query or the body. Unknown names are errors, as in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Given):
    pass


class Waiting(Given):
    """``wait``: seconds to wait for the run's end."""

    wait: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False, description="seconds to wait for the end")] = 0


class History(Given):
    """``before``: the id of the run whose predecessors are asked for."""

    collector: str | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: Annotated[str | None, Field(description="a run's id, as in `next`: only those older than it")] = None


class Older(Given):
    """One page of a collector's runs."""

    limit: Annotated[int, Field(ge=1, le=200)] = 60
    before: Annotated[str | None, Field(description="a run's id: only those older than it")] = None


class Page(Given):
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Last(Given):
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class Why(Given):
    reason: Annotated[str | None, Field(max_length=500, description="kept with the act")] = None


Asked = TypeVar("Asked", bound=Given)


def query(request: Request, kind: type[Asked]) -> Asked:
    """The query's values as ``kind``. Raises Problem 422."""
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _invalid("query", error) from error


async def origin(request: Request) -> Origin:
    """Who asks and why. Raises Problem when the header or the body can't be read."""
    body = await request.body()
    try:
        why = Why.model_validate_json(body) if body.strip() else Why()
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            raise Problem(400, "The body is not JSON.", kind="bad-body") from error
        raise _invalid("body", error) from error
    return caller(request, why.reason or None)


def caller(request: Request, reason: str | None = None) -> Origin:
    """Who calls: the peer's address, and what it says of itself."""
    return Origin(request.client.host if request.client else "", _actor(request), reason)


def _actor(request: Request) -> str | None:
    # Starlette reads headers as latin-1; who writes a name there means UTF-8.
    try:
        actor = request.headers.get("x-actor", "").encode("latin-1").decode().strip()
    except UnicodeDecodeError as error:
        raise Problem(400, "X-Actor is not UTF-8.", kind="bad-header") from error
    if len(actor) > _LONGEST_ACTOR or not actor.isprintable():
        raise Problem(400, f"X-Actor is not {_LONGEST_ACTOR} printable characters at most.", kind="bad-header")
    return actor or None


def _invalid(place: str, error: ValidationError) -> Problem:
    errors = [
        {"where": ".".join([place, *(str(part) for part in fault["loc"])]), "what": fault["msg"]}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in errors)
    return Problem(422, detail, kind="invalid", errors=errors)
