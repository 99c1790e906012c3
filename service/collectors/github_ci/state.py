"""What one cycle hands to the next: one Struct a repository, in the store alone. What can't be decoded is a cold start.

Kept are the runs of the window and its margin; of older ones those that are unfinished, each workflow's newest
conclusive ones on the branch and those that tell who broke it, its last one by schedule and the last of these that
succeeded, and the week's among whose jobs one may have met its time limit. Of all others of the week a few numbers.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import zstandard

from service.collectors.github_ci import culprits
from service.collectors.github_ci.evidence import BEGINNING
from service.collectors.github_ci.models import FAILED, Run
from service.domain.samples import MAX_POINT_AGE

MARGIN = timedelta(hours=3)  # behind the window, where most re-runs come from
WEEK = timedelta(days=7)
RERUN_WITHIN = timedelta(days=30)  # GitHub lets a run be run again for so long
_LONGEST_RUN = timedelta(days=35)  # https://docs.github.com/actions/reference/limits: waiting included
PLAUSIBLE = timedelta(hours=1)  # between an end and updated_at, or a beginning and it
_CLOCKS_DIFFER = timedelta(minutes=5)
_UNFINISHED_KEPT = 200
# More than one, so that the next older run is known when the latest is run again or deleted.
_LATEST_KEPT = 3
_MAX_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


class EndedRun(msgspec.Struct, array_like=True):
    """What the table of the week needs of a run: some 10 bytes. ``started``: seconds since the epoch. ``seconds``: how
    long its last attempt took, None where the end that GitHub tells can't be believed."""

    workflow: int
    attempt: int
    started: int
    seconds: int | None
    has_failed: bool


