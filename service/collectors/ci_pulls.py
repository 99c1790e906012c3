"""How many pull requests with certain labels were merged of late: one GraphQL request, REST search as the fallback.

Both count in the same index: https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from service.adapters.github import Github
from service.collectors.ci_reader import Failure, gathered
from service.domain.errors import Rejected, Unauthorized, Unavailable

Labels = Mapping[str, Sequence[str]]


def search_text(repo: str, labels: Sequence[str], since: datetime) -> str:
    """Finds each pull request merged at ``since`` or later, to the second, that has at least one of the labels."""
    # GitHub's times have whole seconds: those at or after a fraction begin with the next one.
    whole = since.replace(microsecond=0) + timedelta(seconds=since.microsecond > 0)
    names = ",".join(_quoted(label) for label in labels)
    return f"repo:{repo} is:pr is:merged merged:>={whole.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} label:{names}"


async def count_merged(github: Github, repo: str, groups: Labels, since: datetime) -> dict[str, int | Failure]:
    """By the group's name, how many pull requests carry one of its labels; groups without labels are left out.

    Raises Unauthorized.
    """
    texts = {name: search_text(repo, labels, since) for name, labels in groups.items() if labels}
    if not texts:
        return {}
    counts: dict[str, int | Failure] = {}
    if await github.has_token():  # GraphQL answers nobody else
        try:
            counts.update(await github.graphql(_query(texts), read=partial(_counts, tuple(texts))))
        except Unauthorized:
            raise
        except (Unavailable, Rejected):
            pass  # an Enterprise server without GraphQL, a token without the right, a limit: REST has its own
    left = [name for name in texts if name not in counts]
    found = await gathered([partial(_search, github, texts[name]) for name in left])
    for name, count in zip(left, found, strict=True):
        if isinstance(count, Unauthorized):
            raise count
        counts[name] = count
    return counts


def _query(texts: Mapping[str, str]) -> str:
    # A JSON string is a GraphQL string: https://spec.graphql.org/October2021/#sec-String-Value
    fields = (
        f"{name}: search(type: ISSUE, query: {json.dumps(text, ensure_ascii=False)}, first: 1) {{ issueCount }}"
        for name, text in texts.items()
    )
    return f"query {{ {' '.join(fields)} }}"


def _counts(names: Sequence[str], payload: Any) -> dict[str, int]:
    """The counts that are there; beside errors some may be missing, or all."""
    data = payload.get("data") or {}
    found = {name: data[name]["issueCount"] for name in names if data.get(name)}
    return {name: count for name, count in found.items() if isinstance(count, int)}


async def _search(github: Github, text: str) -> int:
    count = await github.get("/search/issues", {"q": text, "per_page": 1}, read=_total)
    if count is None:
        raise Unavailable("GitHub's search did not finish in time, its count is incomplete")
    return count


def _total(payload: Any) -> int | None:
    return None if payload.get("incomplete_results") else int(payload["total_count"])


def _quoted(label: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        return label
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
