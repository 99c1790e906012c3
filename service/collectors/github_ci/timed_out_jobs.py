"""Jobs that their time limit ended, and the ends of runs that only their jobs know.

GitHub ends a job beyond its ``timeout-minutes`` as ``cancelled``, and only an annotation of its check run tells it from
other cancellations (``timed_out`` is rare). A finished attempt never changes, so each is looked into once.
"""

import heapq
from collections.abc import Iterable, Mapping
from datetime import datetime

from service.collectors.github_ci.budget import RequestBudget
from service.collectors.github_ci.models import Annotation, JobPage, JobRow, Run, check_url, shorten
from service.collectors.github_ci.state import WEEK, Job, State, Suspect
from service.domain.errors import Unavailable
from service.github.client import Github, NotFound

# GitHub's own words: https://github.com/actions/runner, "The job has exceeded the maximum execution time of 6h0m0s"
_TIME_LIMIT = "exceeded the maximum execution time"
_BELIEVED = 3  # contradicted answers
_PER_PAGE = 80  # GitHub was seen to answer 502 for more jobs a page on huge runs


class TimedOutJobs:
    """Reads the jobs of ``repo``'s runs. Each method raises what ``Github.get`` does."""

    def __init__(self, github: Github, repo: str) -> None:
        self._github = github
        self._repo = repo
        self._shows_jobs = False

    async def look_into(self, state: State, id: int, now: datetime, budget: RequestBudget) -> None:
        """Settles a suspect as far as the budget goes: its jobs, then the annotations of those that were cancelled.

        A 404 of a run that its list shows is no deletion: the suspect is left open.
        """
        suspect = state.suspects[id]
        try:
            if suspect.seen < suspect.attempt:
                attempt = suspect.attempt
                jobs = await self._list_jobs(id)
                if not jobs and not self._may_have_none(suspect):
                    raise Unavailable(f"GitHub shows no job of run {id}, which ended as {suspect.conclusion}")
                _note_jobs(suspect, attempt, jobs, now)
                _note_end(state.runs.get(id), jobs)
                suspect.seen = attempt
            while suspect.cancelled and budget.has_more:
                job = suspect.cancelled[0]
                if await self._met_time_limit(job):
                    suspect.found.append(job)
                suspect.cancelled.remove(job)
        except NotFound as error:
            suspect.failures += 1
            raise Unavailable(f"GitHub shows run {id} in its list, but not its jobs: {error}") from error
        except Unavailable:
            suspect.failures += 1
            raise
        suspect.failures = 0

    def _may_have_none(self, suspect: Suspect) -> bool:
        """A run that was cancelled while it waited has no jobs; that is believed while other runs show theirs."""
        is_cancelled = suspect.attempt == 1 and suspect.conclusion == "cancelled"
        return is_cancelled and (self._shows_jobs or suspect.failures >= _BELIEVED)

    async def learn_end(self, run: Run) -> None:
        """The end of a run whose updated_at can't be believed."""
        jobs = await self._list_jobs(run.id)
        if not jobs and run.conclusion != "startup_failure":
            raise Unavailable(f"GitHub shows no job of run {run.id}, which ended as {run.conclusion}")
        _note_end(run, jobs)

    async def _list_jobs(self, run: int) -> list[JobRow]:
        """The jobs of all attempts."""
        found: list[JobRow] = []
        number = 0
        while True:
            number += 1
            path = f"/repos/{self._repo}/actions/runs/{run}/jobs"
            params: Mapping[str, str | int] = {"filter": "all", "per_page": _PER_PAGE, "page": number}
            page = await self._github.get(path, JobPage, params=params, question="jobs")
            found += page.jobs
            self._shows_jobs = self._shows_jobs or bool(page.jobs)
            if len(page.jobs) < _PER_PAGE:
                if len(found) < page.total_count:
                    raise Unavailable(f"GitHub counts {page.total_count} jobs of run {run} but shows {len(found)}")
                return found

    async def _met_time_limit(self, job: Job) -> bool:
        path = f"/repos/{self._repo}/check-runs/{job.id}/annotations"
        notes = await self._github.get(path, list[Annotation], params={"per_page": 100}, question="annotations")
        return any(_TIME_LIMIT in (note.message or "").lower() for note in notes)


def suspects_to_look_into(state: State, count: int) -> list[int]:
    """Some whose jobs are not all known, the newest first; those that GitHub did not answer for come last."""
    waiting = state.open_suspects
    return heapq.nsmallest(count, waiting, key=lambda id: (waiting[id].failures, -waiting[id].ended.timestamp()))


def _note_jobs(suspect: Suspect, until: int, rows: Iterable[JobRow], now: datetime) -> None:
    """Keeps the jobs of the attempts up to ``until`` that their time limit ended within the week, or may have."""
    # A job that a re-run carried over into its attempt is listed there again, with its old times.
    known = {(job.name, job.ended) for job in (*suspect.found, *suspect.cancelled)}
    by_attempt: dict[int, list[JobRow]] = {}
    for row in rows:
        by_attempt.setdefault(row.run_attempt or 1, []).append(row)
    for attempt in sorted(by_attempt):
        if not suspect.seen < attempt <= until:
            continue
        for row in by_attempt[attempt]:
            ended, name = row.completed_at, shorten(row.name)
            if ended is None or ended < now - WEEK or (name, ended) in known:
                continue
            job = Job(row.id, ended, row.conclusion or "", name, check_url(row.html_url))
            if job.conclusion == "timed_out":
                suspect.found.append(job)
            elif job.conclusion == "cancelled" and row.started_at and row.started_at < ended:
                suspect.cancelled.append(job)  # one that never began can't have been too long
        known |= {(shorten(row.name), row.completed_at) for row in by_attempt[attempt] if row.completed_at}


def _note_end(run: Run | None, rows: Iterable[JobRow]) -> None:
    if run and run.conclusion and not run.has_known_end:
        ends = [row.completed_at for row in rows if row.completed_at and (row.run_attempt or 1) == run.attempt]
        run.updated, run.has_known_end = max(ends, default=run.started), True
