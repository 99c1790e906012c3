"""A simulated GitHub: REST and GraphQL over rows, with GitHub's paging, ETags, limits and lagging index of runs.

The demo feeds it recorded rows; tests and the bench generated ones, and the search and faults around it (tests/world).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.demo.github_rows import Json, Repository, Run, carries

_DOCUMENTED = {"documentation_url": "https://docs.github.com/rest"}
_EXHAUSTED = {"message": "API rate limit exceeded for this token.", **_DOCUMENTED}
_FILTERS = {"branch", "event", "status"}
_FIELD = re.compile(
    r"(?:(\w+)\s*:\s*)?\b(pullRequests|issues|label|ref|defaultBranchRef)\b"
    r'\s*(?:\(((?:[^()"]|"(?:[^"\\]|\\.)*")*)\))?\s*\{'
)
_ARGUMENT = re.compile(r'(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\]|\d+)')
_INDEXED, _DEEPEST = 1_000, 40_000  # rows that the search index and the unfiltered list give


@dataclass
class Reply:
    """An answer, with ``headers`` beside those that every answer has."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, payload: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, msgspec.json.encode(payload), {"content-type": "application/json; charset=utf-8", **named})

    @classmethod
    def refusal(cls, status: int, message: str = "Not Found") -> "Reply":
        return cls.of({"message": message, **_DOCUMENTED, "status": str(status)}, status)


