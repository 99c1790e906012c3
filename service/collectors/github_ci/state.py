"""What one cycle hands to the next: one Struct a repository, in the store alone. What can't be decoded is a cold start.

Kept are the runs of the window and its margin; of older ones those that are unfinished and each workflow's newest
conclusive ones on the branch; and the week's runs among whose jobs one may have met its time limit.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
import zstandard

from service.collectors.github_ci.models import SUSPECT, Run
from service.domain.samples import MAX_POINT_AGE

MARGIN = timedelta(hours=3)  # behind the window, where most re-runs come from
WEEK = timedelta(days=7)
RERUN_WITHIN = timedelta(days=30)  # GitHub lets a run be run again for so long
_LONGEST_RUN = timedelta(days=35)  # https://docs.github.com/actions/reference/limits: waiting included
_PLAUSIBLE = timedelta(hours=1)
_LONG_CYCLE = timedelta(minutes=15)  # after a longer one there is more to ask
_CLOCKS_DIFFER = timedelta(minutes=5)
_UNFINISHED_KEPT = 200
# More than one, so that the next older run is known when the latest is run again or deleted.
_LATEST_KEPT = 3
_MAX_BYTES = 256 * 1024 * 1024
# A negative answer that others contradict is asked for again in each cycle so often, then after this time.
_IMPATIENT, _BACK_OFF = 3, timedelta(minutes=9)
_NEGATIVE_LIFE, _POSITIVE_LIFE = timedelta(minutes=55), timedelta(hours=23)

T = TypeVar("T")


class Job(msgspec.Struct, array_like=True):
    """A job that its time limit ended, or may have ended."""

    id: int
    ended: datetime
    conclusion: str
    name: str
    url: str


class Suspect(msgspec.Struct, array_like=True):
    """A run of the week whose jobs decide a number. ``attempt``: the last that ended; ``seen``: the last looked into.

    ``cancelled``: jobs whose annotations are still to be asked for. ``failures``: contradicted answers in a row.
    """

    attempt: int
    created: datetime
    ended: datetime
    name: str
    conclusion: str = ""
    seen: int = 0
    cancelled: list[Job] = []
    found: list[Job] = []
    failures: int = 0

    @property
    def is_open(self) -> bool:
        return self.seen < self.attempt or bool(self.cancelled)


class State(msgspec.Struct, tag_field="version", tag=1):
    """``reach``: every run created since then was read; None: nothing is known. ``read_at``: when the window was.

    ``front``: pages of the window. ``page``: the next one behind it. ``depth``: the page that reaches 30 days back.
    ``turned_at``: when an older page was read last. ``asked``: when a workflow's own list was. ``suspects``: by run id.
    ``doubts``: contradicted answers in a row, and the last one, by what was asked for.
    ``names``: whether a branch or label was there, and when that was told.
    ``has_lists``: the repository's own lists counted all pull requests once, so the search is no better.
    ``was_whole``: nothing of the week was left to look into, so that what is comes a little at a time.
    ``is_empty``: the list of runs showed none at all.
    """

    repo: str
    branch: str
    runs: dict[int, Run] = {}
    suspects: dict[int, Suspect] = {}
    reach: datetime | None = None
    read_at: datetime | None = None
    front: int = 0
    page: int = 0
    depth: int = 0
    turned_at: datetime | None = None
    asked: dict[int, datetime] = {}
    doubts: dict[str, tuple[int, datetime]] = {}
    names: dict[str, tuple[bool, datetime]] = {}
    has_lists: bool = False
    was_whole: bool = False
    is_empty: bool = False

    def take(self, read: Iterable[Run], now: datetime) -> None:
        """Keeps what was read of runs, never backwards: a list may come from a copy that lags."""
        for run in read:
            known = self.runs.get(run.id)
            if known and not _is_newer(run, known):
                continue
            if known:
                run.earlier, run.reported = known.earlier, known.reported
                if known.attempt < run.attempt and known.conclusion:
                    run.earlier[known.attempt] = known.conclusion
            if known and known.attempt == run.attempt and known.has_ended:
                run.updated, run.has_known_end = known.updated, known.has_known_end
            else:  # seen ended for the first time: updated_at is the end if nothing can have moved it by much
                was_running = known and known.attempt == run.attempt and self.read_at
                begun = max(run.started, self.read_at) if was_running and self.read_at else run.started
                run.has_known_end = not run.has_ended or run.updated - begun <= _PLAUSIBLE
            self.runs[run.id] = run
            self._note_suspect(run, now)

    def _note_suspect(self, run: Run, now: datetime) -> None:
        if not (run.conclusion in SUSPECT or run.attempt > 1) or run.updated < now - WEEK:
            return
        # While a run is run again, the attempts before are over.
        attempt = run.attempt if run.conclusion else run.attempt - 1
        suspect = self.suspects.setdefault(run.id, Suspect(0, run.created, run.updated, run.name))
        if attempt > suspect.attempt:
            suspect.attempt, suspect.ended, suspect.conclusion = attempt, run.updated, run.conclusion or ""

    def forget_run(self, id: int) -> None:
        """It was deleted: whether a job of it met its limit, nobody can tell any more."""
        self.runs.pop(id, None)
        if id in self.suspects and self.suspects[id].is_open:
            del self.suspects[id]

    def restart(self) -> None:
        """Nothing was read for so long that runs or re-runs may have been missed: all is to be read again."""
        self.reach, self.page, self.was_whole = None, 0, False
        self.asked.clear()

    def trim(self, now: datetime, window: timedelta) -> None:
        """Forgets what can't matter any more. CPU work."""
        horizon, week = now - window - MARGIN, now - WEEK
        kept: set[int] = set()
        unfinished: list[Run] = []
        concluded: dict[int, list[Run]] = {}
        for run in self.runs.values():
            if run.started >= horizon or run.created >= horizon:
                kept.add(run.id)
            if run.conclusion is None and run.created > now - _LONGEST_RUN:
                unfinished.append(run)
            elif run.on_branch and run.is_conclusive:
                concluded.setdefault(run.workflow_id, []).append(run)
        for runs, count in ((unfinished, _UNFINISHED_KEPT), *((each, _LATEST_KEPT) for each in concluded.values())):
            kept.update(run.id for run in sorted(runs, key=lambda run: run.age_key)[-count:])
        self.runs = {id: run for id, run in self.runs.items() if id in kept}
        self.suspects = {id: each for id, each in self.suspects.items() if each.ended >= week}
        for suspect in self.suspects.values():
            suspect.found = [job for job in suspect.found if job.ended >= week]
        self.doubts = {name: each for name, each in self.doubts.items() if each[1] >= now - WEEK}

    # What the numbers are made of

    def started_since(self, since: datetime) -> list[Run]:
        """The runs in the window that begins at ``since``: by the start of their last attempt."""
        return [run for run in self.runs.values() if run.started >= since]

    def latest(self) -> dict[int, Run]:
        """By workflow id, the newest conclusive run on the branch."""
        latest: dict[int, Run] = {}
        for run in self.runs.values():
            if run.on_branch and run.is_conclusive:
                best = latest.get(run.workflow_id)
                if best is None or run.age_key > best.age_key:
                    latest[run.workflow_id] = run
        return latest

    def unknown_workflows(self, workflows: Collection[int]) -> list[int]:
        """Those whose latest run no list of all runs has shown, nor their own."""
        latest, reach = self.latest(), self.reach
        return [
            each
            for each in workflows
            if each not in self.asked and (each not in latest or reach is None or latest[each].created < reach)
        ]

    def stale_workflows(self, workflows: Collection[int], now: datetime) -> list[int]:
        """Those whose own list was asked so long ago that it is worth another look, longest ago first."""
        latest = self.latest()
        due = [
            each
            for each in workflows
            if each in self.asked
            and now - self.asked[each] > (_POSITIVE_LIFE if each in latest else _NEGATIVE_LIFE)
            and (each not in latest or latest[each].created < now - RERUN_WITHIN)
        ]
        return sorted(due, key=self.asked.__getitem__)

    def take_ended(self, attempts: Iterable[Run], now: datetime) -> list[Run]:
        """The attempts that ended within the last 55 minutes and were not reported before: ``attempts``, earlier ones
        that the list did not show, and the runs' last ones."""
        since, soon = now - MAX_POINT_AGE, now + _CLOCKS_DIFFER
        fresh = []
        for run in (*attempts, *self.runs.values()):
            known = self.runs.get(run.id, run)
            if not run.conclusion or not run.has_known_end or run.attempt <= known.reported:
                continue
            if run.kind and since <= run.updated <= soon:
                fresh.append(run)
            known.reported = run.attempt
        return fresh

    @property
    def open_suspects(self) -> dict[int, Suspect]:
        return {id: each for id, each in self.suspects.items() if each.is_open}

    def created_between(self, first: datetime, last: datetime | None = None) -> set[int]:
        """Ids of the runs that are known or still to be looked into, both bounds excluded."""
        created = {id: each.created for id, each in self.open_suspects.items()}
        created |= {id: run.created for id, run in self.runs.items()}
        return {id for id, at in created.items() if first < at and (last is None or at < last)}

    def is_week_known(self, now: datetime) -> bool:
        """Whether every run created within the week was read."""
        return self.reach is not None and self.reach <= now - WEEK

    # Answers that others contradict

    def doubt(self, name: str, now: datetime) -> int:
        """Notes a negative answer that others contradict; how many there were in a row."""
        count = self.doubts.get(name, (0, now))[0] + 1
        self.doubts[name] = count, now
        return count

    def believe(self, name: str) -> None:
        self.doubts.pop(name, None)

    def is_due(self, name: str, now: datetime) -> bool:
        """Whether what is doubted is to be asked for again."""
        count, at = self.doubts.get(name, (0, now))
        return count < _IMPATIENT or now - at >= _BACK_OFF


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
    if state is None or (state.repo, state.branch) != (repo, branch):
        return State(repo, branch, turned_at=now)
    if state.read_at is None or now - state.read_at > MARGIN:
        state.restart()
    elif now - state.read_at > _LONG_CYCLE:
        state.was_whole = False
    return state


BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


def _is_newer(run: Run, known: Run) -> bool:
    """Whether ``run`` tells more than what is known."""
    if run.attempt != known.attempt:
        return run.attempt > known.attempt
    if not known.has_ended:
        return run.updated >= known.updated
    return run.conclusion is not None and run.conclusion != known.conclusion and run.updated >= known.updated
