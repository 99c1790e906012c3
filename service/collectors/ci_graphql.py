"""GraphQL that counts pull requests and issues by label, and what its answers say. Pure.

The search index lags behind what happened, by minutes and at times by much more; a repository's own lists don't. So
these are asked for first, and the search only where a server does not have them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.collectors import ci_evidence, ci_runs
from service.collectors.ci_ways import Way
from service.domain.errors import Rejected
from service.domain.samples import Evidence

_NODES = 100  # GitHub's most
# A merge updates a pull request, so whatever was merged since then is above the first one not updated since then.
_NEWEST = "orderBy: {field: UPDATED_AT, direction: DESC}"
_PULL = "nodes { title url mergedAt updatedAt } pageInfo { hasNextPage endCursor }"
_ISSUE = "nodes { title url createdAt }"
_FOUND = "nodes { ... on PullRequest { title url mergedAt } ... on Issue { title url createdAt } }"


@dataclass(frozen=True, slots=True)
class Counted:
    """``evidence``: the newest of what was counted, where GitHub told."""

    count: int
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Pull requests merged at ``since`` or later with any of the ``labels``; without ``since`` open issues with all.

    ``text``: the same for GitHub's search.
    """

    text: str
    labels: tuple[str, ...]
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What a list told so far, by address. ``after``: where its next page begins, None when there is no need for it."""

    merged: Mapping[str, Evidence]
    after: str | None


def document(repo: str, questions: Mapping[str, Question], way: Way, begun: Mapping[str, Part] | None = None) -> str:
    """``begun``: the lists that go on where they ended."""
    listed: list[str] = []
    searched: list[str] = []
    for name, question in questions.items():
        if way is Way.LISTED and question.since:
            listed.append(_pulls(name, question, (begun or {}).get(name)))
        elif way is Way.LISTED and len(question.labels) > 1:
            lists = [*((label,) for label in question.labels), question.labels]
            listed += [_issues(f"{name}_{place}", labels, way) for place, labels in enumerate(lists)]
        elif question.since or len(question.labels) > 1:
            size, nodes = (1, "") if way is Way.PLAIN else (_NODES, _FOUND)
            searched.append(
                f"{name}: search(type: ISSUE, query: {_string(question.text)}, first: {size}) {{ issueCount {nodes} }}"
            )
        else:
            listed.append(_issues(name, question.labels, way))
    if listed:
        owner, _, repository = repo.partition("/")
        searched.append(f"repository(owner: {_string(owner)}, name: {_string(repository)}) {{ {' '.join(listed)} }}")
    return f"query {{ {' '.join(searched)} }}"


def _pulls(name: str, question: Question, begun: Part | None) -> str:
    after = f", after: {_string(begun.after)}" if begun and begun.after else ""
    where = f"states: MERGED, labels: {_strings(question.labels)}, {_NEWEST}, first: {_NODES}{after}"
    return f"{name}: pullRequests({where}) {{ {_PULL} }}"


def _issues(name: str, labels: Iterable[str], way: Way) -> str:
    size, nodes = (1, "") if way is Way.PLAIN else (_NODES, _ISSUE)
    return f"{name}: issues(labels: {_strings(labels)}, states: OPEN, last: {size}) {{ totalCount {nodes} }}"


def _strings(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, texts))}]"


def _string(text: str) -> str:
    # A JSON string is a GraphQL string: https://spec.graphql.org/October2021/#sec-String-Value
    return json.dumps(text, ensure_ascii=False)


def read(
    questions: Mapping[str, Question], way: Way, begun: Mapping[str, Part], payload: Any
) -> dict[str, Counted | Part]:
    """The answers that are there; beside errors some may be missing, or all. A Part where there is more to read.

    Raises Rejected when the repository is not there for this token: no other way would find it.
    """
    data, errors = payload.get("data") or {}, payload.get("errors") or ()
    if any(isinstance(each, dict) and each.get("type") in ("NOT_FOUND", "FORBIDDEN") for each in errors):
        raise Rejected("GitHub's GraphQL does not show the repository to this token")
    repository = data.get("repository") or {}
    found: dict[str, Counted | Part] = {}
    for name, question in questions.items():
        if way is Way.LISTED and question.since:
            told: Counted | Part | None = _merged(repository.get(name), question.since, begun.get(name))
        elif way is Way.LISTED and len(question.labels) > 1:
            # The list's filter means any of several labels; both is what is left of one and the other.
            lists = [_counted(repository.get(f"{name}_{place}"), "totalCount") for place in range(3)]
            told = _both(*lists)
        elif question.since or len(question.labels) > 1:
            told = _counted(data.get(name), "issueCount")
        else:
            told = _counted(repository.get(name), "totalCount")
        if isinstance(told, Counted):
            found[name] = Counted(told.count, ci_evidence.newest(told.evidence))
        elif told:
            found[name] = told
    return found


def _merged(connection: Any, since: datetime, begun: Part | None) -> Counted | Part | None:
    if not connection or not isinstance(connection.get("nodes"), list) or None in connection["nodes"]:
        return None
    page = connection["pageInfo"]
    merged = dict(begun.merged if begun else {})
    for row in connection["nodes"]:
        if ci_runs.to_time(row["updatedAt"]) < since:
            return Counted(len(merged), tuple(merged.values()))
        if row["mergedAt"] and ci_runs.to_time(row["mergedAt"]) >= since:
            merged[str(row["url"])] = evidence(row, "url")
    if page["hasNextPage"]:
        return Part(merged, str(page["endCursor"]))
    return Counted(len(merged), tuple(merged.values()))


def _counted(connection: Any, key: str) -> Counted | None:
    number = (connection or {}).get(key)
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return Counted(number, tuple(evidence(row, "url") for row in connection.get("nodes") or () if row))


def _both(one: Counted | None, other: Counted | None, either: Counted | None) -> Counted | None:
    if one is None or other is None or either is None:
        return None
    known = {each.url for each in other.evidence}
    return Counted(
        max(0, one.count + other.count - either.count), tuple(each for each in one.evidence if each.url in known)
    )


def evidence(row: Mapping[str, Any], url: str) -> Evidence:
    """GraphQL's names for the times, or REST's."""
    merged_at = row.get("mergedAt") or (row.get("pull_request") or {}).get("merged_at")
    at = merged_at or row.get("createdAt") or row.get("created_at")
    title, address = ci_runs.to_text(row.get("title")), ci_runs.to_url(row.get(url))
    return Evidence(title, address, ci_runs.to_time(at) if at else None, "merged" if merged_at else "open")
