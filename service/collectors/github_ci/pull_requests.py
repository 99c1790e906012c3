"""Merged pull requests and open issues by label, from the repository's own lists: one GraphQL request for all.

GitHub's search is the only fallback, for its index lags. The same request tells which branch and labels there are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from service.collectors.github_ci.models import Time, check_url, shorten
from service.collectors.github_ci.state import State
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.samples import Evidence
from service.github.client import Github, Refused

QUESTION = "pull requests and issues"
_NODES = 100  # GitHub's most
_PAGES = 10  # of merged pull requests with one label in the weekly window
_PULL = "nodes { title url mergedAt updatedAt } pageInfo { hasNextPage endCursor }"
_ISSUES_SHOWN = 20
_SEARCH_AFTER = 3  # cycles in a row in which the lists did not answer
# A merge updates a pull request, so whatever was merged since then is above the first one not updated since then.
_NEWEST = "orderBy: {field: UPDATED_AT, direction: DESC}"


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
    """``counts`` and ``errors`` by the groups' names. ``names``: whether branch and labels are there.

    ``default_branch``: None where GitHub did not tell of branches.
    """

    counts: dict[str, Counted] = field(default_factory=dict)
    errors: dict[str, Unavailable | Rejected] = field(default_factory=dict)
    names: dict[str, bool] = field(default_factory=dict)
    default_branch: str | None = None


class _Item(msgspec.Struct, rename="camel"):
    title: str | None = None
    url: str | None = None
    merged_at: Time | None = None
    updated_at: Time | None = None
    created_at: Time | None = None

    def as_evidence(self) -> Evidence:
        at, word = (self.merged_at, "merged") if self.merged_at else (self.created_at, "open")
        return Evidence(shorten(self.title), check_url(self.url), at, word)


class _PageInfo(msgspec.Struct, rename="camel"):
    has_next_page: bool
    end_cursor: str | None = None


class _Field(msgspec.Struct, rename="camel"):
    """A list of pull requests or issues, a branch, or a label."""

    name: str | None = None
    total_count: int | None = None
    nodes: list[_Item | None] | None = None
    page_info: _PageInfo | None = None


class _Data(msgspec.Struct):
    repository: dict[str, _Field | None] | None = None


class _MergedOf(msgspec.Struct):
    merged_at: Time | None = None


class _Found(msgspec.Struct):
    title: str | None = None
    html_url: str | None = None
    created_at: Time | None = None
    pull_request: _MergedOf | None = None


class _Search(msgspec.Struct):
    total_count: int
    incomplete_results: bool = False
    items: list[_Found] = []


async def count(github: Github, state: State, groups: Mapping[str, Group], now: datetime) -> Answer:
    """Counts all ``groups`` (their names are names in GraphQL). Raises Unauthorized.

    By the search where a server has no such lists, or where they fail for long.
    """
    answer = Answer()
    if await github.has_token():  # GraphQL answers nobody else
        try:
            answer = await _count_by_lists(github, state.repo, state.branch, groups)
        except Unauthorized:
            raise
        except (Unavailable, Rejected) as error:
            answer.errors = dict.fromkeys(groups, error)
        if not answer.errors:
            state.has_lists = True
            state.believe("lists")
            return answer
        is_passing = state.has_lists or any(isinstance(each, Unavailable) for each in answer.errors.values())
        if state.doubt("lists", now) < _SEARCH_AFTER and is_passing:
            return answer  # the search would answer, but its index lags: no number is the better one
    for name in groups.keys() - answer.counts.keys():
        answer.errors.pop(name, None)
        try:
            answer.counts[name] = await _search(github, state.repo, groups[name])
        except (Unavailable, Rejected) as error:
            answer.errors[name] = error
    return answer


# The repository's lists


async def _count_by_lists(github: Github, repo: str, branch: str, groups: Mapping[str, Group]) -> Answer:
    labels = sorted({label for group in groups.values() for label in group.labels})
    named = {"branch": f"refs/heads/{branch}"} | {f"label_{place}": label for place, label in enumerate(labels)}
    names = [f"branch: ref(qualifiedName: {_string(named['branch'])}) {{ name }}", "defaultBranchRef { name }"]
    names += [f"label_{place}: label(name: {_string(label)}) {{ name }}" for place, label in enumerate(labels)]
    lists = dict(_lists(groups))
    try:
        told = await _ask(github, repo, [*names, *lists.values()])
    except Refused as error:
        if error.status not in (400, 422) or not lists:
            raise
        told = await _ask(github, repo, list(lists.values()))  # an older server may not know one of the names' fields
    answer = Answer()
    if default := told.get("defaultBranchRef"):
        answer.default_branch = default.name
    answer.names = {name: told[key] is not None for key, name in named.items() if key in told}
    for name, group in groups.items():
        try:
            answer.counts[name] = await _count(github, repo, name, group, told)
        except (Unavailable, Rejected) as error:
            answer.errors[name] = error
    return answer


def _lists(groups: Mapping[str, Group]) -> Iterator[tuple[str, str]]:
    for name, group in groups.items():
        if group.since:
            yield name, _merged_list(name, group.labels)
        elif len(group.labels) == 1:
            yield name, _issue_list(name, group.labels)
        else:  # the list's filter means any of several labels; both is what is left of one and the other
            for place, labels in enumerate([*((label,) for label in group.labels), group.labels]):
                yield f"{name}_{place}", _issue_list(f"{name}_{place}", labels)


def _merged_list(name: str, labels: Sequence[str], after: str | None = None) -> str:
    where = f"states: MERGED, labels: {_strings(labels)}, {_NEWEST}, first: {_NODES}"
    where += f", after: {_string(after)}" if after else ""
    return f"{name}: pullRequests({where}) {{ {_PULL} }}"


def _issue_list(name: str, labels: Sequence[str]) -> str:
    where = f"labels: {_strings(labels)}, states: OPEN, last: {_ISSUES_SHOWN}"
    return f"{name}: issues({where}) {{ totalCount nodes {{ title url createdAt }} }}"


async def _ask(github: Github, repo: str, fields: Sequence[str]) -> Mapping[str, _Field | None]:
    owner, _, name = repo.partition("/")
    query = f"query {{ repository(owner: {_string(owner)}, name: {_string(name)}) {{ {' '.join(fields)} }} }}"
    data = await github.graphql(query, _Data, question=QUESTION)
    if data.repository is None:
        raise Refused("GitHub's GraphQL does not show the repository", 422)
    return data.repository


async def _count(github: Github, repo: str, name: str, group: Group, told: Mapping[str, _Field | None]) -> Counted:
    if group.since:
        return await _count_merged(github, repo, name, group.labels, group.since, told.get(name))
    if len(group.labels) == 1:
        return _count_issues(told.get(name))
    one, other, either = (_count_issues(told.get(f"{name}_{place}")) for place in range(3))
    both = tuple(each for each in one.evidence if each in other.evidence)
    return Counted(max(0, one.count + other.count - either.count), both)


async def _count_merged(
    github: Github, repo: str, name: str, labels: Sequence[str], since: datetime, part: _Field | None
) -> Counted:
    merged: dict[str | None, Evidence] = {}
    for _ in range(_PAGES):
        if part is None or part.nodes is None or part.page_info is None or None in part.nodes:
            raise Refused("GitHub's GraphQL did not list them", 422)
        for item in filter(None, part.nodes):
            if item.updated_at is None or item.updated_at < since:
                return Counted(len(merged), tuple(merged.values()))
            if item.merged_at and item.merged_at >= since:
                merged[item.url] = item.as_evidence()
        if not part.page_info.has_next_page:
            return Counted(len(merged), tuple(merged.values()))
        list_ = _merged_list(name, labels, part.page_info.end_cursor)
        part = (await _ask(github, repo, [list_])).get(name)
    raise Unavailable(f"more than {_PAGES * _NODES} pull requests were updated within the weekly window")


def _count_issues(part: _Field | None) -> Counted:
    if part is None or part.total_count is None:
        raise Refused("GitHub's GraphQL did not count them", 422)
    return Counted(part.total_count, tuple(item.as_evidence() for item in part.nodes or () if item))


def _strings(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_string, texts))}]"


def _string(text: str) -> str:
    # A JSON string is a GraphQL string: https://spec.graphql.org/October2021/#sec-String-Value
    return json.dumps(text, ensure_ascii=False)


# The search: https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests


async def _search(github: Github, repo: str, group: Group) -> Counted:
    if group.since:
        # GitHub's times have whole seconds: those at or after a fraction begin with the next one.
        since = (group.since + timedelta(microseconds=999_999)).replace(microsecond=0).astimezone(UTC)
        labels = ",".join(map(_quote, group.labels))
        text = f"repo:{repo} is:pr is:merged merged:>={since:%Y-%m-%dT%H:%M:%SZ} label:{labels}"
    else:
        text = f"repo:{repo} is:issue is:open {' '.join(f'label:{_quote(label)}' for label in group.labels)}"
    params: Mapping[str, str | int] = {"q": text, "per_page": _NODES}
    answer = await github.get("/search/issues", _Search, params=params, question=QUESTION)
    if answer.incomplete_results:
        raise Unavailable("GitHub's search did not finish in time, its count is incomplete")
    items = (
        _Item(
            each.title, each.html_url, each.pull_request.merged_at if each.pull_request else None, None, each.created_at
        )
        for each in answer.items
    )
    return Counted(answer.total_count, tuple(item.as_evidence() for item in items))


def _quote(label: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        return label
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
