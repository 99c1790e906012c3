"""The repository's workflows, and which of them an entry of a list means."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.adapters.github import Github
from service.collectors.ci_ask import gathered
from service.collectors.ci_runs import PER_PAGE
from service.domain.errors import Rejected, Unavailable


@dataclass(frozen=True, slots=True)
class Workflow:
    """``state``: active, deleted, disabled_fork, disabled_inactivity or disabled_manually."""

    id: int
    name: str
    path: str
    state: str

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    def is_meant_by(self, entry: str) -> bool:
        """By id, name, path or file name. A broken file's name is its path."""
        return entry in (str(self.id), self.name, self.path, self.path.rpartition("/")[2])


async def workflows(github: Github, repo: str) -> list[Workflow]:
    """All workflows of ``repo``, the disabled ones included. Raises what Github raises."""
    first = await _page(github, repo, 1)
    total, found = first
    rest = range(2, -(-total // PER_PAGE) + 1)
    for page in await gathered([partial(_page, github, repo, number) for number in rest]):
        if isinstance(page, (Unavailable, Rejected)):
            raise page
        found += page[1]
    return list({workflow.id: workflow for workflow in found}.values())


def meant(entries: Sequence[str], listed: Sequence[Workflow]) -> dict[str, list[Workflow]]:
    """The workflows that each entry means; names repeat, and then it means all of that name."""
    return {entry: [each for each in listed if each.is_meant_by(entry)] for entry in entries}


async def _page(github: Github, repo: str, number: int) -> tuple[int, list[Workflow]]:
    params = {"per_page": PER_PAGE, "page": number}
    path = f"/repos/{repo}/actions/workflows"
    return await github.get(path, params, read=_workflows, kept=True, question="workflows")


def _workflows(payload: Any) -> tuple[int, list[Workflow]]:
    rows = payload["workflows"]
    found = [Workflow(int(row["id"]), row.get("name") or "", row.get("path") or "", row["state"]) for row in rows]
    return int(payload["total_count"]), found
