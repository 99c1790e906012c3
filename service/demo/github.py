"""A simulated GitHub: REST and GraphQL over rows, with GitHub's paging, ETags, limits and lagging search index.

The demo feeds it recorded rows; tests and the bench generated ones and faults (``before``, ``intercept``).
"""

import asyncio
import json
import re
import time
from collections import Counter, deque
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

from service.demo.github_rows import Json, Repository, Run, carries, stamp
from service.demo.recording import load_repositories

HOUR = timedelta(hours=1)
_DOCUMENTED = {"documentation_url": "https://docs.github.com/rest"}
_EXHAUSTED = {"message": "API rate limit exceeded for this token.", **_DOCUMENTED}
_SECONDARY = {"message": "You have exceeded a secondary rate limit.", **_DOCUMENTED}
_FILTERS = {"branch", "event", "status"}
_FIELD = re.compile(
    r"(?:(\w+)\s*:\s*)?\b(pullRequests|issues|label|ref|defaultBranchRef)\b"
    r'\s*(?:\(((?:[^()"]|"(?:[^"\\]|\\.)*")*)\))?\s*\{'
)
_ARGUMENT = re.compile(r'(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\]|\d+)')
_INDEXED, _DEEPEST = 1_000, 40_000  # rows that the search index and the unfiltered list give


