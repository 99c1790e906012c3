"""The repository's workflows: which of them an entry of a list means, and the latest run of those that rarely run."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from service.collectors.github_ci.models import PER_PAGE, Run, Workflow, WorkflowPage
from service.collectors.github_ci.state import State
from service.collectors.github_ci.window import RunList
from service.domain.errors import Rejected, Unavailable
from service.github.client import Github, NotFound

_FEW = 20  # among the newest runs of a workflow on the branch there nearly always is a conclusive one
_LAG = timedelta(hours=6)  # an index may know less about the runs since then
_FILTERED_PAGES = 10  # GitHub lists 1,000 runs at most where it filters
_REMEDY = "`infra-health list-workflows` shows them all"


async def list_workflows(github: Github, repo: str) -> list[Workflow]:
    """All workflows of ``repo``, the disabled ones included. Raises what ``Github.get`` does."""
    found: dict[int, Workflow] = {}
    number = 0
    while True:
        number += 1
        params = {"per_page": PER_PAGE, "page": number}
        path = f"/repos/{repo}/actions/workflows"
        page = await github.get(path, WorkflowPage, params=params, cached=True, question="workflows")
        found |= {each.id: each for each in page.workflows}
        if len(page.workflows) < PER_PAGE:
            if len(found) < page.total_count:
                raise Unavailable(f"GitHub counts {page.total_count} workflows but shows {len(found)}")
            return list(found.values())


class WorkflowLists:
    """What the two lists of the settings mean among the workflows that are ``listed``, and which are the others."""

    def __init__(self, lists: Mapping[str, Sequence[str]], listed: Sequence[Workflow]) -> None:
        self.names = {each.id: each.name for each in listed}
        self._lists = {
            name: {entry: {each.id for each in listed if each.is_meant_by(entry)} for entry in entries}
            for name, entries in lists.items()
        }
        for entries in self._lists.values():
            for entry, meant in entries.items():
                if not meant and _is_id(entry):
                    meant.add(int(entry))  # an id that GitHub does not list may still have runs
        active = {each.id for each in listed if each.is_active}
        self.others = active.difference(*(self.ids(name) for name in self._lists))
        self.all = [*sorted(set().union(*(self.ids(name) for name in self._lists))), *sorted(self.others)]

    def ids(self, name: str) -> set[int]:
        """The workflows that a list means; names repeat, and then it means all of that name."""
        return set().union(*self._lists[name].values())

    def list_of(self, id: int) -> str | None:
        """The list that means a workflow."""
        return next((name for name in self._lists if id in self.ids(name)), None)

    def missing(self, name: str) -> str | None:
        """What to tell of an entry that means no workflow, None when all do."""
        absent = [entry for entry, meant in self._lists[name].items() if not meant]
        return describe_missing(absent[0]) if absent else None


def describe_missing(entry: str) -> str:
    return f'no workflow has the name, file name, path or id "{entry}": {_REMEDY}'


def _is_id(entry: str) -> bool:
    return entry.isascii() and entry.isdigit() and len(entry) < 19


async def ask_latest(runs: RunList, state: State, id: int, *, is_listed: bool, now: datetime) -> None:
    """Learns the newest conclusive runs of a workflow on the branch, however old, from its own list.

    The list that GitHub filters by branch may lack the newest runs, which the list of all runs has shown, and at times
    all: what it does not show is looked for among the workflow's runs on any branch, too. Where there are none of these
    either, the list of a workflow that has old runs tells whether such lists can be believed now.
    """
    try:
        found = await _find_latest(runs, id)
    except NotFound as error:
        if not is_listed:
            raise Rejected(describe_missing(str(id))) from error
        state.doubt(f"workflow {id}", now)
        raise Unavailable(f"GitHub lists workflow {id} but answers 404 for its runs: {error}") from error
    if not found:
        others = await runs.of_workflow(id, PER_PAGE, 1, on_branch=False)
        if not others:
            oldest = min(state.runs.values(), key=lambda run: run.created, default=None)
            known = oldest.workflow_id if oldest and oldest.created < now - _LAG else None
            if known and not await runs.of_workflow(known, 1, 1, on_branch=False):
                state.doubt(f"workflow {id}", now)
                raise Unavailable(f"GitHub lists no runs of workflow {id}, but none of {known} either, which has some")
        found = _conclusive(others)
    state.believe(f"workflow {id}")
    state.take(found, now)
    state.asked[id] = now


async def _find_latest(runs: RunList, id: int) -> list[Run]:
    sizes = [(_FEW, 1), *((PER_PAGE, number) for number in range(1, _FILTERED_PAGES + 1))]
    for size, number in sizes:
        rows = await runs.of_workflow(id, size, number, on_branch=True)
        if (found := _conclusive(rows)) or len(rows) < size:
            return found
    return []


def _conclusive(rows: Sequence[Run]) -> list[Run]:
    return [run for run in rows if run.on_branch and run.is_conclusive]
