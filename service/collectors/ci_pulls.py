"""Merged pull requests and open issues by label: one GraphQL request for all, REST search as the fallback.

Both count pull requests in the same index, and GraphQL counts issues without it:
https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from service.adapters.github import Github
from service.collectors import ci_evidence, ci_runs
from service.collectors.ci_reader import Failure, gathered
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.samples import Evidence

QUESTION = "pull requests and issues"
# Of so many the newest are shown; more would not fit a page of GitHub's.
_NODES = 100
_EACH = "nodes { ... on PullRequest { title url mergedAt } ... on Issue { title url createdAt } }"


@dataclass(frozen=True, slots=True)
class Counted:
    """``evidence``: the newest of what was counted, where GitHub told."""

    count: int
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """``text``: what REST's search is asked. ``labels``: of open issues that GraphQL counts without a search."""

    text: str
    labels: tuple[str, ...] = ()


def merged(repo: str, labels: Sequence[str], since: datetime) -> Question:
    """Each pull request merged at ``since`` or later, to the second, that has at least one of the labels."""
    # GitHub's times have whole seconds: those at or after a fraction begin with the next one.
    whole = since.replace(microsecond=0) + timedelta(seconds=since.microsecond > 0)
    names = ",".join(_quoted(label) for label in labels)
    return Question(f"repo:{repo} is:pr is:merged merged:>={whole.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} label:{names}")


def open_issues(repo: str, labels: Sequence[str]) -> Question:
    """Each open issue that has all of the labels."""
    names = " ".join(f"label:{_quoted(label)}" for label in labels)
    # The connection's own filter means any of several labels, the search means all.
    return Question(f"repo:{repo} is:issue is:open {names}", tuple(labels) if len(labels) == 1 else ())


class Style:
    """How a server wants to be asked. ``is_plain``: it counts, but does not tell what it counted."""

    is_plain = False


async def count(
    github: Github, repo: str, questions: Mapping[str, Question], style: Style
) -> dict[str, Counted | Failure]:
    """The answers by the questions' names (which are names in GraphQL). Raises Unauthorized."""
    if not questions:
        return {}
    counts: dict[str, Counted | Failure] = {}
    if await github.has_token():  # GraphQL answers nobody else
        read = partial(_counts, questions)
        try:
            query = _query(repo, questions, style.is_plain)
            counts.update(await github.graphql(query, read=read, question=QUESTION))
            if not counts and not style.is_plain:
                # A whole query is refused for one field that the server does not know or the token may not see.
                query = _query(repo, questions, is_plain=True)
                counts.update(await github.graphql(query, read=read, question=QUESTION))
                style.is_plain = bool(counts)
        except Unauthorized:
            raise
        except (Unavailable, Rejected):
            pass  # an Enterprise server without GraphQL, a token without the right, a limit: REST has its own
    left = [name for name in questions if name not in counts]
    found = await gathered([partial(_search, github, questions[name].text) for name in left])
    for name, each in zip(left, found, strict=True):
        if isinstance(each, Unauthorized):
            raise each
        counts[name] = each
    return counts


def _query(repo: str, questions: Mapping[str, Question], is_plain: bool) -> str:
    fields, issues = [], []
    for name, question in questions.items():
        if question.labels:
            labels = ", ".join(map(_string, question.labels))
            size, nodes = (1, "") if is_plain else (ci_evidence.MOST, "nodes { title url createdAt }")
            issues.append(f"{name}: issues(labels: [{labels}], states: OPEN, last: {size}) {{ totalCount {nodes} }}")
        else:
            size, nodes = (1, "") if is_plain else (_NODES, _EACH)
            text = _string(question.text)
            fields.append(f"{name}: search(type: ISSUE, query: {text}, first: {size}) {{ issueCount {nodes} }}")
    if issues:
        owner, _, repository = repo.partition("/")
        fields.append(f"repository(owner: {_string(owner)}, name: {_string(repository)}) {{ {' '.join(issues)} }}")
    return f"query {{ {' '.join(fields)} }}"


def _string(text: str) -> str:
    # A JSON string is a GraphQL string: https://spec.graphql.org/October2021/#sec-String-Value
    return json.dumps(text, ensure_ascii=False)


def _counts(questions: Mapping[str, Question], payload: Any) -> dict[str, Counted]:
    """The counts that are there; beside errors some may be missing, or all."""
    data = payload.get("data") or {}
    found = {}
    for name, question in questions.items():
        place = (data.get("repository") or {}) if question.labels else data
        each = place.get(name) or {}
        number = each.get("totalCount" if question.labels else "issueCount")
        if isinstance(number, int) and not isinstance(number, bool):
            nodes = each.get("nodes") or ()
            found[name] = Counted(number, ci_evidence.newest(_evidence(row, "url") for row in nodes if row))
    return found


async def _search(github: Github, text: str) -> Counted:
    params: dict[str, str | int] = {"q": text, "per_page": _NODES}
    counted = await github.get("/search/issues", params, read=_found, question=QUESTION)
    if counted is None:
        raise Unavailable("GitHub's search did not finish in time, its count is incomplete")
    return counted


def _found(payload: Any) -> Counted | None:
    if payload.get("incomplete_results"):
        return None
    rows = payload.get("items") or ()
    return Counted(int(payload["total_count"]), ci_evidence.newest(_evidence(row, "html_url") for row in rows))


def _evidence(row: Mapping[str, Any], url: str) -> Evidence:
    """GraphQL's names for the times, or REST's."""
    merged_at = row.get("mergedAt") or (row.get("pull_request") or {}).get("merged_at")
    at = merged_at or row.get("createdAt") or row.get("created_at")
    title, address = ci_runs.to_text(row.get("title")), ci_runs.to_url(row.get(url))
    return Evidence(title, address, ci_runs.to_time(at) if at else None, "merged" if merged_at else "open")


def _quoted(label: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        return label
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