@dataclass
class Asked:
    """One request as it came, what became of it, and what it cost of the primary limit."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    status: int = 0
    points: int = 0

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").partition(" ")[2]

    @property
    def resource(self) -> str:
        """The primary limit that pays."""
        path = self.target.partition("?")[0]
        return "graphql" if path.endswith("/graphql") else "search" if "/search/" in path else "core"

    @property
    def document(self) -> str:
        """Its GraphQL."""
        return str(msgspec.json.decode(self.body)["query"]) if self.resource == "graphql" else ""


class _Rows(NamedTuple):
    """A paged answer: rows and what makes JSON of one; a bare array without a key."""

    key: str
    rows: Sequence[Any]
    render: Callable[[Any], Json]


class SimulatedGithub:
    """An ASGI application. ``clock`` says as of when the rows are shown; ``lag``: how far the search index is behind.

    ``base``: a path in front of all others, such as /api/v3. ``limits``, ``used`` and ``resets`` by resource.
    """

    def __init__(
        self, repositories: Iterable[Repository], clock: Callable[[], datetime], *, lag: timedelta = timedelta(0)
    ) -> None:
        self.repositories = {repository.name.lower(): repository for repository in repositories}
        self.clock = clock
        self.lag = lag
        self.base = ""
        self.limits = {"core": 5000, "search": 30, "graphql": 5000}
        self.used: Counter[str] = Counter()
        self.resets: dict[str, datetime] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        target = scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        asked = Asked(request.method, target, dict(request.headers), await request.body())
        reply = await self.reply(asked)
        asked.status = reply.status
        headers = self._common_headers(asked) | {"content-length": str(len(reply.body))} | reply.headers
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
        await send({"type": "http.response.body", "body": reply.body})

    async def reply(self, asked: Asked) -> Reply:
        """The answer, within the limits: a 304 is free for whoever has a token."""
        self.reset(asked.resource)
        if asked.resource == "graphql" and not asked.token:
            return Reply.of({"message": "This endpoint requires you to be authenticated."}, 401)
        if self.used[asked.resource] >= self._limit(asked):
            if asked.resource == "graphql":
                return Reply.of({"errors": [{"type": "RATE_LIMITED", **_EXHAUSTED}]})
            return Reply.of(_EXHAUSTED, 403)
        reply = self.answer(asked)
        if asked.method == "GET" and reply.status == 200:
            # A validator belongs to the token that it was given to.
            etag = f'W/"{sha256(reply.body + asked.token.encode()).hexdigest()}"'
            if asked.headers.get("if-none-match") == etag:
                reply = Reply(304)
            reply.headers["etag"] = etag
        if reply.status != 304 or not asked.token:
            self.used[asked.resource] += 1
            asked.points = 1
        return reply

    def reset(self, resource: str) -> datetime:
        """When the window of ``resource`` ends; one that is over begins anew."""
        now, window = self.clock(), timedelta(minutes=1 if resource == "search" else 60)
        if self.resets.setdefault(resource, now + window) <= now:
            self.resets[resource], self.used[resource] = now + window, 0
        return self.resets[resource]

    def _limit(self, asked: Asked) -> int:
        return self.limits[asked.resource] if asked.token or asked.resource != "core" else 60

    def _common_headers(self, asked: Asked) -> dict[str, str]:
        used, limit = self.used[asked.resource], self._limit(asked)
        return {
            "date": format_datetime(self.clock().astimezone(UTC), usegmt=True),
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - used)),
            "x-ratelimit-used": str(used),
            "x-ratelimit-reset": str(int(self.reset(asked.resource).timestamp())),
            "x-ratelimit-resource": asked.resource,
        }

    def answer(self, asked: Asked) -> Reply:
        """What the rows say, whatever the limits."""
        path, _, text = asked.target.removeprefix(self.base).partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        repository: Repository | None = None
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["graphql"] | ["api", "graphql"]:
                return Reply.of(self._graphql(asked.document))
            case ["repos", owner, name, *rest]:
                repository = self.repositories.get(f"{owner}/{name}".lower())
            case ["repositories", number, *rest]:
                repository = next((each for each in self.repositories.values() if str(each.id) == number), None)
        found = self._find(repository, rest, query) if repository else None
        if repository is None or found is None:
            return Reply.refusal(404)
        if not isinstance(found, _Rows):
            return Reply.of(found)
        size, page = min(100, int(query.get("per_page", 30))), int(query.get("page", 1))
        if page * size > _DEEPEST:
            return Reply.refusal(422, "In order to keep the API fast for everyone, pagination is limited.")
        shown = [found.render(row) for row in found.rows[(page - 1) * size : page * size]]
        reply = Reply.of({"total_count": len(found.rows), found.key: shown} if found.key else shown)
        if page * size < len(found.rows):
            place = "/".join(
                [f"http://{asked.headers['host']}{self.base}/repositories/{repository.id}", *map(quote, rest)]
            )
            reply.headers["link"] = f'<{place}?{urlencode({**query, "page": page + 1})}>; rel="next"'
        return reply

    def _find(self, repository: Repository, path: list[str], query: Mapping[str, str]) -> Json | _Rows | None:
        """What is at ``path`` below the repository. Filtered lists come from the index, which lags."""
        now = self.clock()
        indexed = now - self.lag

        def rows(found: list[Run], at: datetime) -> _Rows:
            return _Rows("workflow_runs", found, lambda run: repository.run_json(run, at))

        match path:
            case []:
                return repository.json()
            case ["branches", *name]:
                return repository.ref("/".join(name))
            case ["labels", name]:
                return repository.label(name)
            case ["actions", "workflows"]:
                return _Rows("workflows", repository.workflows, repository.workflow_json)
            case ["actions", "workflows", number, "runs"] if number in {str(each.id) for each in repository.workflows}:
                own = [run for run in repository.newest_first(indexed) if str(run.workflow_id) == number]
                return rows(_filtered(own, query, indexed)[:_INDEXED], indexed)
            case ["actions", "runs"] if _FILTERS & set(query):
                return rows(_filtered(repository.newest_first(indexed), query, indexed)[:_INDEXED], indexed)
            case ["actions", "runs"]:
                return rows(repository.newest_first(now), now)
            case ["actions", "runs", number, *rest] if number.isdigit() and (run := repository.run(int(number), now)):
                count = len(run.seen(now))
                match rest:
                    case []:
                        return repository.run_json(run, now)
                    case ["attempts", attempt] if 1 <= int(attempt) <= count:
                        return repository.run_json(run, now, int(attempt))
                    case ["jobs"]:
                        is_last = query.get("filter") != "all"
                        jobs = [each for each in run.jobs(now) if not is_last or each[0] == count]
                        return _Rows("jobs", jobs, lambda each: repository.job_json(run, each[0], each[1], now))
            case ["check-runs", number, "annotations"] if job := repository.job(int(number), now):
                notes = [{"annotation_level": "failure", "message": job.annotation}] if job.annotation else []
                return _Rows("", notes, dict)
        return None

    def _graphql(self, document: str) -> Json:
        """Whole objects, whatever was selected of them, for documents with one repository and no variables."""
        owner, name = re.findall(r'repository\(\s*owner:\s*"(.*?)",\s*name:\s*"(.*?)"', document)[0]
        repository = self.repositories.get(f"{owner}/{name}".lower())
        if repository is None:
            message = f"Could not resolve to a Repository with the name '{owner}/{name}'."
            return {"data": {"repository": None}, "errors": [{"type": "NOT_FOUND", "message": message}]}
        found: Json = {}
        for alias, name, text in _FIELD.findall(document):
            given = {key: json.loads(value) for key, value in _ARGUMENT.findall(text)}
            found[alias or name] = self._graphql_field(repository, name, given)
        return {"data": {"repository": found}}

    def _graphql_field(self, repository: Repository, name: str, given: Json) -> Json | None:
        now = self.clock()
        match name:
            case "pullRequests":
                nodes = [repository.pull_json(each, now) for each in repository.merged(given["labels"], now)]
                begin = int(given.get("after", 0))
                end = begin + given["first"]
                page = {"hasNextPage": end < len(nodes), "endCursor": str(end)}
                return {"totalCount": len(nodes), "nodes": nodes[begin:end], "pageInfo": page}
            case "issues":  # several labels mean any of them, unlike in the search
                found = [each for each in repository.open_issues(now) if carries(each, given["labels"])]
                nodes = [repository.issue_json(each) for each in sorted(found, key=lambda each: each.created)]
                shown = nodes[-given["last"] :] if "last" in given else nodes[: given["first"]]
                return {"totalCount": len(nodes), "nodes": shown}
            case "label":
                return repository.label(given["name"])
            case "ref":
                return repository.ref(given["qualifiedName"].removeprefix("refs/heads/"))
        return repository.ref(repository.branch)


def _filtered(runs: list[Run], query: Mapping[str, str], at: datetime) -> list[Run]:
    """``status`` means the status or the conclusion."""

    def fits(run: Run) -> bool:
        conclusion = run.seen(at)[-1].conclusion
        return (
            query.get("branch", run.branch) == run.branch
            and query.get("event", run.event) == run.event
            and query.get("status", conclusion) in (conclusion, "completed" if conclusion else "in_progress")
        )

    return [run for run in runs if fits(run)]
