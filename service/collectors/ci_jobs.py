"""Looks into the runs that may hold a job that its time limit ended (``ci_time_limits``), as the quota allows."""

from datetime import datetime
from functools import partial

import anyio

from service.adapters.github import Github, Refused
from service.collectors import ci_time_limits
from service.collectors.ci_reader import GONE, Failure, gathered
from service.collectors.ci_time_limits import WEEK, Job, Suspect, TimeLimits
from service.domain.errors import Rejected, Unavailable

_JOBS = 80  # GitHub was seen to answer 502 for more jobs a page on huge runs
_AT_ONCE = 16


class JobsReader:
    """Reads the jobs of ``repo``'s suspects."""

    def __init__(self, github: Github, repo: str) -> None:
        self._github = github
        self._repo = repo

    async def look_into(self, limits: TimeLimits, now: datetime, allowed: int, until: float) -> Failure | None:
        """Settles suspects, the newest first, with about ``allowed`` requests; what went wrong.

        None is begun after ``until``, by the loop's clock.
        """
        self._left = allowed
        trouble: Failure | None = None
        newest = sorted(limits.suspects.items(), key=lambda item: item[1].ended, reverse=True)
        while newest and self._left > 0 and trouble is None and anyio.current_time() < until:
            size = min(_AT_ONCE, self._left)
            batch, newest = newest[:size], newest[size:]
            answers = await gathered([partial(self._jobs_of, run, suspect, now) for run, suspect in batch])
            for (run, _), answer in zip(batch, answers, strict=True):
                if isinstance(answer, (Unavailable, Rejected)):
                    trouble = trouble or answer
                else:
                    limits.settle(run, answer)
        return trouble

    async def _jobs_of(self, run: int, suspect: Suspect, now: datetime) -> list[Job]:
        """Its jobs of the week that their time limit ended, of the attempts not seen before."""
        try:
            jobs = await self._listed(run)
        except Refused as error:
            if error.status in GONE:
                return []  # a run that was deleted has no jobs any more
            raise
        fresh = [job for job in jobs if job.attempt > suspect.seen and job.ended >= now - WEEK]
        cancelled = [job for job in fresh if job.conclusion == "cancelled" and job.was_running]
        said = await gathered([partial(self._is_said, job) for job in cancelled])
        for answer in said:
            if isinstance(answer, (Unavailable, Rejected)):
                raise answer
        ended = {job.id for job, is_said in zip(cancelled, said, strict=True) if is_said}
        return [job for job in fresh if job.conclusion == "timed_out" or job.id in ended]

    async def _listed(self, run: int) -> list[Job]:
        found: list[Job] = []
        page, total = 1, 1
        while _JOBS * (page - 1) < total:
            self._left -= 1
            path = f"/repos/{self._repo}/actions/runs/{run}/jobs"
            params: dict[str, str | int] = {"filter": "all", "per_page": _JOBS, "page": page}
            total, jobs = await self._github.get(path, params, read=ci_time_limits.to_jobs, question="jobs")
            found += jobs
            page += 1
        return found

    async def _is_said(self, job: Job) -> bool:
        self._left -= 1
        path = f"/repos/{self._repo}/check-runs/{job.id}/annotations"
        try:
            params = {"per_page": 100}
            return await self._github.get(path, params, read=ci_time_limits.is_said, question="annotations")
        except Refused as error:
            if error.status in GONE:
                return False
            raise
