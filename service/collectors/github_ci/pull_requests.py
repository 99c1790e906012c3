"""Merged pull requests and open issues by label, from the repository's own lists: one GraphQL request for all.

GitHub's search is the only fallback, for its index lags. The same request tells which branch and labels there are: a
name that means nothing must not read as 0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

import msgspec

from service.collectors.github_ci.actions import explains
from service.collectors.github_ci.catalogue import Finding
from service.collectors.github_ci.evidence import count, format_span, make_evidence, newest
from service.collectors.github_ci.measurement import Measurement
from service.collectors.github_ci.models import Named, Text, Time
from service.collectors.github_ci.settings import LABELS
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.samples import Evidence
from service.github.client import Github, NotFound, Refused

_PAGES = 10  # of merged pull requests with one label in the weekly window, each of GitHub's most: 100
_SEARCH_AFTER = 3  # cycles in a row in which the lists did not answer


@dataclass(frozen=True, slots=True)
class Group:
    """Pull requests merged at ``since`` or later with any of the ``labels``; without ``since`` open issues with all."""

    labels: tuple[str, ...]
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    count: int
    evidence: tuple[Evidence, ...] = ()


@dataclass(slots=True)
class Answer:
    """``counts`` and ``errors`` by the groups' names.

    ``has_failed_lists``: the repository's own lists did not count all groups.
    ``has_branch``, ``labels``: whether they are there, as far as GraphQL told.
    """

    counts: dict[str, Counted] = field(default_factory=dict)
    errors: dict[str, Unavailable | Rejected] = field(default_factory=dict)
    has_failed_lists: bool = False
    has_branch: bool | None = None
    labels: dict[str, bool] = field(default_factory=dict)


async def measure(github: Github, known: Measurement) -> Answer:
    """Adds what is measured to ``known``. Raises the worst error where nothing could be counted."""
    settings, state = known.settings, known.state
    since = known.now - settings.weekly_window
    groups = {name: Group(getattr(settings, key), since) for name, key in LABELS.items()}
    if settings.bug_label:
        bugs = [(settings.bug_label,), *((settings.bug_label, label) for label in settings.bug_sub_labels)]
        groups |= {f"bugs_{place}": Group(labels) for place, labels in enumerate(bugs)}
    groups = {name: group for name, group in groups.items() if group.labels}
    # The search would answer before, but its index lags, and no number is the better one.
    is_search_due = state.graphql_failures >= _SEARCH_AFTER - 1
    answer = await count_groups(github, state.repo, state.branch, groups, may_search=is_search_due)
    state.graphql_failures = state.graphql_failures + 1 if answer.has_failed_lists else 0
    if groups and len(answer.errors) == len(groups):
        raise max(answer.errors.values(), key=explains)
    for name, counted in answer.counts.items():
        try:
            absent = [] if counted.count else await _find_absent(github, state.repo, groups[name].labels, answer)
            known.findings.append(_measure_group(name, groups[name], counted, absent, known))
        except (Unavailable, Rejected) as error:
            answer.errors[name] = error
    known.failures |= {f"pull requests, {name}": error for name, error in answer.errors.items()}
    return answer


async def _find_absent(github: Github, repo: str, labels: Sequence[str], answer: Answer) -> list[str]:
    there = answer.labels or {each: await is_there(github, repo, "labels", each) for each in labels}
    return [each for each in labels if not there[each]]


def _measure_group(name: str, group: Group, counted: Counted, absent: Sequence[str], known: Measurement) -> Finding:
    """Labels that are not there count nothing: one of a group is enough, of a bug's both are needed."""
    settings, labels, number = known.settings, group.labels, counted.count
    is_sub = not group.since and len(labels) > 1
    metric, tags = f"github.{name if group.since else 'bugs'}.count", {"label": labels[-1]} if is_sub else {}
    if not absent or (group.since and len(absent) < len(labels)):
        summary = f"{count(number, 'open issue', 'has')} the {'labels' if is_sub else 'label'} {' and '.join(labels)}"
        if group.since:
            what = f"{count(number, 'pull request')} with the label {' or '.join(labels)}"
            span = format_span(settings.weekly_window)
            summary = f"{what} {'was' if number == 1 else 'were'} merged in {span}"
        return Finding(metric, number, summary, newest(counted.evidence), tags)
    key = LABELS.get(name, "bug_sub_labels" if is_sub else "bug_label")
    reason = f"{known.state.repo} has no label {' or '.join(map(repr, absent))}: correct {key}, or create it"
    if key in settings.model_fields_set:
        raise Rejected(reason)
    known.notes.append(reason)  # a default that means nothing here
    return Finding(metric, None, reason, tags=tags)