class State(msgspec.Struct, tag_field="version", tag=7):
    """``reach``: every run created since then was read; None: nothing is known. ``read_at``: when the window was.

    ``week``: the week's conclusive runs on the branch or before a merge.
    ``front``: pages of the window. ``page``: the next one behind it. ``depth``: the page that reaches 30 days back.
    ``turned_at``: when an older page was read last. ``looked_up``: workflows whose own list was read.
    ``reported``: by run, the last attempt that was sent as a duration, and its end.
    ``graphql_failures``: cycles in a row in which the repository's lists did not count its pull requests.
    """

    repo: str
    branch: str
    runs: dict[int, Run] = {}
    week: dict[int, EndedRun] = {}
    reach: datetime | None = None
    read_at: datetime | None = None
    front: int = 0
    page: int = 0
    depth: int = 0
    turned_at: datetime = BEGINNING
    looked_up: set[int] = set()
    reported: dict[int, tuple[int, datetime]] = {}
    graphql_failures: int = 0

    def merge_runs(self, read: Iterable[Run]) -> None:
        """Merges what was read of runs, never backwards: a list may come from a copy that lags."""
        for run in read:
            known = self.runs.get(run.id)
            if known and not _is_newer(run, known):
                continue
            is_same_attempt = known is not None and known.attempt == run.attempt
            if known:
                # A copy, as looked_into is one: the known run's jobs may be being read just now.
                run.jobs, run.looked_into = [*known.jobs], known.looked_into
                run.earlier, run.refusals = known.earlier, known.refusals
                if not is_same_attempt and known.conclusion:
                    run.earlier[known.attempt] = known.as_attempt()
            if known and is_same_attempt and known.has_ended:
                run.updated, run.has_known_end = known.updated, known.has_known_end
            else:  # seen ended for the first time: updated_at is the end if nothing can have moved it by much
                begun = max(run.started, self.read_at) if is_same_attempt and self.read_at else run.started
                run.has_known_end = not run.has_ended or run.updated - begun <= PLAUSIBLE
            self.runs[run.id] = run

    def merge_facts(self, facts: Iterable[Run]) -> list[Run]:
        """Merges completed attempts that deliveries brought, in any order. Returns the attempts whose end is new by
        that, also those that a later one has taken the place of, which no list shows any more."""
        new = []
        for fact in sorted(facts, key=lambda fact: fact.attempt):
            known = self.runs.get(fact.id)
            if known and fact.attempt < known.attempt:
                if fact.attempt not in known.earlier:
                    known.earlier[fact.attempt] = fact.as_attempt()
                    new.append(fact)
                continue
            if known and fact.attempt > known.attempt and known.has_ended:
                new.append(known)
            self.merge_runs([fact])
            if self.runs[fact.id] is fact:
                fact.has_known_end = True  # the delivery came when it happened
                new.append(fact)
        return new

    def trim(self, now: datetime, window: timedelta) -> None:
        """Forgets what can't matter any more. CPU work."""
        self._keep_week(now)
        horizon = now - window - MARGIN
        runs = sorted(self.runs.values(), key=lambda run: run.age_key)
        kept = [run for run in runs if max(run.started, run.updated) >= horizon]
        kept += [run for run in runs if run.conclusion is None and run.created > now - _LONGEST_RUN][-_UNFINISHED_KEPT:]
        kept += [*self.suspects(now), *self.by_schedule().values(), *self.by_schedule(succeeded=True).values()]
        for on_branch in self.on_branch().values():
            conclusive = [run for run in on_branch if run.is_conclusive]
            before = [run for run in conclusive if run.updated < horizon]  # what the branch was when the window began
            kept += [*conclusive[-_LATEST_KEPT:], *before[-1:], *culprits.select_runs(on_branch)]
        self.runs = {run.id: run for run in kept}
        self.reported = {id: each for id, each in self.reported.items() if each[1] >= now - MARGIN}

    def _keep_week(self, now: datetime) -> None:
        """Never backwards: a run that was forgotten may be told anew as it was, or with a later end."""
        for run in self.runs.values():
            known = self.week.get(run.id)
            if known and known.attempt > run.attempt:
                continue
            seconds = known.seconds if known and known.attempt == run.attempt else None
            if seconds is None and run.has_known_end:
                seconds = round(60 * run.minutes)
            self.week.pop(run.id, None)
            if run.kind and run.is_conclusive:
                started, has_failed = int(run.started.timestamp()), run.conclusion in FAILED
                self.week[run.id] = EndedRun(run.workflow_id, run.attempt, started, seconds, has_failed)
        first = (now - WEEK).timestamp()
        self.week = {id: run for id, run in self.week.items() if run.started >= first}

    # What the numbers are made of

    @property
    def is_cold(self) -> bool:
        """The window is to be read anew: no poll has, or the last one is over three hours ago (``begin``)."""
        return self.reach is None

    def started_since(self, since: datetime) -> list[Run]:
        """The runs in the window that begins at ``since``: by the start of their last attempt."""
        return [run for run in self.runs.values() if run.started >= since]

    def on_branch(self) -> dict[int, list[Run]]:
        """By workflow id, the runs on the branch, the oldest first."""
        found: dict[int, list[Run]] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.age_key):
            if run.on_branch:
                found.setdefault(run.workflow_id, []).append(run)
        return found

    def latest(self) -> dict[int, Run]:
        """By workflow id, the newest conclusive run on the branch."""
        return {id: run for id, runs in self.on_branch().items() for run in runs if run.is_conclusive}

    def by_schedule(self, *, succeeded: bool = False) -> dict[int, Run]:
        """By workflow id, the newest run that a schedule began; or of those that ``succeeded``."""
        ordered = sorted(self.runs.values(), key=lambda run: run.age_key)
        found = (run for run in ordered if run.event == "schedule")
        return {run.workflow_id: run for run in found if not succeeded or run.conclusion == "success"}

    def waiting(self) -> list[Run]:
        """The runs that wait for a runner, an approval or another run, the longest first."""
        return sorted((run for run in self.runs.values() if run.is_waiting), key=lambda run: run.started)

    def unknown_workflows(self, workflows: Collection[int]) -> list[int]:
        """Those whose latest run no list of all runs has shown, nor their own."""
        reach = self.reach
        shown = {id for id, run in self.latest().items() if reach and run.created >= reach}
        return [each for each in workflows if each not in self.looked_up and each not in shown]

    def unknown_attempts(self, run: Run, now: datetime) -> list[int]:
        """Earlier attempts that decide a number, the last first: whether the run is flaky, or how long an attempt took
        that ended within 55 minutes and gave way to the next one before it was seen."""
        if run.is_verdict_open:
            return run.unknown_attempts
        is_fresh = run.kind and run.started >= now - MAX_POINT_AGE
        return [number for number in run.unknown_attempts if is_fresh and number > self._reported_attempt(run.id)]

    def pop_unreported(self, attempts: Iterable[Run], now: datetime, left: Collection[int] = ()) -> list[Run]:
        """Returns, and marks as reported, the attempts that ended within the last 55 minutes and were not reported
        before: of ``attempts``, earlier ones that the list did not show, and of the runs' last ones. ``left``: ids of
        runs that are left for the next time."""
        since, soon = now - MAX_POINT_AGE, now + _CLOCKS_DIFFER
        fresh = []
        for run in (*sorted(attempts, key=lambda run: run.attempt), *self.runs.values()):
            is_fresh = run.kind and run.has_ended and run.has_known_end and since <= run.updated <= soon
            if is_fresh and run.id not in left and run.attempt > self._reported_attempt(run.id):
                fresh.append(run)
                self.reported[run.id] = run.attempt, run.updated
        return fresh

    def _reported_attempt(self, id: int) -> int:
        return self.reported[id][0] if id in self.reported else 0

    def suspects(self, now: datetime) -> list[Run]:
        """The week's runs among whose jobs one may have met its time limit."""
        return [run for run in self.runs.values() if run.is_suspect and run.updated >= now - WEEK]

    def open_suspects(self, now: datetime) -> list[Run]:
        """Those whose jobs are still to be read: newest first, those that GitHub did not answer for last."""
        found = [run for run in self.suspects(now) if run.is_open]
        return sorted(found, key=lambda run: (run.refusals, -run.updated.timestamp()))

    def prune_absent(self, first: datetime, last: datetime, shown: Collection[int], now: datetime) -> list[int]:
        """Of the runs created between ``first`` and ``last`` (excluded) that are known but not ``shown`` by their list,
        forgets the stuck ones unasked. Returns the ids of the others: those to ask for."""
        absent = [run for run in self.runs.values() if first < run.created < last and run.id not in shown]
        for run in absent:
            if run.is_stuck(now):
                del self.runs[run.id]
        return sorted(run.id for run in absent if run.id in self.runs)


