"""Which of the repository's workflows the settings mean."""

import re
from collections.abc import Iterable, Mapping, Sequence

from service.collectors.github_ci.models import Run, Workflow, WorkflowRuns


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
