"""What GitHub tells of workflows, runs and jobs; and the window: the newest runs, read in every cycle.

The list of all runs is newest first and grows at its front: a run that arrives meanwhile pushes others down, so that
one comes twice but none is left out. Filtered lists come from a search index that lags, so they are no substitute.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from service.collectors.github_ci.models import (
    BEGINNING,
    Annotation,
    Job,
    JobPage,
    Run,
    RunPage,
    Workflow,
    WorkflowPage,
    describe_missing,
)
from service.collectors.github_ci.state import MARGIN, PLAUSIBLE, State
from service.domain.errors import Rejected, Unavailable
from service.domain.samples import MAX_POINT_AGE
from service.github.client import Github, NotFound

PER_PAGE = 100  # GitHub's most
_LAST_PAGE = 390  # GitHub answers 422 beyond about 40,000 runs
# GitHub was seen to answer 502 for more jobs a page on huge runs, and of some runs for any page that is large.
_JOBS_PER_PAGE, _FEW_JOBS_PER_PAGE = 80, 30
# total_count differs by a few from answer to answer. A page that lacks more than this breaks off.
_COUNTS_DIFFER = 20
_FEW = 50  # among the newest runs of a workflow on the branch there nearly always is a conclusive one
_FILTERED_PAGES = 20  # GitHub lists 1,000 runs at most where it filters
_LAG = timedelta(hours=6)  # an index may know less about the runs since then
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


class Actions:
    """The runs of ``repo``, "on the branch" meaning ``branch``. Every method raises what ``Github.get`` does.

    ``has_shown_jobs``: GitHub showed jobs of some run, so that one without any can be believed.
    """

    def __init__(self, github: Github, repo: str, branch: str) -> None:
        self.has_shown_jobs = False
        self._github = github
        self._repo = f"/repos/{repo}"
        self._branch = branch
        self._total = 0  # the most that was counted since the first page

    async def page(self, number: int, *, cached: bool) -> Page:
        """A page of the list of all runs. Raises Unavailable, too, when it is empty against its own count."""
        params = {**_SLIM, "per_page": PER_PAGE, "page": number}
        answer = await self._github.get(f"{self._repo}/actions/runs", RunPage, params=params, cached=cached)
        runs = [row.normalize(self._branch) for row in answer.workflow_runs]
        self._total = answer.total_count if number == 1 else max(self._total, answer.total_count)
        breaks_off = len(runs) < PER_PAGE and self._total > PER_PAGE * (number - 1) + len(runs) + _COUNTS_DIFFER
        if breaks_off and not runs:
            raise Unavailable(f"GitHub's list of runs ends at page {number} though it counts {self._total} runs")
        return Page(number, runs, number >= _LAST_PAGE or (len(runs) < PER_PAGE and not breaks_off))

    async def newest_ended(self) -> list[Run]:
        """Those of the first page that have ended, the oldest first, as GitHub tells them."""
        params = {**_SLIM, "per_page": PER_PAGE, "page": 1}
        answer = await self._github.get(f"{self._repo}/actions/runs", RunPage, params=params, cached=True)
        return [run for run in reversed(answer.workflow_runs) if run.has_ended and run.status in (None, "completed")]

    async def run(self, id: int) -> Run:
        row = await self._github.get(f"{self._repo}/actions/runs/{id}", Run, params=_SLIM, cached=True)
        return row.normalize(self._branch)

    async def attempt(self, run: Run, number: int) -> Run:
        """The run as of an earlier attempt."""
        path = f"{self._repo}/actions/runs/{run.id}/attempts/{number}"
        attempt = (await self._github.get(path, Run, params=_SLIM)).normalize(self._branch)
        attempt.attempt, attempt.on_branch = number, run.on_branch
        return attempt

    async def of_workflow(self, id: int, count: int, page: int, *, on_branch: bool) -> list[Run]:
        """``count`` runs of one workflow, on the branch alone (from an index that may lag) or on any."""
        params: dict[str, str | int] = {**_SLIM, "per_page": count, "page": page}
        if on_branch:
            params["branch"] = self._branch
        path = f"{self._repo}/actions/workflows/{id}/runs"
        answer = await self._github.get(path, RunPage, params=params, cached=True)
        if not answer.workflow_runs and answer.total_count > count * (page - 1) + _COUNTS_DIFFER:
            raise Unavailable(f"GitHub counts {answer.total_count} runs of workflow {id} but shows none")
        return [row.normalize(self._branch) for row in answer.workflow_runs]

    async def jobs(self, run: int, *, was_refused: bool = False) -> list[Job]:
        """The jobs of all attempts. ``was_refused``: GitHub did not show them before, so smaller pages are tried."""
        size = _FEW_JOBS_PER_PAGE if was_refused else _JOBS_PER_PAGE
        found: list[Job] = []
        number = 0
        while True:
            number += 1
            params: Mapping[str, str | int] = {"filter": "all", "per_page": size, "page": number}
            page = await self._github.get(f"{self._repo}/actions/runs/{run}/jobs", JobPage, params=params)
            found += page.jobs
            self.has_shown_jobs = self.has_shown_jobs or bool(page.jobs)
            if len(page.jobs) < size:
                if len(found) < page.total_count:
                    raise Unavailable(f"GitHub counts {page.total_count} jobs of run {run} but shows {len(found)}")
                return found

    async def annotations(self, job: int) -> list[Annotation]:
        path = f"{self._repo}/check-runs/{job}/annotations"
        return await self._github.get(path, list[Annotation], params={"per_page": PER_PAGE})


async def list_workflows(github: Github, repo: str) -> list[Workflow]:
    """All workflows of ``repo``, the disabled ones included. Raises what ``Github.get`` does."""
    found: dict[int, Workflow] = {}
    number = 0
    while True:
        number += 1
        params = {"per_page": PER_PAGE, "page": number}
        page = await github.get(f"/repos/{repo}/actions/workflows", WorkflowPage, params=params, cached=True)
        found |= {each.id: each for each in page.workflows}
        if len(page.workflows) < PER_PAGE:
            if len(found) < page.total_count:
                raise Unavailable(f"GitHub counts {page.total_count} workflows but shows {len(found)}")
            return list(found.values())


async def read_window(actions: Actions, state: State, now: datetime, window: timedelta) -> list[int]:
    """Brings the window's runs up to date. Returns the ids of known runs that the list should show but does not.

    Raises Unavailable, Rejected and Unauthorized when the window can't be read whole.
    """
    horizon = now - window - MARGIN
    seen: set[int] = set()
    number, oldest = 0, now
    while oldest >= horizon:
        number += 1
        page = await actions.page(number, cached=True)
        state.take(page.runs)
        seen.update(run.id for run in page.runs)
        oldest = page.oldest
        if page.is_last and number >= _LAST_PAGE and page.runs[-1].created >= horizon:
            raise Rejected(f"the window holds more runs than GitHub lists ({PER_PAGE * number} read)")
    if not seen:
        if state.runs:
            raise Unavailable(f"GitHub's list of runs is empty though it showed {len(state.runs)} of them before")
        return []
    state.reach = min(state.reach or now, oldest)
    state.read_at, state.front = now, number
    state.page = max(state.page, number + 1)
    state.depth = number if page.is_last else max(state.depth, number + 1)
    return state.take_absent(state.created_between(oldest) - seen, now)


async def ask_unseen(actions: Actions, state: State, id: int) -> None:
    """A known run that its list does not show any more: it was deleted, or the list lags."""
    try:
        state.take([await actions.run(id)])
    except NotFound:
        state.forget(id)


async def ask_attempts(actions: Actions, run: Run, now: datetime) -> list[Run]:
    """Asks back from the last attempt until one is known to have failed: a request for each at most.

    Returns the attempts that no list showed because the next one, begun within 55 minutes, took their place.
    """
    hidden = []
    followed_at = run.started
    for number in range(run.attempt - 1, 0, -1):
        is_hidden = _may_be_hidden(run, number, followed_at, now)
        if not is_hidden and not run.is_verdict_open:
            break
        followed_at = BEGINNING
        if is_hidden or number not in run.earlier:
            attempt = await actions.attempt(run, number)
            run.earlier[number] = attempt.as_attempt()
            # GitHub may have moved it since.
            if attempt.updated > min(run.started, attempt.started + PLAUSIBLE):
                run.earlier[number].ended = None
            if is_hidden:
                hidden.append(attempt)
                followed_at = attempt.started
    return hidden


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


async def ask_latest(actions: Actions, state: State, id: int, *, is_listed: bool, now: datetime) -> None:
    """Learns the newest conclusive runs of a workflow on the branch, however old, from its own list.

    The list that GitHub filters by branch may lack the newest runs, which the list of all runs has shown, and at times
    all: what it does not show is looked for among the workflow's runs on any branch, too. Where there are none of these
    either, the list of a workflow that has old runs tells whether such lists can be believed now.
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
    state.asked[id] = now


async def _find_latest(actions: Actions, id: int) -> list[Run]:
    for number in range(1, _FILTERED_PAGES + 1):
        rows = await actions.of_workflow(id, _FEW, number, on_branch=True)
        if (found := _ended_on_branch(rows)) or len(rows) < _FEW:
            return found
    return []


def _ended_on_branch(rows: Sequence[Run]) -> list[Run]:
    """None where none of them is conclusive; else also those that are not: one of them may have broken the branch."""
    ended = [run for run in rows if run.on_branch and run.conclusion]
    return ended if any(run.is_conclusive for run in ended) else []
