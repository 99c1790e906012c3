"""Looks into the runs that may hold a job that its time limit ended (``ci_time_limits``), as the quota allows."""

from datetime import datetime

import anyio

from service.adapters.github import Github, Refused
from service.collectors import ci_time_limits
from service.collectors.ci_ask import GONE, Failure
from service.collectors.ci_time_limits import WEEK, Job, TimeLimits
from service.domain.errors import Rejected, Unavailable

_JOBS = 80  # GitHub was seen to answer 502 for more jobs a page on huge runs
_AT_ONCE = 20


class JobsReader:
    """Reads the jobs of ``repo``'s suspects."""

    def __init__(self, github: Github, repo: str) -> None:
        self._github = github
        self._repo = repo

    async def look_into(self, limits: TimeLimits, now: datetime, allowed: int, until: float) -> Failure | None:
        """Settles suspects and pending jobs, the newest first, with about ``allowed`` requests; what went wrong.

        None is begun after ``until``, by the loop's clock.
        """
        self._left = allowed
        troubles: list[Failure] = []
        suspects = sorted(limits.suspects.items(), key=lambda item: item[1].ended)
        # An annotation is asked for as soon as its job is known, so that a run is settled in two round trips.
        pending = list(limits.pending)

        async def work() -> None:
            while (pending or suspects) and self._left > 0 and not troubles and anyio.current_time() < until:
                try:
                    if pending:
                        await self._judge(limits, pending.pop())
                    else:
                        run, suspect = suspects.pop()
                        before = set(limits.pending)
                        limits.settle(run, suspect, await self._jobs_of(run, now))
                        pending.extend(
                            job for job, (its, _) in limits.pending.items() if its == run and job not in before
                        )
                except (Unavailable, Rejected) as error:
                    troubles.append(error)

        while (pending or suspects) and self._left > 0 and not troubles and anyio.current_time() < until:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(pending) + len(suspects), self._left)):
                    tasks.start_soon(work)
        return troubles[0] if troubles else None

    async def _judge(self, limits: TimeLimits, job: int) -> None:
        try:
            is_limit = await self._is_said(job)
        except Refused as error:
            run, _ = limits.pending.get(job, (0, None))
            if error.status not in GONE or not await self._is_gone(run):
                raise
            is_limit = False
        limits.judge(job, is_limit)

    async def _jobs_of(self, run: int, now: datetime) -> list[Job]:
        """Its jobs of the week that were timed out or cancelled."""
        try:
            return [job for job in await self._listed(run) if job.ended >= now - WEEK]
        except Refused as error:
            # A run that was deleted has no jobs any more; one that is there has some that the token may not see.
            if error.status in GONE and await self._is_gone(run):
                return []
            raise

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

    async def _is_said(self, job: int) -> bool:
        self._left -= 1
        path = f"/repos/{self._repo}/check-runs/{job}/annotations"
        return await self._github.get(path, {"per_page": 100}, read=ci_time_limits.is_said, question="annotations")

    async def _is_gone(self, run: int) -> bool:
        self._left -= 1
        try:
            path, params = f"/repos/{self._repo}/actions/runs/{run}", {"exclude_pull_requests": "true"}
            await self._github.get(path, params, read=dict, question="jobs")
        except Refused as error:
            if error.status not in GONE:
                raise
            return True
        return False
