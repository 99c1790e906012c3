"""Reads runs: the list of all runs, the window's part of it in every cycle, and single runs by their ids.

The list is newest first and grows at its front: a run that arrives meanwhile pushes others down, so that one comes
twice but none is left out. Filtered lists come from a search index that lags, so they are no substitute.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from service.collectors.github_ci.models import PER_PAGE, Run, RunPage, RunRow, to_run
from service.collectors.github_ci.state import BEGINNING, MARGIN, State
from service.domain.errors import Rejected, Unavailable
from service.domain.samples import MAX_POINT_AGE
from service.github.client import Github, NotFound

_LAST_PAGE = 390  # GitHub answers 422 beyond about 40,000 runs
# total_count differs by a few from answer to answer. A page that lacks more than this breaks off.
_COUNTS_DIFFER = 20
_SLIM: Mapping[str, str | int] = {"exclude_pull_requests": "true"}


class Page(NamedTuple):
    """``is_last``: there are no older runs, or none that GitHub lists."""

    number: int
    runs: list[Run]
    is_last: bool

    @property
    def oldest(self) -> datetime:
        """Every run created after this is on the page or on one before it."""
        return BEGINNING if self.is_last or not self.runs else self.runs[-1].created


class RunList:
    """The runs of ``repo``, "on the branch" meaning ``branch``. Every method raises what ``Github.get`` does."""

    def __init__(self, github: Github, repo: str, branch: str) -> None:
        self._github = github
        self._actions = f"/repos/{repo}/actions"
        self._branch = branch
        self._total = 0  # the most that was counted since the first page

    async def page(self, number: int, question: str, *, cached: bool) -> Page:
        """A page of the list of all runs. Raises Unavailable when it breaks off, by its own count."""
        params: Mapping[str, str | int] = {**_SLIM, "per_page": PER_PAGE, "page": number}
        answer = await self._github.get(
            f"{self._actions}/runs", RunPage, params=params, cached=cached, question=question
        )
        runs = [to_run(row, self._branch) for row in answer.workflow_runs]
        self._total = answer.total_count if number == 1 else max(self._total, answer.total_count)
        breaks_off = len(runs) < PER_PAGE and self._total > PER_PAGE * (number - 1) + len(runs) + _COUNTS_DIFFER
        if breaks_off and not runs:
            raise Unavailable(f"GitHub's list of runs ends at page {number} though it counts {self._total} runs")
        return Page(number, runs, number >= _LAST_PAGE or (len(runs) < PER_PAGE and not breaks_off))

    async def run(self, id: int, question: str) -> Run:
        row = await self._github.get(f"{self._actions}/runs/{id}", RunRow, params=_SLIM, cached=True, question=question)
        return to_run(row, self._branch)

    async def attempt(self, run: Run, number: int) -> Run:
        """The run as of an earlier attempt."""
        path = f"{self._actions}/runs/{run.id}/attempts/{number}"
        attempt = to_run(await self._github.get(path, RunRow, params=_SLIM, question="attempts"), self._branch)
        attempt.attempt, attempt.on_branch = number, run.on_branch
        return attempt

    async def of_workflow(self, id: int, count: int, page: int, *, on_branch: bool) -> list[Run]:
        """``count`` runs of one workflow, on the branch alone (from an index that may lag) or on any."""
        params: dict[str, str | int] = {**_SLIM, "per_page": count, "page": page}
        if on_branch:
            params["branch"] = self._branch
        path = f"{self._actions}/workflows/{id}/runs"
        answer = await self._github.get(path, RunPage, params=params, cached=True, question="runs of a workflow")
        if not answer.workflow_runs and answer.total_count > count * (page - 1) + _COUNTS_DIFFER:
            raise Unavailable(f"GitHub counts {answer.total_count} runs of workflow {id} but shows none")
        return [to_run(row, self._branch) for row in answer.workflow_runs]


async def read_window(runs: RunList, state: State, now: datetime, window: timedelta) -> list[int]:
    """Brings the window's runs up to date. Returns the ids of known runs that the list should show but does not.

    Raises Unavailable, Rejected and Unauthorized when the window can't be read whole.
    """
    horizon = now - window - MARGIN
    seen: set[int] = set()
    number, oldest = 0, now
    while oldest >= horizon:
        number += 1
        page = await runs.page(number, "runs", cached=True)
        state.take(page.runs, now)
        seen.update(run.id for run in page.runs)
        oldest = page.oldest
        if page.is_last and number >= _LAST_PAGE and page.runs[-1].created >= horizon:
            raise Rejected(f"the window holds more runs than GitHub lists ({PER_PAGE * number} read)")
    if not seen and state.runs and state.doubt("runs", now) <= 3:
        raise Unavailable(f"GitHub's list of runs is empty though it showed {len(state.runs)} of them before")
    if seen:
        state.believe("runs")
    state.reach = min(state.reach or now, oldest)
    state.read_at, state.front = now, number
    state.page = max(state.page, number + 1)
    state.depth = number if page.is_last else max(state.depth, number + 1)
    state.is_empty = not seen
    return sorted(state.created_between(oldest) - seen)


async def ask_unseen(runs: RunList, state: State, id: int, now: datetime) -> None:
    """A known run that its list does not show any more: it was deleted, or the list lags."""
    try:
        state.take([await runs.run(id, "unseen runs")], now)
    except NotFound:
        state.forget_run(id)


async def ask_attempts(runs: RunList, state: State, run: Run, now: datetime, ended: list[Run]) -> None:
    """Asks back from the last attempt until one is known to have failed.

    Adds to ``ended`` the attempts that no list showed because the next one, begun within 55 minutes, took their place.
    """
    followed_at = run.started
    for number in range(run.attempt - 1, 0, -1):
        is_hidden = _may_be_hidden(run, number, followed_at, now)
        if not is_hidden and not run.is_verdict_open:
            break
        followed_at = BEGINNING
        if is_hidden or number not in run.earlier:
            attempt = await runs.attempt(run, number)
            run.earlier[number] = attempt.conclusion or "none"
            if is_hidden:
                ended.append(attempt)
                followed_at = attempt.started


def runs_with_unknown_attempts(runs: Iterable[Run], now: datetime) -> list[Run]:
    """Those whose earlier attempts decide a number: whether they are flaky, or how long the attempts took."""
    return [
        run
        for run in runs
        if run.attempt > 1 and (run.is_verdict_open or _may_be_hidden(run, run.attempt - 1, run.started, now))
    ]


def _may_be_hidden(run: Run, number: int, followed_at: datetime, now: datetime) -> bool:
    is_unknown = number > run.reported and number not in run.earlier
    return bool(run.kind) and is_unknown and followed_at >= now - MAX_POINT_AGE
