"""Requests to GitHub Actions: its lists page by page, a run and what belongs to it.

Filtered lists come from a search index that lags, so they are no substitute for the list of all runs.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from service.collectors.github_ci.evidence import BEGINNING
from service.collectors.github_ci.models import Annotation, Job, JobPage, Run, RunPage, Workflow, WorkflowPage
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.github.client import Github

PER_PAGE = 100  # GitHub's most
LAST_PAGE = 390  # GitHub answers 422 beyond about 40,000 runs
# GitHub was seen to answer 502 for more jobs a page on huge runs, and of some runs for any page that is large.
_JOBS_PER_PAGE, _FEW_JOBS_PER_PAGE = 80, 30
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
        answer = await self._read_page(number, cached=cached)
        runs = [row.normalize(self._branch) for row in answer.workflow_runs]
        self._total = answer.total_count if number == 1 else max(self._total, answer.total_count)
        breaks_off = len(runs) < PER_PAGE and self._total > PER_PAGE * (number - 1) + len(runs) + _COUNTS_DIFFER
        if breaks_off and not runs:
            raise Unavailable(f"GitHub's list of runs ends at page {number} though it counts {self._total} runs")
        return Page(number, runs, number >= LAST_PAGE or (len(runs) < PER_PAGE and not breaks_off))

    async def newest_ended(self) -> list[Run]:
        """Those of the first page that have ended, the oldest first, as GitHub tells them."""
        answer = await self._read_page(1, cached=True)
        return [run for run in reversed(answer.workflow_runs) if run.has_ended]

    async def _read_page(self, number: int, *, cached: bool) -> RunPage:
        params = {**_SLIM, "per_page": PER_PAGE, "page": number}
        return await self._github.get(f"{self._repo}/actions/runs", RunPage, params=params, cached=cached)

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

    async def jobs(self, run: int, *, was_refused: bool) -> list[Job]:
        """The jobs of all attempts. ``was_refused``: GitHub did not show them before, so smaller pages are tried."""
        size = _FEW_JOBS_PER_PAGE if was_refused else _JOBS_PER_PAGE
        path = f"{self._repo}/actions/runs/{run}/jobs"
        found: list[Job] = await _read_rows(self._github, path, JobPage, {"filter": "all", "per_page": size})
        self.has_shown_jobs = self.has_shown_jobs or bool(found)
        return found

    async def annotations(self, job: int) -> list[Annotation]:
        path = f"{self._repo}/check-runs/{job}/annotations"
        return await self._github.get(path, list[Annotation], params={"per_page": PER_PAGE})


async def list_workflows(github: Github, repo: str) -> list[Workflow]:
    """All workflows of ``repo``, the disabled ones included. Raises what ``Github.get`` does."""
    path = f"/repos/{repo}/actions/workflows"
    return await _read_rows(github, path, WorkflowPage, {"per_page": PER_PAGE}, cached=True)


async def _read_rows(
    github: Github, path: str, type: type[JobPage | WorkflowPage], params: dict[str, str | int], *, cached: bool = False
) -> list[Any]:
    """Of all pages. Raises Unavailable, too, when they are fewer than GitHub counts."""
    found: dict[int, Job | Workflow] = {}
    is_last, number = False, 0
    while not is_last:
        number += 1
        page = await github.get(path, type, params={**params, "page": number}, cached=cached)
        found |= {each.id: each for each in page.rows}
        is_last = len(page.rows) < int(params["per_page"])
    if len(found) < page.total_count:
        raise Unavailable(f"GitHub counts {page.total_count} at {path} but shows {len(found)}")
    return list(found.values())


def explains(error: HealthError) -> int:
    """Which of several errors to raise: refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
