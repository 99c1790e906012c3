"""What the list does not show of a run: earlier attempts, its end, and the jobs that their time limit ended.

GitHub ends a job beyond its ``timeout-minutes`` as ``cancelled``, and only an annotation of its check run tells it from
other cancellations (``timed_out`` is rare). A finished attempt never changes, so each is looked into once, and again
where there was no annotation at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from service.collectors.github_ci.actions import Actions
from service.collectors.github_ci.models import Job, Run
from service.collectors.github_ci.state import PLAUSIBLE, WEEK, State
from service.domain.errors import Rejected, Unavailable
from service.domain.samples import MAX_POINT_AGE
from service.github.client import NotFound
from service.github.usage import Spent

# GitHub's own words: https://github.com/actions/runner, "The job has exceeded the maximum execution time of 6h0m0s"
_TIME_LIMIT = "exceeded the maximum execution time"
_BELIEVED = 3  # contradicted answers


async def ask_attempts(actions: Actions, state: State, run: Run, now: datetime) -> list[Run]:
    """Asks for the earlier attempts that decide a number, a request each. Raises what ``Github.get`` does."""
    found = []
    while unknown := state.unknown_attempts(run, now):
        attempt = await actions.attempt(run, unknown[0])
        # GitHub may have moved it since.
        attempt.has_known_end = attempt.updated <= min(run.started, attempt.started + PLAUSIBLE)
        run.earlier[attempt.attempt] = attempt.as_attempt()
        found.append(attempt)
    return found


async def look_into(actions: Actions, run: Run, now: datetime) -> None:
    """Reads a suspect's jobs, then the annotations of those that were cancelled.

    A 404 of a run that its list shows is no deletion: the run is left open. Raises what ``Github.get`` does.
    """
    over = run.attempts_over
    with _counting_refusals(run):
        if run.looked_into < over:
            jobs = await actions.jobs(run.id, was_refused=run.refusals > 0)
            # A run that was cancelled while it waited has none; that is believed while other runs show theirs.
            is_idle = (run.attempt, run.conclusion) == (1, "cancelled")
            if not jobs and not (is_idle and (actions.has_shown_jobs or run.refusals >= _BELIEVED)):
                raise Unavailable(f"GitHub shows no job of run {run.id}, which ended as {run.conclusion}")
            _take_jobs(run, over, jobs, now)
            _take_end(run, jobs)
        for job in [job for job in run.jobs if not job.is_overtime and not job.is_silent]:
            await _ask_annotations(actions, run, job)


@contextmanager
def _counting_refusals(run: Run) -> Iterator[None]:
    """In a row. Raises Unavailable in place of NotFound."""
    try:
        yield
    except Spent:
        raise  # it was not asked for
    except (Unavailable, Rejected) as error:
        run.refusals += 1
        if isinstance(error, NotFound):
            raise Unavailable(f"GitHub shows run {run.id} in its list, but not its jobs: {error}") from error
        raise
    run.refusals = 0


async def look_again(actions: Actions, run: Run) -> None:
    """Asks once more for annotations of a job that showed none: an answer that is empty once must not count for a week.

    Raises what ``Github.get`` does.
    """
    await _ask_annotations(actions, run, next(job for job in run.jobs if job.is_silent))


async def _ask_annotations(actions: Actions, run: Run, job: Job) -> None:
    """Forgets the job where they name no time limit, or where there are none for the second time."""
    notes = await actions.annotations(job.id)
    job.is_overtime = any(_TIME_LIMIT in (note.message or "").lower() for note in notes)
    if not job.is_overtime and (notes or job.is_silent):
        run.jobs.remove(job)
    job.is_silent = not notes


def lacks_end(run: Run, now: datetime) -> bool:
    """Whether a duration is wanted that is not known."""
    is_wanted = run.kind == "pre_merge" or (run.kind and run.updated >= now - MAX_POINT_AGE)
    return bool(run.conclusion and not run.has_known_end and is_wanted)


async def learn_end(actions: Actions, run: Run) -> None:
    """The end of a run whose updated_at can't be believed. Raises what ``Github.get`` does."""
    with _counting_refusals(run):
        jobs = await actions.jobs(run.id, was_refused=run.refusals > 0)
        if not jobs and run.conclusion != "startup_failure":
            raise Unavailable(f"GitHub shows no job of run {run.id}, which ended as {run.conclusion}")
        _take_end(run, jobs)


def _take_jobs(run: Run, until: int, jobs: Sequence[Job], now: datetime) -> None:
    """Keeps the jobs of the attempts up to ``until`` that their time limit ended within the week, or may have."""
    # A job that a re-run carried over into its attempt is listed there again, with its old times.
    first: dict[tuple[str | None, datetime | None], int] = {}
    for job in sorted(jobs, key=lambda job: job.attempt):
        is_carried = first.setdefault((job.name, job.ended), job.attempt) < job.attempt
        is_new = run.looked_into < job.attempt <= until and not is_carried
        if not is_new or job.ended is None or job.ended < now - WEEK:
            continue
        job.is_overtime = job.conclusion == "timed_out"
        # One that never began can't have been too long.
        if job.is_overtime or (job.conclusion == "cancelled" and job.started and job.started < job.ended):
            run.jobs.append(job)
    run.looked_into = until


def _take_end(run: Run, jobs: Sequence[Job]) -> None:
    if run.conclusion and not run.has_known_end:
        ends = [job.ended for job in jobs if job.ended and job.attempt == run.attempt]
        run.updated, run.has_known_end = max(ends, default=run.started), True
