"""The table of the last seven days, workflow by workflow, that page and API show.

Each cycle stores it beside the state under a key of its own: who shows it need not read what only cycles need.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from service.collectors.github_ci.models import quantile
from service.collectors.github_ci.state import WEEK, EndedRun, State, decode

KEY = "week/"  # before the repository's name

Order = Literal["failures", "p90_minutes", "reruns"]  # by what the worst come first


class WorkflowWeek(msgspec.Struct):
    """A workflow's runs on the branch or before a merge whose last attempt began within the week and was conclusive.

    ``reruns``: how many of them were run again. ``p90_minutes``: of their last attempts, by linear interpolation; None
    while the end of one is not known. ``url``: GitHub's list of those that failed.
    """

    repo: str
    workflow: str
    runs: int
    failures: int
    failure_share: float
    p90_minutes: float | None
    reruns: int
    url: str


class WeeklyRuns(msgspec.Struct, tag_field="version", tag=3):
    """One repository's week. ``until``: the last poll; None, and no ``workflows``, while older runs are still to be
    read: those that were run again would be missing."""

    repo: str
    until: datetime | None = None
    workflows: list[WorkflowWeek] = []

    @property
    def since(self) -> datetime | None:
        return self.until and self.until - WEEK


def summarize(state: State, names: Mapping[int, str], until: datetime | None) -> WeeklyRuns:
    """``names``: the workflows', by id. CPU work."""
    found: dict[int, list[EndedRun]] = {}
    for run in state.week.values() if until else ():
        found.setdefault(run.workflow, []).append(run)
    names = {run.workflow_id: run.label for run in state.runs.values()} | dict(names)
    address = next((run.url.partition("/runs/")[0] for run in state.runs.values() if run.url), "")
    weeks = []
    for id, runs in found.items():
        name = names.get(id, str(id))
        failures, reruns = sum(run.has_failed for run in runs), sum(run.attempt > 1 for run in runs)
        seconds = [run.seconds for run in runs if run.seconds is not None]
        p90 = quantile(seconds, 0.9) / 60 if len(seconds) == len(runs) else None
        query = quote(f'workflow:"{name}" is:failure')
        url = f"{address}?query={query}" if address else ""
        weeks.append(WorkflowWeek(state.repo, name, len(runs), failures, failures / len(runs), p90, reruns, url))
    return WeeklyRuns(state.repo, until, weeks)


def read_all(stored: Iterable[bytes], by: Order) -> tuple[list[WeeklyRuns], list[WorkflowWeek]]:
    """The weeks of a collector's repositories, by name, and their workflows, the worst first. CPU work."""
    decoded = (decode(each, WeeklyRuns) for each in stored)
    found = sorted((each for each in decoded if each), key=lambda each: each.repo)
    workflows = sorted((workflow for each in found for workflow in each.workflows), key=lambda each: each.workflow)
    workflows.sort(key=lambda each: (getattr(each, by) or 0, each.failures, each.failure_share), reverse=True)
    return found, workflows