async def count_groups(
    github: Github, repo: str, branch: str, groups: Mapping[str, Group], *, may_search: bool
) -> Answer:
    """Counts all ``groups`` (their names are names in GraphQL). Raises Unauthorized.

    ``may_search``: by the search what the lists did not answer. It is the only way without a token.
    """
    answer = Answer()
    if await github.has_token():  # GraphQL answers nobody else
        try:
            answer = await _count_by_lists(github, repo, branch, groups)
        except Unauthorized:
            raise
        except (Unavailable, Rejected) as error:
            answer.errors = dict.fromkeys(groups, error)
        answer.has_failed_lists = bool(answer.errors)
        if not may_search:
            return answer
    for name in groups.keys() - answer.counts.keys():
        answer.errors.pop(name, None)
        try:
            answer.counts[name] = await _search(github, repo, groups[name])
        except (Unavailable, Rejected) as error:
            answer.errors[name] = error
    return answer


# By the repository's own lists


class _Item(msgspec.Struct, rename="camel"):
    title: Text = None
    url: Text = None
    merged_at: Time | None = None
    updated_at: Time | None = None
    created_at: Time | None = None


class _PageInfo(msgspec.Struct, frozen=True, rename="camel"):
    has_next_page: bool = False
    end_cursor: str | None = None


class _Field(msgspec.Struct, rename="camel"):
    """A list of pull requests or issues; empty for a branch or a label."""

    total_count: int = 0
    nodes: list[_Item] | None = None
    page_info: _PageInfo = _PageInfo()


class _Data(msgspec.Struct):
    repository: dict[str, _Field | None] | None = None


async def _count_by_lists(github: Github, repo: str, branch: str, groups: Mapping[str, Group]) -> Answer:
    wanted = sorted({label for group in groups.values() for label in group.labels})
    labels = {f"label_{place}": label for place, label in enumerate(wanted)}
    fields = [f"branch: ref(qualifiedName: {_json(f'refs/heads/{branch}')}) {{ name }}"]
    fields += [f"{key}: label(name: {_json(label)}) {{ name }}" for key, label in labels.items()]
    for name, group in groups.items():
        fields += [_merged_list(name, group.labels)] if group.since else _issue_lists(name, group.labels)
    data = await _ask(github, repo, fields)
    found = {label: data.get(key) is not None for key, label in labels.items()}
    answer = Answer(has_branch=data.get("branch") is not None, labels=found)
    for name, group in groups.items():
        try:
            if group.since:
                answer.counts[name] = await _count_merged(github, repo, name, group.labels, group.since, data)
            else:
                answer.counts[name] = _count_issues(name, group.labels, data)
        except (Unavailable, Rejected) as error:
            answer.errors[name] = error
    return answer


def _merged_list(name: str, labels: Sequence[str], after: str = "") -> str:
    # A merge updates a pull request: whatever was merged since then is above the first one not updated since then.
    where = f"states: MERGED, labels: {_json(labels)}, orderBy: {{field: UPDATED_AT, direction: DESC}}, first: 100"
    where += f", after: {_json(after)}" if after else ""
    page = "nodes { title url mergedAt updatedAt } pageInfo { hasNextPage endCursor }"
    return f"{name}: pullRequests({where}) {{ {page} }}"


