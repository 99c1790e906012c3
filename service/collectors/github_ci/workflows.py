"""The repository's workflows: which of them the settings mean, and the newest runs of one by its own list."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from service.collectors.github_ci.actions import PER_PAGE, Actions
from service.collectors.github_ci.models import Run, Workflow, WorkflowRuns
from service.collectors.github_ci.state import State
from service.domain.errors import Rejected, Unavailable
from service.github.client import NotFound

_FILTERED_PAGES = 10  # GitHub lists 1,000 runs at most where it filters
_LAG = timedelta(hours=6)  # an index may know less about the runs since then


class WorkflowLists:
    """What the settings' ``lists`` mean among the workflows that are ``listed``, and which are the ``others``.

    A name that repeats means all of that name; an id that GitHub does not list may still have runs.
    ``missing``: by list, what to tell of an entry that means no workflow. ``asleep``: those on no list that GitHub
    disabled for inactivity. ``disabled``: those on a list that no event starts any more.
    """

    def __init__(self, lists: Mapping[str, Sequence[str]], listed: Sequence[Workflow]) -> None:
        self._by_id = {each.id: each for each in listed}
        self.names = {each.id: each.name for each in listed}
        self.missing: dict[str, str] = {}
        self.ids: dict[str, set[int]] = {name: set() for name in lists}
        for name, entry in ((name, entry) for name, entries in lists.items() for entry in entries):
            meant = {each.id for each in self.find(entry)}
            if not meant and re.fullmatch("[0-9]{1,18}", entry):
                meant = {int(entry)}
            if not meant:
                self.missing.setdefault(name, describe_missing(entry))
            self.ids[name] |= meant
        on_lists: set[int] = set().union(*self.ids.values())
        self.others = {each.id for each in listed if each.state == "active"} - on_lists
        self.all = [*sorted(on_lists), *sorted(self.others)]
        self.asleep = [each for each in listed if each.state == "disabled_inactivity" and each.id not in on_lists]
        self.disabled = [each for each in listed if each.id in on_lists and each.state != "active"]

    def find(self, entry: str) -> list[Workflow]:
        """Those that an entry of the settings means."""
        return [each for each in self._by_id.values() if each.is_meant_by(entry)]

    def join(self, ids: Iterable[int], runs: Mapping[int, Sequence[Run]]) -> list[WorkflowRuns]:
        """The workflows of these ``ids`` with their ``runs``."""
        rows = (self._by_id.get(id) or Workflow(id, "") for id in ids)
        return [WorkflowRuns(row.file, runs.get(row.id, ()), row.created) for row in rows]

    def list_of(self, id: int) -> str | None:
        """The list that means a workflow."""
        return next((name for name, ids in self.ids.items() if id in ids), None)


def describe_missing(entry: str) -> str:
    return f'no workflow has the name, file name, path or id "{entry}": `infra-health list-workflows` shows them all'


async def ask_latest(actions: Actions, state: State, id: int, *, is_listed: bool, now: datetime) -> None:
    """Learns the newest conclusive runs of a workflow on the branch, however old, from its own list.

    The list that GitHub filters by branch may lack the newest runs, which the list of all runs has shown, and at times
    all: what it does not show is looked for among the workflow's runs on any branch, too. Where there are none of these
    either, the list of a workflow that has old runs tells whether such lists can be believed now.
    Raises what ``Github.get`` does.
    """
    try:
        found = await _find_latest(actions, id)
    except NotFound as error:
        if not is_listed:
            raise Rejected(describe_missing(str(id))) from error
        raise Unavailable(f"GitHub lists workflow {id} but answers 404 for its runs: {error}") from error
    if not found:
        others = await actions.of_workflow(id, PER_PAGE, 1, on_branch=False)
        oldest = min(state.runs.values(), key=lambda run: run.created, default=None)
        if not others and oldest and oldest.created < now - _LAG:
            known = oldest.workflow_id
            if not await actions.of_workflow(known, 1, 1, on_branch=False):
                raise Unavailable(f"GitHub lists no runs of workflow {id}, but none of {known} either, which has some")
        found = _ended_on_branch(others)
    state.take(found)
    state.looked_up.add(id)


async def _find_latest(actions: Actions, id: int) -> list[Run]:
    for number in range(1, _FILTERED_PAGES + 1):
        rows = await actions.of_workflow(id, PER_PAGE, number, on_branch=True)
        if (found := _ended_on_branch(rows)) or len(rows) < PER_PAGE:
            return found
    return []


def _ended_on_branch(rows: Sequence[Run]) -> list[Run]:
    """None where none of them is conclusive; else also those that are not: one of them may have broken the branch."""
    ended = [run for run in rows if run.on_branch and run.conclusion]
    return ended if any(run.is_conclusive for run in ended) else []
