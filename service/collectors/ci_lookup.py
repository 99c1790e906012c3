"""Looks up what the list of runs does not show: a run as it is now, its earlier attempts, a workflow's latest runs."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from service.adapters.github import Github, Refused
from service.collectors import ci_runs
from service.collectors.ci_ask import GONE
from service.collectors.ci_memory import BEGINNING, Remembered
from service.collectors.ci_runs import PER_PAGE, Run

T = TypeVar("T")
Params = Mapping[str, str | int]

_FEW = 10  # runs of a workflow: among its ten newest on the branch there nearly always is a conclusive one
_FILTERED_PAGES = 10  # GitHub lists 1,000 runs at most where it filters


class RunLookup:
    """Asks for single runs of ``repo``, "on the branch" meaning ``branch``."""

    def __init__(self, github: Github, repo: str, branch: str) -> None:
        self._github = github
        self._actions = f"/repos/{repo}/actions"
        self._branch = branch

    async def read_again(self, run: Run, known: Remembered) -> None:
        """Brings what is known of a run up to date."""
        params = {"exclude_pull_requests": "true"}
        read = partial(ci_runs.to_run, branch=self._branch)
        try:
            fresh = await self._get(f"runs/{run.id}", params, read, True, "unfinished runs")
        except Refused as error:
            if error.status not in GONE:  # deleted ones leave when their page is read
                raise
        else:
            known.take([fresh])

    async def find_latest(self, workflow_id: int) -> list[Run]:
        """The newest conclusive runs of a workflow on the branch, however old; empty when there never was one.

        From the list that GitHub filters: it may lack the newest runs, which are known from the unfiltered one.
        """
        sizes = [(_FEW, 1), *((PER_PAGE, number) for number in range(1, _FILTERED_PAGES + 1))]
        for size, number in sizes:
            params: Params = {"branch": self._branch, "per_page": size, "exclude_pull_requests": "true", "page": number}
            read = partial(_filtered, self._branch)
            path = f"workflows/{workflow_id}/runs"
            total, runs = await self._get(path, params, read, size == _FEW, "old workflows")
            found = [run for run in runs if run.on_branch and run.is_conclusive]
            if found or not runs or total <= size * number:
                return found
        return []

    async def learn_attempts(self, run: Run, known: Remembered, since: datetime, ended: list[Run]) -> bool:
        """Whether a run that succeeded had an attempt that failed; asks back from the last until one did.

        Adds to ``ended`` the attempts that the list did not show because the next one, begun at ``since`` or later,
        took their place.
        """
        attempts = known.attempts.setdefault(run.id, {})
        followed = run.started  # when the attempt after this one began
        for number in range(run.attempt - 1, 0, -1):
            is_hidden = followed >= since and (run.id, number) not in known.told
            is_open = run.conclusion == "success" and ci_runs.has_failed_attempt(run, attempts) is None
            if not is_hidden and not is_open:
                break
            followed = BEGINNING
            if is_hidden or number not in attempts:
                attempt = await self.attempt(run, number)
                attempts[number] = attempt.conclusion or "none"
                if is_hidden:
                    ended.append(attempt)
                    followed = attempt.started
        return bool(ci_runs.has_failed_attempt(run, attempts))

    async def attempt(self, run: Run, number: int) -> Run:
        """The run as of an earlier attempt."""
        params = {"exclude_pull_requests": "true"}
        read = partial(ci_runs.to_run, branch=self._branch)
        return await self._get(f"runs/{run.id}/attempts/{number}", params, read, False, "attempts")

    async def _get(self, path: str, params: Params, read: Callable[[Any], T], kept: bool, question: str) -> T:
        return await self._github.get(f"{self._actions}/{path}", params, read=read, kept=kept, question=question)


def _filtered(branch: str, payload: Any) -> tuple[int, tuple[Run, ...]]:
    return int(payload["total_count"]), ci_runs.to_runs(payload, branch)
