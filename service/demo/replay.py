"""A GitHub on loopback that answers from recorded data, in GitHub's own shapes and with its headers.

What was not recorded is not made up. Single things that are missing get 404. Lists that were not recorded are empty: no
pull requests and no issues were, so searches and counts of them answer 0; no jobs of PhishBench and no annotations.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.demo import graphql
from service.demo.filters import BadFilter, filtered
from service.demo.quota import Quota
from service.demo.recording import Recording, Row, format_time, load

_DOCS = "https://docs.github.com/rest"
_HEADERS = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "private, max-age=60, s-maxage=60",
    "vary": "Accept, Authorization, Cookie, X-GitHub-OTP",
    "x-github-media-type": "github.v3; format=json",
}
Query = Mapping[str, str]


class _List(NamedTuple):
    """A paged answer: ``shape`` makes a row's JSON; without a ``key`` the answer is a bare array."""

    key: str
    rows: Sequence[Row]
    shape: Callable[[Row], Row] = dict


class _Refused(Exception):
    """The answer is an error of this status."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, **more, "documentation_url": _DOCS, "status": str(status)}


@dataclass(frozen=True, slots=True)
class _Rendered:
    """An answer but for what changes with each request (the quota)."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def replay_app(clock: Callable[[], datetime]) -> Starlette:
    """The recorded repositories (``service.demo.recording``) behind GitHub's REST and GraphQL addresses.

    Times are shifted once, by ``clock`` at this call; later ``clock`` only serves the quota. The quotas are
    GitHub's for an authorised caller (5,000 requests an hour; a 304 is free) and count all callers together.
    """
    replay = _Replay(load(clock()), clock)
    return Starlette(
        routes=[
            Route("/graphql", replay.query, methods=["POST"]),
            Route("/rate_limit", replay.rate_limit),
            Route("/{path:path}", replay.rest, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
        ]
    )


class _Replay:
    def __init__(self, recordings: Sequence[Recording], clock: Callable[[], datetime]) -> None:
        self._by_name = {recording.full_name.lower(): recording for recording in recordings}
        self._by_id = {str(recording.repository["id"]): recording for recording in recordings}
        self._clock = clock
        self._quota = Quota()
        # The recording never changes, so neither does an answer: each is built once.
        self._render = lru_cache(maxsize=128)(self._render_anew)

    async def rest(self, request: Request) -> Response:
        now, path = self._clock(), request.url.path
        if request.method not in ("GET", "HEAD"):
            rendered = _error(_Refused(404, "Not Found"))
        else:
            rendered = self._render(str(request.base_url).rstrip("/"), path, request.url.query)
        resource = "search" if path.startswith("/search/") else "core"
        etag = rendered.headers.get("etag")
        if etag and _matches(request.headers.get("if-none-match", ""), etag):
            rendered = _Rendered(304, b"", rendered.headers)
        elif not self._quota.take(resource, now):
            rendered = _error(_Refused(403, "API rate limit exceeded"))
        headers = {**_HEADERS, **rendered.headers, **self._quota.headers(resource, now)}
        return Response(rendered.body, rendered.status, headers)

    async def rate_limit(self, request: Request) -> Response:
        """Asking for the quota costs none of it."""
        now = self._clock()
        state = self._quota.all(now)
        body = orjson.dumps({"resources": state, "rate": state["core"]})
        return Response(body, headers={**_HEADERS, **self._quota.headers("core", now)})

    async def query(self, request: Request) -> Response:
        now = self._clock()
        if "authorization" not in request.headers:
            return self._graphql_answer(401, {"message": "This endpoint requires you to be authenticated."}, now)
        try:
            asked = orjson.loads(await request.body())
            document, variables = str(asked["query"]), dict(asked.get("variables") or {})
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._graphql_answer(400, {"message": "Problems parsing JSON"}, now)
        if not self._quota.take("graphql", now):
            limited = {"type": "RATE_LIMITED", "message": "API rate limit exceeded"}
            return self._graphql_answer(200, {"errors": [limited]}, now)
        state = self._quota.state("graphql", now)
        root = {
            "search": lambda _: _connection("SearchResultItemConnection", "issueCount"),
            "repository": self._graphql_repository,
            "rateLimit": {
                **{name: state[name] for name in ("limit", "used", "remaining")},
                "cost": 1,
                "resetAt": format_time(datetime.fromtimestamp(state["reset"], now.tzinfo)),
            },
        }
        return self._graphql_answer(200, graphql.execute(document, variables, root), now)

    def _graphql_answer(self, status: int, body: Row, now: datetime) -> Response:
        return Response(orjson.dumps(body), status, {**_HEADERS, **self._quota.headers("graphql", now)})

    def _graphql_repository(self, arguments: graphql.Arguments) -> graphql.Object:
        name = f"{arguments.get('owner')}/{arguments.get('name')}"
        recording = self._by_name.get(name.lower())
        if recording is None:
            raise graphql.NotFound(f"Could not resolve to a Repository with the name '{name}'.")
        return {
            "__typename": "Repository",
            "id": recording.repository["node_id"],
            "databaseId": recording.repository["id"],
            "name": recording.repository["name"],
            "nameWithOwner": recording.full_name,
            "issues": lambda _: _connection("IssueConnection", "totalCount"),
            "pullRequests": lambda _: _connection("PullRequestConnection", "totalCount"),
        }

    def _render_anew(self, base: str, path: str, query_string: str) -> _Rendered:
        pairs = parse_qsl(query_string, keep_blank_values=True)
        query, headers = dict(pairs), {}
        try:
            if path == "/search/issues":
                answer: Row | _List = self._search(query)
                address = f"{base}{path}"
            else:
                recording, rest = self._recording(path)
                answer = _resource(recording, base, rest, query)
                # As recorded: GitHub's links name the repository by its number.
                address = f"{base}/repositories/{recording.repository['id']}{rest}"
        except _Refused as refused:
            return _error(refused)
        if isinstance(answer, _List):
            size, page = min(_number(query.get("per_page"), 30), 100), _number(query.get("page"), 1)
            last = max(1, -(-len(answer.rows) // size))
            rows = [answer.shape(row) for row in answer.rows[(page - 1) * size : page * size]]
            body = orjson.dumps({"total_count": len(answer.rows), answer.key: rows} if answer.key else rows)
            if links := _links(address, pairs, page, last):
                headers["link"] = links
        else:
            body = orjson.dumps(answer)
        headers["etag"] = f'W/"{sha256(body).hexdigest()}"'
        return _Rendered(200, body, headers)

    def _search(self, query: Query) -> Row:
        """Nothing is found: no pull request and no issue was recorded. Refuses repositories that were not recorded."""
        invalid = {"resource": "Search", "field": "q"}
        if not query.get("q"):
            raise _Refused(422, "Validation Failed", errors=[{**invalid, "code": "missing"}])
        named = re.findall(r'(?<!\S)repo:"?([^\s"]+)', query["q"])
        if named and not any(name.lower() in self._by_name for name in named):
            reason = (
                "The listed users and repositories cannot be searched either because the resources do not exist "
                "or you do not have permission to view them."
            )
            raise _Refused(422, "Validation Failed", errors=[{"message": reason, **invalid, "code": "invalid"}])
        return {"total_count": 0, "incomplete_results": False, "items": []}

    def _recording(self, path: str) -> tuple[Recording, str]:
        """The repository that ``path`` names, by name or number, and what of it is asked for."""
        if match := re.fullmatch(r"/repos/([^/]+/[^/]+)(/.*)?", path):
            recording = self._by_name.get(match[1].lower())
        elif match := re.fullmatch(r"/repositories/(\d+)(/.*)?", path):
            recording = self._by_id.get(match[1])
        if match is None or recording is None:
            raise _Refused(404, "Not Found")
        return recording, match[2] or ""


def _resource(recording: Recording, base: str, path: str, query: Query) -> Row | _List:
    """What GitHub has at ``path`` below the repository."""
    run_json, job_json = partial(recording.run_json, base), partial(recording.job_json, base)
    workflow_json = partial(recording.workflow_json, base)
    match path.split("/")[1:]:
        case []:
            return recording.repository_json(base)
        case ["actions", "workflows"]:
            return _List("workflows", recording.workflows, workflow_json)
        case ["actions", "workflows", name]:
            return workflow_json(_found(recording.workflow(name)))
        case ["actions", "workflows", name, "runs"]:
            workflow = _found(recording.workflow(name))
            runs = [run for run in recording.runs if run["workflow_id"] == workflow["id"]]
            return _List("workflow_runs", _filtered(runs, query), run_json)
        case ["actions", "runs"]:
            return _List("workflow_runs", _filtered(recording.runs, query), run_json)
        case ["actions", "runs", run]:
            return run_json(_found(recording.run(_id(run))))
        case ["actions", "runs", run, "jobs"]:
            found = _found(recording.run(_id(run)))
            attempt = None if query.get("filter") == "all" else found["run_attempt"]
            return _List("jobs", recording.jobs_of(found["id"], attempt), job_json)
        case ["actions", "runs", run, "attempts", attempt]:
            return run_json(_found(recording.attempt(_id(run), _id(attempt))), _id(attempt))
        case ["actions", "runs", run, "attempts", attempt, "jobs"]:
            found = _found(recording.attempt(_id(run), _id(attempt)))
            return _List("jobs", recording.jobs_of(found["id"], found["run_attempt"]), job_json)
        case ["check-runs", check, "annotations"]:
            if any(job["id"] == _id(check) for job in recording.jobs):
                return _List("", ())
    raise _Refused(404, "Not Found")


def _filtered(runs: Sequence[Row], query: Query) -> Sequence[Row]:
    try:
        return filtered(runs, query)
    except BadFilter as error:
        raise _Refused(422, f"Invalid value for created: {error}") from None


def _found(row: Row | None) -> Row:
    if row is None:
        raise _Refused(404, "Not Found")
    return row


def _id(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise _Refused(404, "Not Found")
    return int(text)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII) else default


def _links(address: str, pairs: Sequence[tuple[str, str]], page: int, last: int) -> str:
    """The Link header, empty where all is on one page. https://docs.github.com/rest/using-the-rest-api/using-pagination-in-the-rest-api"""
    pages = {}
    if page > 1:
        pages["prev"] = min(page - 1, last)
    if page < last:
        pages |= {"next": page + 1, "last": last}
    if page > 1:
        pages["first"] = 1
    others = [pair for pair in pairs if pair[0] != "page"]
    return ", ".join(f'<{address}?{urlencode([*others, ("page", to)])}>; rel="{rel}"' for rel, to in pages.items())


def _matches(if_none_match: str, etag: str) -> bool:
    """Weak comparison, RFC 9110 section 13.1.2."""
    opaque = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in opaque or etag.removeprefix("W/") in opaque


def _error(refused: _Refused) -> _Rendered:
    return _Rendered(refused.status, orjson.dumps(refused.body))


def _connection(kind: str, count: str) -> graphql.Object:
    """A GraphQL connection with nothing in it."""
    page = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    return {"__typename": kind, count: 0, "nodes": [], "edges": [], "pageInfo": page}
