"""Asks for what the list of runs does not show: of a run earlier attempts, its end, and the jobs that their time limit
ended; of a workflow its runs of long ago.

GitHub ends a job beyond its ``timeout-minutes`` as ``cancelled``, and only an annotation of its check run tells it from
other cancellations (``timed_out`` is rare). A finished attempt never changes, so each is looked into once, and again
where there was no annotation at all. Every function raises what ``Github.get`` does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from service.collectors.github_ci.actions import PER_PAGE, Actions
from service.collectors.github_ci.models import Job, Run
from service.collectors.github_ci.settings import describe_missing
from service.collectors.github_ci.state import PLAUSIBLE, WEEK, State
from service.domain.errors import Rejected, Unavailable
from service.github.client import NotFound
from service.github.usage import Spent

# GitHub's own words: https://github.com/actions/runner, "The job has exceeded the maximum execution time of 6h0m0s"
_TIME_LIMIT = "exceeded the maximum execution time"
_BELIEVED = 3  # contradicted answers
_FILTERED_PAGES = 10  # GitHub lists 1,000 runs at most where it filters
_LAG = timedelta(hours=6)  # an index may know less about the runs since then


async def ask_attempts(actions: Actions, state: State, run: Run, now: datetime) -> list[Run]:
    """Asks for the earlier attempts that decide a number, a request each."""
    found = []
    while unknown := state.unknown_attempts(run, now):
        attempt = await actions.attempt(run, unknown[0])
        # GitHub may have moved it since.
        attempt.has_known_end = attempt.updated <= min(run.started, attempt.started + PLAUSIBLE)
        run.earlier[attempt.attempt] = attempt.as_attempt()
        found.append(attempt)
    return found


async def look_into(actions: Actions, run: Run, now: datetime) -> None:
    """Reads a suspect's jobs, then the annotations of those that were cancelled; once more where there were none, for
    an answer that is empty once must not count for a week.

    A 404 of a run that its list shows is no deletion: the run is left open.
    """
    with _counting_refusals(run):
        if run.looked_into < run.attempts_over:
            # A run that was cancelled while it waited has none; that is believed while other runs show theirs.
            is_idle = (run.attempt, run.conclusion) == (1, "cancelled")
            may_be_empty = is_idle and (actions.has_shown_jobs or run.refusals >= _BELIEVED)
            may_be_unfinished = run.refusals >= _BELIEVED  # what never ends met no time limit
            jobs = await _read_jobs(actions, run, may_be_empty=may_be_empty, may_be_unfinished=may_be_unfinished)
            _keep_jobs(run, jobs, now)
        for job in [job for job in run.jobs if not job.is_overtime]:
            await _ask_annotations(actions, run, job)


async def learn_end(actions: Actions, run: Run) -> None:
    """The end of a run whose updated_at can't be believed."""
    with _counting_refusals(run):
        await _read_jobs(actions, run, may_be_empty=run.conclusion == "startup_failure")


@contextmanager
def _counting_refusals(run: Run) -> Iterator[None]:
    """In a row."""
    try:
        yield
    except Spent:
        raise  # it was not asked for
    except (Unavailable, Rejected):
        run.refusals += 1
        raise
    run.refusals = 0


async def _read_jobs(actions: Actions, run: Run, *, may_be_empty: bool, may_be_unfinished: bool = False) -> list[Job]:
    jobs = await actions.jobs(run.id, was_refused=run.refusals > 0)
    if not jobs and not may_be_empty:
        raise Unavailable(f"GitHub shows no job of run {run.id}, which ended as {run.conclusion}")
    ends = [job.ended for job in jobs if job.attempt == run.attempt]
    if run.has_ended and None in ends and not may_be_unfinished:
        raise Unavailable(f"GitHub shows unfinished jobs of run {run.id}, which ended as {run.conclusion}")
    if run.conclusion and not run.has_known_end and None not in ends:
        run.updated, run.has_known_end = max(filter(None, ends), default=run.started), True
    return jobs


def _keep_jobs(run: Run, jobs: Sequence[Job], now: datetime) -> None:
    """Keeps those that their time limit ended within the week, or may have."""
    # A job that a re-run carried over into its attempt is listed there again, with its old times.
    first: dict[tuple[str | None, datetime | None], int] = {}
    over = run.attempts_over
    for job in sorted(jobs, key=lambda job: job.attempt):
        is_carried = first.setdefault((job.name, job.ended), job.attempt) < job.attempt
        is_new = run.looked_into < job.attempt <= over and not is_carried
        if not is_new or job.ended is None or job.ended < now - WEEK:
            continue
        job.is_overtime = job.conclusion == "timed_out"
        # One that never began can't have been too long.
        if job.is_overtime or (job.conclusion == "cancelled" and job.started and job.started < job.ended):
            run.jobs.append(job)
    run.looked_into = over


async def _ask_annotations(actions: Actions, run: Run, job: Job) -> None:
    """Forgets the job where they name no time limit, or where there are none for the second time."""
    notes = await actions.annotations(job.id)
    job.is_overtime = any(_TIME_LIMIT in (note.message or "").lower() for note in notes)
    if not job.is_overtime and (notes or job.is_silent):
        run.jobs.remove(job)
    job.is_silent = not notes


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
    state.merge_runs(found)
    state.looked_up.add(id)


async def _find_latest(actions: Actions, id: int) -> list[Run]:
    for number in range(1, _FILTERED_PAGES + 1):
        rows = await actions.of_workflow(id, PER_PAGE, number, on_branch=True)
        if (found := _ended_on_branch(rows)) or len(rows) < PER_PAGE:
            return found
    return []


def _ended_on_branch(rows: Sequence[Run]) -> list[Run]:
    """None where none of them is conclusive; else also those that are not: one of them may have broken the branch."""
    ended = [run for run in rows if run.on_branch and run.conclusion]
    return ended if any(run.is_conclusive for run in ended) else []