@dataclass
class Reply:
    """``cut``: bytes at the end of the body that are never sent, though Content-Length counts them."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    delay: float = 0.0

    @classmethod
    def of(cls, payload: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, msgspec.json.encode(payload), {"content-type": "application/json; charset=utf-8", **named})


@dataclass
class Asked:
    """One request as it came, and what it cost of the primary limit. ``document``: its GraphQL."""

    method: str
    target: str
    headers: Mapping[str, str]
    document: str = ""
    status: int = 0
    points: int = 0

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").partition(" ")[2]


class Refusal(Exception):
    """The answer is an error."""

    def __init__(self, status: int, message: str = "Not Found") -> None:
        super().__init__(message)
        self.status = status


class _Rows(NamedTuple):
    """A paged answer: rows and what makes JSON of one; a bare array without a key."""

    key: str
    rows: Sequence[Any]
    render: Callable[[Any], Json]


class SimulatedGithub:
    """An ASGI application. ``clock`` says as of when the rows are shown; ``lag``: how far the search index is behind.

    ``limits`` and ``used`` by resource, None for a server that tells none. ``secondary``: points in a minute.
    ``revoked``: tokens that are refused. ``before(line)`` is called ahead of each answer, so that rows can change while
    they are read; ``intercept(asked, reply)`` gives what is sent in place of the true reply.
    """

    def __init__(
        self, repositories: Iterable[Repository], clock: Callable[[], datetime], *, lag: timedelta = timedelta(0)
    ) -> None:
        self.repositories = {repository.name.lower(): repository for repository in repositories}
        self.clock = clock
        self.lag = lag
        self.base = ""  # a path in front of all others, such as /api/v3
        self.latency = 0.0
        self.limits: dict[str, int] | None = {"core": 5000, "search": 30, "graphql": 5000}
        self.used: Counter[str] = Counter()
        self.resets: dict[str, datetime] = {}
        self.secondary = 900
        self.revoked: set[str] = set()
        self.unknown_fields: set[str] = set()  # of GraphQL, as on an older Enterprise server
        self.asked: deque[Asked] = deque(maxlen=20_000)
        self.before: Callable[[str], None] = lambda line: None
        self.intercept: Callable[[Asked, Reply], Reply] = lambda asked, reply: reply
        self.in_flight = self.most_in_flight = self.installation_tokens = 0
        self._minute: deque[float] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        target = scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        asked = Asked(request.method, target, dict(request.headers))
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = await request.body()
            await asyncio.sleep(self.latency)
            self.before(asked.line)
            reply = self.intercept(asked, self._reply(asked, body, str(request.base_url)))
            await asyncio.sleep(reply.delay)
        finally:
            self.in_flight -= 1
        asked.status = reply.status
        headers = self._limit_headers(asked) | reply.headers | {"content-length": str(len(reply.body))}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
        whole = reply.body[: len(reply.body) - reply.cut]
        await send({"type": "http.response.body", "body": whole, "more_body": bool(reply.cut)})

    # What an answer costs

    def _reply(self, asked: Asked, body: bytes, base: str) -> Reply:
        resource, is_known = _resource(asked), bool(asked.token)
        if asked.token in self.revoked:
            return Reply.of({"message": "Bad credentials", **_DOCUMENTED}, 401)
        if resource == "graphql" and not is_known:
            return Reply.of({"message": "This endpoint requires you to be authenticated."}, 401)
        now = time.monotonic()
        while self._minute and self._minute[0] < now - 60:
            self._minute.popleft()
        if self.in_flight > 100 or len(self._minute) >= self.secondary:
            return Reply.of(_SECONDARY, 403)
        self._minute.append(now)
        self.reset(resource)
        if self.limits is not None and self.used[resource] >= self._limit(asked):
            if resource == "graphql":
                return Reply.of({"errors": [{"type": "RATE_LIMITED", **_EXHAUSTED}]})
            return Reply.of(_EXHAUSTED, 403)
        try:
            reply = self._answer(asked, body, base)
        except Refusal as refusal:
            reply = Reply.of({"message": str(refusal), **_DOCUMENTED, "status": str(refusal.status)}, refusal.status)
        if asked.method == "GET" and reply.status == 200:
            # A validator belongs to the token that it was given to.
            etag = f'W/"{sha256(reply.body + asked.token.encode()).hexdigest()}"'
            if asked.headers.get("if-none-match") == etag:
                reply = Reply(304)
            reply.headers["etag"] = etag
        if reply.status != 304 or not is_known:
            self.used[resource] += 1
            asked.points = 1
        return reply

    def _limit(self, asked: Asked) -> int:
        resource = _resource(asked)
        return (self.limits or {}).get(resource, 0) if asked.token or resource != "core" else 60

    def _limit_headers(self, asked: Asked) -> dict[str, str]:
        now, resource = self.clock(), _resource(asked)
        date = {"date": format_datetime(now.astimezone(UTC), usegmt=True)}
        if self.limits is None:
            return date
        return date | {
            "x-ratelimit-limit": str(self._limit(asked)),
            "x-ratelimit-remaining": str(max(0, self._limit(asked) - self.used[resource])),
            "x-ratelimit-used": str(self.used[resource]),
            "x-ratelimit-reset": str(int(self.reset(resource).timestamp())),
            "x-ratelimit-resource": resource,
        }

    def reset(self, resource: str) -> datetime:
        """When the window of ``resource`` ends; one that is over begins anew."""
        now = self.clock()
        if self.resets.setdefault(resource, now + _window(resource)) <= now:
            self.resets[resource], self.used[resource] = now + _window(resource), 0
        return self.resets[resource]

    # What is answered

    def _answer(self, asked: Asked, body: bytes, base: str) -> Reply:
        path, _, text = asked.target.partition("?")
        query, now = dict(parse_qsl(text, keep_blank_values=True)), self.clock()
        match [unquote(part) for part in path.removeprefix(self.base).strip("/").split("/")]:
            case ["graphql"] | ["api", "graphql"]:
                return Reply.of(self._graphql(asked, body))
            case ["app", "installations", _, "access_tokens"] if asked.method == "POST":
                self.installation_tokens += 1
                token = f"ghs_simulated{self.installation_tokens}"
                return Reply.of({"token": token, "expires_at": stamp(now + HOUR)}, 201)
            case ["search", "issues"]:
                rows = self._search(query.get("q", ""))
                items = rows[: int(query.get("per_page", 30))]
                return Reply.of({"total_count": len(rows), "incomplete_results": False, "items": items})
            case ["repos", owner, name, *rest]:
                repository = self.repositories.get(f"{owner}/{name}".lower())
            case ["repositories", number, *rest]:
                repository = next((each for each in self.repositories.values() if str(each.id) == number), None)
            case _:
                repository, rest = None, []
        if repository is None:
            raise Refusal(404)
        answer = self._of_repository(repository, rest, query)
        if not isinstance(answer, _Rows):
            return Reply.of(answer)
        size, page = min(100, int(query.get("per_page", 30))), int(query.get("page", 1))
        if page * size > _DEEPEST:
            raise Refusal(422, "In order to keep the API fast for everyone, pagination is limited for this resource.")
        shown = [answer.render(row) for row in answer.rows[(page - 1) * size : page * size]]
        reply = Reply.of({"total_count": len(answer.rows), answer.key: shown} if answer.key else shown)
        if page * size < len(answer.rows):
            address = f"{base.rstrip('/')}{self.base}/repositories/{'/'.join([str(repository.id), *map(quote, rest)])}"
            reply.headers["link"] = f'<{address}?{urlencode({**query, "page": page + 1})}>; rel="next"'
        return reply

    def _of_repository(self, repository: Repository, path: list[str], query: Mapping[str, str]) -> Json | _Rows:
        now = self.clock()
        runs, indexed = repository.newest_first, now - self.lag

        def rows(found: list[Run], at: datetime) -> _Rows:
            return _Rows("workflow_runs", found, lambda run: repository.run_json(run, at))

        match path:
            case []:
                return repository.json()
            case ["branches", *name]:
                return _found(repository.ref("/".join(name)))
            case ["labels", name]:
                return _found(repository.label(name))
            case ["actions", "workflows"]:
                return _Rows("workflows", repository.workflows, repository.workflow_json)
            case ["actions", "workflows", number, "runs"]:
                if number not in {str(each.id) for each in repository.workflows}:
                    raise Refusal(404)
                own = [run for run in runs(indexed) if str(run.workflow_id) == number]
                return rows(_filtered(own, query, indexed)[:_INDEXED], indexed)
            case ["actions", "runs"] if _FILTERS & set(query):
                return rows(_filtered(runs(indexed), query, indexed)[:_INDEXED], indexed)
            case ["actions", "runs"]:
                return rows(runs(now), now)
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
        raise Refusal(404)

    def _search(self, text: str) -> list[Json]:
        """Merged pull requests and open issues, as the lagging index knows them; ``label:a,b`` means a or b."""
        at, terms = self.clock() - self.lag, re.findall(r'(\w+):((?:"(?:[^"\\]|\\.)*"|[^\s"])+)', text)
        found = dict(terms)
        repository = self.repositories.get(found.get("repo", "").lower())
        if repository is None:
            raise Refusal(422, "The listed users and repositories cannot be searched")
        wanted = [set(re.findall(r'[^",\\]+', value)) for key, value in terms if key == "label"]
        if ("is", "issue") in terms:
            issues = [each for each in repository.open_issues(at) if all(carries(each, names) for names in wanted)]
            return [repository.issue_json(each) for each in issues]
        since = datetime.fromisoformat(found["merged"].removeprefix(">="))
        pulls = [each for each in repository.merged(wanted[0], at) if each.merged and each.merged >= since]
        return [repository.pull_json(each, at) for each in pulls]

    # GraphQL

    def _graphql(self, asked: Asked, body: bytes) -> Json:
        """Whole objects, whatever was selected of them, for documents with one repository and no variables."""
        asked.document = document = msgspec.json.decode(body)["query"]
        owner, name = re.findall(r'repository\(\s*owner:\s*"(.*?)",\s*name:\s*"(.*?)"', document)[0]
        repository = self.repositories.get(f"{owner}/{name}".lower())
        if repository is None:
            message = f"Could not resolve to a Repository with the name '{owner}/{name}'."
            return {"data": {"repository": None}, "errors": [{"type": "NOT_FOUND", "message": message}]}
        found: Json = {}
        for alias, name, text in _FIELD.findall(document):
            if name in self.unknown_fields:
                unknown = {"message": f"Field '{name}' doesn't exist on type 'Repository'"}
                return {"errors": [{**unknown, "extensions": {"code": "undefinedField"}}]}
            given = {key: json.loads(value) for key, value in _ARGUMENT.findall(text)}
            found[alias or name] = self._graphql_field(repository, name, given)
        return {"data": {"repository": found}}

    def _graphql_field(self, repository: Repository, name: str, given: Json) -> Json | None:
        now = self.clock()
        match name:
            case "pullRequests":
                merged = repository.merged(given["labels"], now)
                nodes = [repository.pull_json(each, now) for each in merged]
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


def _found(row: Json | None) -> Json:
    if row is None:
        raise Refusal(404)
    return row


def _resource(asked: Asked) -> str:
    path = asked.target.partition("?")[0]
    return "graphql" if path.endswith("/graphql") else "search" if "/search/" in path else "core"


def _window(resource: str) -> timedelta:
    return timedelta(minutes=1) if resource == "search" else HOUR


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


def create_app() -> SimulatedGithub:
    """The demo's: the recorded repositories, as of now."""
    return SimulatedGithub(load_repositories(datetime.now(UTC)), lambda: datetime.now(UTC))
