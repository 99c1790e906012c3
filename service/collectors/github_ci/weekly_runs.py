"""The runs of the last seven days, workflow by workflow: what each cycle adds, and the table that page and API show.

Kept beside the state under a key of its own, some 10 bytes a run: who shows it need not read what only cycles need.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from service.collectors.github_ci.models import FAILED, Run, quantile
from service.collectors.github_ci.state import WEEK, State, decode

KEY = "week/"  # before the repository's name

Order = Literal["failures", "p90_minutes", "reruns"]  # by what the worst come first


class EndedRun(msgspec.Struct, array_like=True):
    """The last attempt of a run. ``started``: seconds since the epoch. ``seconds``: how long it took, None where the
    end that GitHub tells can't be believed."""

    workflow: int
    attempt: int
    started: int
    seconds: int | None
    has_failed: bool


@dataclass(frozen=True, slots=True)
class WorkflowWeek:
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


class WeeklyRuns(msgspec.Struct, tag_field="version", tag=2):
    """What is known of one repository's week. ``names``: of the workflows, by id. ``url``: GitHub's page of the runs.

    ``until``: the last poll; None while older runs are still to be read: those that were run again would be missing.
    """

    repo: str
    branch: str
    until: datetime | None = None
    url: str = ""
    names: dict[int, str] = {}
    runs: dict[int, EndedRun] = {}

    def take(self, runs: Iterable[Run], now: datetime) -> None:
        """Keeps what ended, never backwards: a run that was forgotten may be told anew as it was, or with a later end.
        CPU work."""
        for run in runs:
            known = self.runs.get(run.id)
            if known and known.attempt > run.attempt:
                continue
            if run.started < now - WEEK or not run.kind or not run.is_conclusive:
                if known:
                    del self.runs[run.id]
                continue
            seconds = known.seconds if known and known.attempt == run.attempt else None
            if seconds is None and run.has_known_end:
                seconds = round(60 * run.minutes)
            started, has_failed = int(run.started.timestamp()), run.conclusion in FAILED
            self.runs[run.id] = EndedRun(run.workflow_id, run.attempt, started, seconds, has_failed)
            self.names.setdefault(run.workflow_id, run.name or str(run.workflow_id))
            self.url = (run.url or "").partition("/runs/")[0] or self.url

    def close(self, now: datetime, names: Mapping[int, str], *, is_whole: bool) -> None:
        """Ends a poll at ``now``. ``is_whole``: no older run is left to be read."""
        self.until = now if is_whole else None
        first = (now - WEEK).timestamp()
        self.runs = {id: run for id, run in self.runs.items() if run.started >= first}
        used = {run.workflow for run in self.runs.values()}
        self.names = {id: name for id, name in {**self.names, **names}.items() if id in used}

    @property
    def since(self) -> datetime | None:
        return self.until and self.until - WEEK

    def summarize(self) -> list[WorkflowWeek]:
        """The workflows in any order; none while the week can't be told. CPU work."""
        found: dict[int, list[EndedRun]] = {}
        for run in self.runs.values() if self.until else ():
            found.setdefault(run.workflow, []).append(run)
        return [self._summarize(self.names[id], runs) for id, runs in found.items()]

    def _summarize(self, name: str, runs: list[EndedRun]) -> WorkflowWeek:
        failures = sum(run.has_failed for run in runs)
        seconds = [run.seconds for run in runs if run.seconds is not None]
        query = quote(f'workflow:"{name}" is:failure')
        return WorkflowWeek(
            self.repo,
            name,
            len(runs),
            failures,
            failures / len(runs),
            quantile(seconds, 0.9) / 60 if len(seconds) == len(runs) else None,
            sum(run.attempt > 1 for run in runs),
            f"{self.url}?query={query}" if self.url else "",
        )


def read_all(stored: Iterable[bytes], by: Order) -> tuple[list[WeeklyRuns], list[WorkflowWeek]]:
    """The weeks of a collector's repositories, by name, and their workflows, the worst first. CPU work."""
    decoded = (decode(each, WeeklyRuns) for each in stored)
    found = sorted((each for each in decoded if each), key=lambda each: each.repo)
    workflows = [workflow for each in found for workflow in each.summarize()]
    workflows.sort(key=lambda each: (each.repo, each.workflow))
    workflows.sort(key=lambda each: (getattr(each, by) or 0, each.failures, each.failure_share), reverse=True)
    return found, workflows


def begin(stored: bytes | None, state: State) -> WeeklyRuns:
    """What was stored for this branch, an empty one else. ``state``: as it was before this cycle; where all is to be
    read anew, so is the week, and the other way round."""
    known = decode(stored, WeeklyRuns)
    if known is None or (known.repo, known.branch) != (state.repo, state.branch):
        known = WeeklyRuns(state.repo, state.branch)
        state.restart()
    if state.is_cold:
        known.until = None
    return known
