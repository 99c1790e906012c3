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
_FILTERS = {"actor", "branch", "event", "status", "created", "check_suite_id", "head_sha"}
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
            is_graphql = resource == "graphql"
            return Reply.of(
                {"errors": [{"type": "RATE_LIMITED", **_EXHAUSTED}]} if is_graphql else _EXHAUSTED,
                200 if is_graphql else 403,
            )
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
        if (reply.status != 304 or not is_known) and not asked.target.endswith("/rate_limit"):
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
            case ["rate_limit"]:
                state = {
                    name: {
                        "limit": limit,
                        "used": self.used[name],
                        "remaining": limit - self.used[name],
                        "reset": int(self.reset(name).timestamp()),
                    }
                    for name, limit in (self.limits or {}).items()
                }
                return Reply.of({"resources": state, "rate": state.get("core")})
            case ["search", "issues"]:
                rows = self._search(query.get("q", ""))
                return Reply.of(
                    {
                        "total_count": len(rows),
                        "incomplete_results": False,
                        "items": rows[: int(query.get("per_page", 30))],
                    }
                )
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
            last = -(-len(answer.rows) // size)
            address = f"{base.rstrip('/')}{self.base}/repositories/{'/'.join([str(repository.id), *map(quote, rest)])}"
            links = {"next": page + 1, "last": last}
            reply.headers["link"] = ", ".join(
                f'<{address}?{urlencode({**query, "page": to})}>; rel="{rel}"' for rel, to in links.items()
            )
        return reply

    def _of_repository(self, repository: Repository, path: list[str], query: Mapping[str, str]) -> Json | _Rows:
        now = self.clock()
        runs, indexed = repository.newest_first, now - self.lag

        def rows(found: list[Run], at: datetime) -> _Rows:
            return _Rows("workflow_runs", found, lambda run: repository.run_json(run, at))

        match path:
            case []:
                return repository.json()
            case ["branches", *name] if name:
                if "/".join(name) not in repository.branches | {repository.branch}:
                    raise Refusal(404)
                return {"name": "/".join(name)}
            case ["labels", name]:
                if (found := _label(name, repository)) is None:
                    raise Refusal(404)
                return found
            case ["labels"]:
                return _Rows("", sorted(repository.labels), lambda name: {"name": name})
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
                    case ["jobs"] | ["attempts", _, "jobs"]:
                        wanted = (
                            {int(rest[1])}
                            if rest[1:]
                            else set(range(1, count + 1))
                            if query.get("filter") == "all"
                            else {count}
                        )
                        jobs = [each for each in run.jobs(now) if each[0] in wanted]
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
        request = msgspec.json.decode(body)
        asked.document = request["query"]
        errors: list[Json] = []

        def repository(given: Json) -> Json | None:
            name = f"{given['owner']}/{given['name']}"
            if found := self.repositories.get(name.lower()):
                return self._graphql_repository(found)
            message = f"Could not resolve to a Repository with the name '{name}'."
            errors.append({"type": "NOT_FOUND", "path": ["repository"], "message": message})
            return None

        def search(given: Json) -> Json:
            rows = self._search(given["query"])
            return {"issueCount": len(rows), "nodes": rows[: given.get("first", 0)]}

        try:
            fields = _parsed(request["query"], request.get("variables") or {})
            data = self._select({"repository": repository, "search": search}, fields)
        except (LookupError, ValueError, TypeError) as error:
            return {"errors": [{"message": str(error), "extensions": {"code": "undefinedField"}}]}
        return {"data": data, "errors": errors} if errors else {"data": data}

    def _graphql_repository(self, repository: Repository) -> Json:
        now = self.clock()

        def page(given: Json, rows: list[Json]) -> Json:
            begin = int(given.get("after") or 0)
            end = begin + given["first"] if "first" in given else len(rows)
            nodes = rows[begin:end] if "first" in given else rows[-given["last"] :]
            more = {"hasNextPage": end < len(rows), "endCursor": str(end)}
            return {"totalCount": len(rows), "nodes": nodes, "pageInfo": more}

        def pulls(given: Json) -> Json:
            newest = {"field": "UPDATED_AT", "direction": "DESC"}
            if given["states"] not in ("MERGED", ["MERGED"]) or given["orderBy"] != newest:
                raise ValueError("only merged pull requests are simulated, the last updated first")
            found = repository.merged(set(given["labels"]), now)
            return page(given, [repository.pull_json(each, now) for each in found])

        def issues(given: Json) -> Json:
            # Several labels mean any of them, unlike in the search.
            found = [each for each in repository.open_issues(now) if carries(each, given["labels"])]
            return page(given, [repository.issue_json(each) for each in sorted(found, key=lambda each: each.created)])

        def ref(given: Json) -> Json | None:
            name = given["qualifiedName"].removeprefix("refs/heads/")
            return {"name": name} if name in repository.branches | {repository.branch} else None

        return {
            "nameWithOwner": repository.name,
            "pullRequests": pulls,
            "issues": issues,
            "label": lambda given: _label(given["name"], repository),
            "ref": ref,
            "defaultBranchRef": {"name": repository.branch},
        }

    def _select(self, source: Json, fields: "list[_Field]") -> Json:
        chosen: Json = {}
        for each in fields:
            if each.name not in source or each.name in self.unknown_fields:
                raise LookupError(f"Field '{each.name}' doesn't exist")
            value = source[each.name]
            value = value(each.arguments) if callable(value) else value
            if isinstance(value, dict):
                value = self._select(value, each.fields)
            elif isinstance(value, list):
                value = [self._select(row, [sub for sub in each.fields if sub.name in row]) for row in value]
            chosen[each.key] = value
        return chosen


class _Field(NamedTuple):
    key: str  # the alias, else the name
    name: str
    arguments: Json
    fields: "list[_Field]"


_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\.\.\.|-?\d+|[_A-Za-z]\w*|[{}()\[\]:!=$]')
_CONSTANTS = {"true": True, "false": False, "null": None}


def _parsed(document: str, variables: Mapping[str, Any]) -> list[_Field]:
    """The fields of a document with one query, without named fragments or directives."""
    tokens = deque(_TOKEN.findall(document))
    while tokens[0] != "{":
        tokens.popleft()

    def fields() -> list[_Field]:
        found: list[_Field] = []
        tokens.popleft()
        while tokens[0] != "}":
            key = name = tokens.popleft()
            if key == "...":
                while tokens[0] != "{":
                    tokens.popleft()
                found += fields()
                continue
            if tokens[0] == ":":
                tokens.popleft()
                name = tokens.popleft()
            arguments = pairs(")") if tokens[0] == "(" else {}
            found.append(_Field(key, name, arguments, fields() if tokens[0] == "{" else []))
        tokens.popleft()
        return found

    def pairs(end: str) -> Json:
        found: Json = {}
        tokens.popleft()
        while tokens[0] != end:
            name, _ = tokens.popleft(), tokens.popleft()
            found[name] = value()
        tokens.popleft()
        return found

    def value() -> Any:
        if tokens[0] == "{":
            return pairs("}")
        text = tokens.popleft()
        if text == "[":
            items = []
            while tokens[0] != "]":
                items.append(value())
            tokens.popleft()
            return items
        if text == "$":
            return variables[tokens.popleft()]
        return json.loads(text) if text[0] in '"-0123456789' else _CONSTANTS.get(text, text)

    return fields()


def _resource(asked: Asked) -> str:
    path = asked.target.partition("?")[0]
    return "graphql" if path.endswith("/graphql") else "search" if "/search/" in path else "core"


def _window(resource: str) -> timedelta:
    return timedelta(minutes=1) if resource == "search" else HOUR


def _label(name: str, repository: Repository) -> Json | None:
    """As it is written; the case of ``name`` does not matter."""
    return next(({"name": each} for each in repository.labels if each.lower() == name.lower()), None)


def _filtered(runs: list[Run], query: Mapping[str, str], at: datetime) -> list[Run]:
    """``status`` means the status or the conclusion. ``created``: ``>=T`` or ``A..B``."""
    since, _, until = query.get("created", "").removeprefix(">=").partition("..")

    def fits(run: Run) -> bool:
        conclusion = run.seen(at)[-1].conclusion
        return (
            query.get("branch", run.branch) == run.branch
            and query.get("event", run.event) == run.event
            and query.get("head_sha", run.sha) == run.sha
            and query.get("status", conclusion) in (conclusion, "completed" if conclusion else "in_progress")
            and (not since or stamp(run.created) >= since)
            and (not until or stamp(run.created) <= until)
        )

    return [run for run in runs if fits(run)]


def create_app() -> SimulatedGithub:
    """The demo's: the recorded repositories, as of now."""
    return SimulatedGithub(load_repositories(datetime.now(UTC)), lambda: datetime.now(UTC))
