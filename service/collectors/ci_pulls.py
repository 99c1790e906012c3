"""Merged pull requests and open issues by label: one GraphQL request for all, REST search as the fallback.

https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from service.adapters.github import Github, Refused
from service.collectors import ci_evidence, ci_graphql
from service.collectors.ci_ask import Failure, gathered
from service.collectors.ci_graphql import Counted, Part, Question
from service.collectors.ci_ways import FAILURES, Style, Way
from service.domain.errors import Rejected, Unauthorized, Unavailable

QUESTION = "pull requests and issues"
_PER_PAGE = 100
_PAGES = 10  # of merged pull requests with one label in the weekly window; the search counts more


def merged(repo: str, labels: Sequence[str], since: datetime) -> Question:
    """Each pull request merged at ``since`` or later, to the second, that has at least one of the labels."""
    # GitHub's times have whole seconds: those at or after a fraction begin with the next one.
    whole = since.replace(microsecond=0) + timedelta(seconds=since.microsecond > 0)
    names = ",".join(_quoted(label) for label in labels)
    text = f"repo:{repo} is:pr is:merged merged:>={whole.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} label:{names}"
    return Question(text, tuple(labels), since)


def open_issues(repo: str, labels: Sequence[str]) -> Question:
    """Each open issue that has all of the one or two labels."""
    names = " ".join(f"label:{_quoted(label)}" for label in labels)
    return Question(f"repo:{repo} is:issue is:open {names}", tuple(labels))


async def count(
    github: Github, repo: str, questions: Mapping[str, Question], style: Style
) -> dict[str, Counted | Failure]:
    """The answers by the questions' names (which are names in GraphQL). Raises Unauthorized."""
    if not questions:
        return {}
    counts: dict[str, Counted | Failure] = {}
    if await github.has_token():  # GraphQL answers nobody else
        trouble = await _count(github, repo, questions, style, counts)
        if trouble and style.failures <= FAILURES:
            # The search would answer, but its index may lag: for a passing trouble no number is the better one.
            return dict.fromkeys(questions, trouble) | counts
    left = [name for name in questions if name not in counts]
    found = await gathered([partial(_search, github, questions[name].text) for name in left])
    for name, each in zip(left, found, strict=True):
        if isinstance(each, Unauthorized):
            raise each
        counts[name] = each
    return counts


async def _count(
    github: Github,
    repo: str,
    questions: Mapping[str, Question],
    style: Style,
    counts: dict[str, Counted | Failure],
) -> Failure | None:
    """Adds what GraphQL counts. The trouble that may pass, None where the search has to do it. Raises Unauthorized."""
    style.begin()
    trouble: Failure | None = None
    try:
        await _counted(github, repo, questions, style, counts)
    except Unauthorized:
        raise
    except (Unavailable, Rejected) as error:
        trouble = error
    if len(counts) == len(questions):
        style.note_success()
        return None
    if not style.has_worked and not isinstance(trouble, Unavailable):
        return None  # a server without GraphQL, or a token without the right to it
    style.note_failure()
    return trouble or Unavailable("GitHub's GraphQL did not count them")


async def _counted(
    github: Github,
    repo: str,
    questions: Mapping[str, Question],
    style: Style,
    counts: dict[str, Counted | Failure],
) -> None:
    """Adds what GraphQL counts. Raises Unavailable, Rejected and Unauthorized."""
    for way in style.ways:
        left = {name: question for name, question in questions.items() if name not in counts}
        try:
            told = await _asked(github, repo, left, way)
        except Refused as error:
            if error.status not in (400, 422):
                raise
            continue
        if told and not counts:
            style.way = way
        counts.update(told)
        if len(counts) == len(questions):
            return
        # A whole document is refused for one field that a server does not know.


async def _asked(github: Github, repo: str, questions: Mapping[str, Question], way: Way) -> dict[str, Counted]:
    """One request, and another where a list has more pages."""
    counts: dict[str, Counted] = {}
    begun: dict[str, Part] = {}
    for _ in range(_PAGES):
        left = {name: questions[name] for name in begun} or questions
        query = ci_graphql.document(repo, left, way, begun)
        told = await github.graphql(query, read=partial(ci_graphql.read, left, way, begun), question=QUESTION)
        counts |= {name: each for name, each in told.items() if isinstance(each, Counted)}
        begun = {name: each for name, each in told.items() if isinstance(each, Part)}
        if not begun:
            break
    return counts


async def _search(github: Github, text: str) -> Counted:
    params: dict[str, str | int] = {"q": text, "per_page": _PER_PAGE}
    counted = await github.get("/search/issues", params, read=_found, question=QUESTION)
    if counted is None:
        raise Unavailable("GitHub's search did not finish in time, its count is incomplete")
    return counted


def _found(payload: Any) -> Counted | None:
    if payload.get("incomplete_results"):
        return None
    rows = payload.get("items") or ()
    found = ci_evidence.newest(ci_graphql.evidence(row, "html_url") for row in rows)
    return Counted(int(payload["total_count"]), found)


def _quoted(label: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        return label
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