def encode(state: msgspec.Struct) -> bytes:
    """CPU work of a few milliseconds."""
    return zstandard.compress(msgspec.msgpack.encode(state))


def decode(stored: bytes | None, type: type[T]) -> T | None:
    """What ``encode`` wrote; None when it is something else, or of another version."""
    try:
        raw = zstandard.decompress(stored or b"", max_output_size=_MAX_BYTES)
        return msgspec.msgpack.decode(raw, type=type)
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, MemoryError):
        return None


def begin(stored: bytes | None, repo: str, branch: str, now: datetime) -> State:
    """The state that was stored for this branch, an empty one else."""
    state = decode(stored, State)
    # What was left unread for longer would be a hole among the runs.
    if (
        state is None
        or (state.repo, state.branch) != (repo, branch)
        or (state.read_at and now - state.read_at > RERUN_WITHIN)
    ):
        return State(repo, branch, turned_at=now)
    if state.read_at is None or now - state.read_at > MARGIN:
        # Runs or re-runs may have been missed: all is to be read again.
        state.reach, state.page = None, 0
        state.looked_up.clear()
    return state


def _is_newer(run: Run, known: Run) -> bool:
    """Whether ``run`` tells more than what is known."""
    if run.attempt != known.attempt:
        return run.attempt > known.attempt
    if not known.has_ended:
        return run.updated >= known.updated
    return run.conclusion is not None and run.conclusion != known.conclusion and run.updated >= known.updated