def _issue_lists(name: str, labels: tuple[str, ...]) -> list[str]:
    """The filter means any of several labels, so of two it is asked for the one, the other and either."""
    sets = [labels] if len(labels) == 1 else [labels[:1], labels[1:], labels]
    return [
        f"{name}_{place}: issues(labels: {_json(each)}, states: OPEN, last: 20)"
        " { totalCount nodes { title url createdAt } }"
        for place, each in enumerate(sets)
    ]


async def _ask(github: Github, repo: str, fields: Sequence[str]) -> Mapping[str, _Field | None]:
    owner, _, name = repo.partition("/")
    query = f"query {{ repository(owner: {_json(owner)}, name: {_json(name)}) {{ {' '.join(fields)} }} }}"
    data = await github.graphql(query, _Data)
    if data.repository is None:
        raise Refused("GitHub's GraphQL does not show the repository", 422)
    return data.repository


def _read_list(data: Mapping[str, _Field | None], name: str) -> tuple[_Field, list[_Item]]:
    found = data.get(name)
    if found is None or found.nodes is None:
        raise Refused("GitHub's GraphQL did not list them", 422)
    return found, found.nodes


async def _count_merged(
    github: Github, repo: str, name: str, labels: Sequence[str], since: datetime, data: Mapping[str, _Field | None]
) -> Counted:
    merged: dict[str | None, Evidence] = {}
    for _ in range(_PAGES):
        page, items = _read_list(data, name)
        for item in items:
            if item.merged_at and item.merged_at >= since:
                merged[item.url] = make_evidence(item.title, item.url, item.merged_at, "merged")
        is_older = any(item.updated_at is None or item.updated_at < since for item in items)
        if is_older or not page.page_info.has_next_page:
            return Counted(len(merged), tuple(merged.values()))
        data = await _ask(github, repo, [_merged_list(name, labels, page.page_info.end_cursor or "")])
    raise Unavailable(f"more than {100 * _PAGES} pull requests were updated within the weekly window")


def _count_issues(name: str, labels: tuple[str, ...], data: Mapping[str, _Field | None]) -> Counted:
    counts, shown = [], []
    for place in range(1 if len(labels) == 1 else 3):
        found, items = _read_list(data, f"{name}_{place}")
        counts.append(found.total_count)
        shown.append([make_evidence(item.title, item.url, item.created_at, "open") for item in items])
    if len(counts) == 1:
        return Counted(counts[0], tuple(shown[0]))
    one, other, either = counts
    return Counted(max(0, one + other - either), tuple(each for each in shown[0] if each in shown[1]))


def _json(value: str | Sequence[str]) -> str:
    # JSON strings and lists of them are GraphQL's: https://spec.graphql.org/October2021/#sec-String-Value
    return json.dumps(value, ensure_ascii=False)


# By REST


class _Search(msgspec.Struct):
    total_count: int
    incomplete_results: bool = False


async def _search(github: Github, repo: str, group: Group) -> Counted:
    """https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests"""
    labels = ['"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"' for label in group.labels]
    text = f"repo:{repo} is:issue is:open {' '.join(f'label:{label}' for label in labels)}"
    if group.since:
        # GitHub's times have whole seconds: those at or after a fraction begin with the next one.
        since = (group.since + timedelta(microseconds=999_999)).replace(microsecond=0).astimezone(UTC)
        text = f"repo:{repo} is:pr is:merged merged:>={since:%Y-%m-%dT%H:%M:%SZ} label:{','.join(labels)}"
    answer = await github.get("/search/issues", _Search, params={"q": text, "per_page": 1})
    if answer.incomplete_results:
        raise Unavailable("GitHub's search did not finish in time, its count is incomplete")
    return Counted(answer.total_count)


async def is_there(github: Github, repo: str, kind: Literal["branches", "labels"], name: str) -> bool:
    """GitHub's labels have no case; a renamed branch is redirected to its new name.

    Raises what ``Github.get`` does, but NotFound.
    """
    try:
        found = await github.get(f"/repos/{repo}/{kind}/{quote(name, safe='')}", Named, cached=True)
    except NotFound:
        return False
    return (found.name or "").lower() == name.lower()
