"""What ``github_ci`` knows of a branch from cycle to cycle: the runs that can still matter, and what never changes.

Remembered are all runs of the window and its margin; of older ones those that were run again lately, those that are
unfinished, and each workflow's latest conclusive ones on the branch. That is some hundred runs, however many there are.
It is kept in the store alone, so a repository that is not being asked takes no memory.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import orjson

from service.collectors import ci_runs, ci_time_limits, ci_ways
from service.collectors.ci_runs import Page, Run
from service.collectors.ci_sweep import RERUN_WITHIN, Sweep
from service.collectors.ci_time_limits import TimeLimits
from service.collectors.ci_ways import Style

_VERSION = 3
_created = attrgetter("created")
# More than one, so that the next older run is known when the latest is run again or deleted.
_LATEST_KEPT = 3
_UNFINISHED_KEPT = 200
_LONGEST_RUN = timedelta(days=35)  # https://docs.github.com/actions/reference/limits: waiting included
_ASK_AGAIN = timedelta(days=1)  # old runs don't change, but they can be deleted
# Runs of one second may be on both sides of a page's end, and GitHub's order is by second.
_EDGE = timedelta(minutes=1)
# Datadog takes no points older than an hour; later than this they would not arrive in time.
TELL_WITHIN = timedelta(minutes=55)
_CLOCKS_DIFFER = timedelta(minutes=5)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Remembered:
    """``runs`` by id. ``attempts``: conclusions of finished earlier attempts, by run id and number.

    ``since``: every workflow's latest conclusive run is among ``runs`` if it was created since then; None: nothing is
    known. ``asked``: when GitHub was asked for a workflow's older runs, by workflow id; these are complete too.
    ``lost``: workflows whose latest runs were all deleted or run again, so that the next older one is to be found.
    ``front``: created_at of the newest run known when the window was read last, and ``read_at`` when that was.
    ``broken``: cycles in a row in which the first sweep broke off on an error.
    ``limits``: the jobs that their time limit ended, and the runs that may hold such jobs.
    ``told``: by run and attempt, when the attempts ended whose duration was sent.
    ``style``: how GitHub is asked to count pull requests.
    """

    repo: str
    branch: str
    sweep: Sweep
    runs: dict[int, Run] = field(default_factory=dict)
    attempts: dict[int, dict[int, str]] = field(default_factory=dict)
    asked: dict[int, datetime] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    since: datetime | None = None
    front: datetime | None = None
    read_at: datetime | None = None
    total: int = 0
    broken: int = 0
    limits: TimeLimits = field(default_factory=TimeLimits)
    told: dict[tuple[int, int], datetime] = field(default_factory=dict)
    style: Style = field(default_factory=Style)

    def take(self, runs: Iterable[Run]) -> None:
        """Keeps what was read of runs. Of a run that was run again, the attempt before is known as well."""
        for run in runs:
            known = self.runs.get(run.id)
            if known and known.conclusion and known.attempt < run.attempt:
                self.attempts.setdefault(run.id, {})[known.attempt] = known.conclusion
            self.runs[run.id] = ci_runs.later(known, run)
            self.limits.note(self.runs[run.id])

    def take_pages(self, pages: Iterable[Page]) -> None:
        """Keeps the pages' runs and forgets those that should be on one but are not: they were deleted. CPU work."""
        ordered = sorted(self.runs.values(), key=_created)
        times = [run.created for run in ordered]
        for page in pages:
            if page.newest is None or page.oldest is None:
                continue
            first = bisect_right(times, page.oldest + _EDGE) if page.below else 0
            last = len(times) if page.number == 1 else bisect_left(times, page.newest - _EDGE)
            read = {run.id for run in page.runs}
            self.drop(run.id for run in ordered[first:last] if run.id not in read)
            self.take(page.runs)

    def drop(self, ids: Iterable[int]) -> None:
        for run_id in tuple(ids):
            self.runs.pop(run_id, None)

    def trim(self, horizon: datetime) -> None:
        """Forgets the runs from before ``horizon`` (of the window and its margin) that can't matter any more."""
        old = [run for run in self.runs.values() if run.created < horizon and run.started < horizon]
        kept: set[int] = set()
        unfinished = [run for run in old if run.conclusion is None and run.created > horizon - _LONGEST_RUN]
        unfinished.sort(key=lambda run: run.age_key)
        kept.update(run.id for run in unfinished[-_UNFINISHED_KEPT:])
        by_workflow: dict[int, list[Run]] = defaultdict(list)
        for run in old:
            if run.on_branch and run.is_conclusive:
                by_workflow[run.workflow_id].append(run)
        for runs in by_workflow.values():
            kept.update(run.id for run in sorted(runs, key=lambda run: run.age_key)[-_LATEST_KEPT:])
        self.drop(run.id for run in old if run.id not in kept)
        self.attempts = {run: known for run, known in self.attempts.items() if run in self.runs}

    def take_ended(self, others: Iterable[Run], now: datetime) -> list[Run]:
        """The attempts that ended of late and were not told before, ``others`` than the runs' last ones included."""
        since, soon = now - TELL_WITHIN, now + _CLOCKS_DIFFER
        fresh = []
        for run in (*others, *self.runs.values()):
            key = run.id, run.attempt
            if run.conclusion and run.kind and since <= run.updated <= soon and key not in self.told:
                fresh.append(run)
                self.told[key] = now
        self.told |= {(run.id, run.attempt): now for run in others}
        # As long as the list may show a run, it must not be told again.
        self.told = {key: at for key, at in self.told.items() if key[0] in self.runs or at >= now - 2 * TELL_WITHIN}
        return fresh

    def unknown(self, workflows: Collection[int]) -> list[int]:
        """Those of the workflows whose latest conclusive run GitHub must be asked for."""
        latest = ci_runs.latest_conclusive(self.runs.values())
        return [each for each in workflows if not self._is_known(each, latest.get(each))]

    def _is_known(self, workflow_id: int, latest: Run | None) -> bool:
        if self.since is None or (latest is None and workflow_id in self.lost):
            return False
        if workflow_id in self.asked or self.since == BEGINNING:
            return True
        return latest is not None and latest.created >= self.since

    def stale(self, workflows: Collection[int], now: datetime) -> list[int]:
        """Those whose latest conclusive run no sweep sees any more, not asked for within a day: longest ago first."""
        latest = ci_runs.latest_conclusive(self.runs.values())
        old = [each for each in workflows if each not in latest or latest[each].created < now - RERUN_WITHIN]
        due = [each for each in old if self.asked.get(each, BEGINNING) < now - _ASK_AGAIN]
        return sorted(due, key=lambda each: self.asked.get(each, BEGINNING))

    def take_older(self, workflow_id: int, runs: Iterable[Run], now: datetime) -> None:
        """Keeps GitHub's answer on a workflow's older runs, in place of what was known of those that no sweep sees."""
        self.drop(
            run.id
            for run in self.runs.values()
            if run.workflow_id == workflow_id and run.is_conclusive and run.created < now - RERUN_WITHIN
        )
        self.take(runs)
        self.asked[workflow_id] = now
        self.lost.discard(workflow_id)

    def note_lost(self, before: Collection[int]) -> None:
        """``before``: the workflows that had a latest conclusive run before the last reading."""
        self.lost |= set(before) - set(ci_runs.latest_conclusive(self.runs.values()))

    def restart(self, oldest: datetime | None) -> None:
        """The list was not read for so long that runs between then and ``oldest`` are unknown."""
        self.since = oldest
        self.asked.clear()
        self.sweep = replace(self.sweep, below=None, done=0, is_first=True)

    def dump(self) -> bytes:
        """CPU work of a few milliseconds."""
        runs = [
            [
                *(run.id, run.workflow_id, run.attempt, run.event, run.on_branch, run.conclusion),
                *(_seconds(run.created), _seconds(run.started), _seconds(run.updated)),
                *(run.title, run.name, run.url),
            ]
            for run in self.runs.values()
        ]
        sweep = self.sweep
        state = {
            "version": _VERSION,
            "repo": self.repo,
            "branch": self.branch,
            "runs": runs,
            "attempts": [[run, number, said] for run, known in self.attempts.items() for number, said in known.items()],
            "asked": [[workflow_id, _seconds(at)] for workflow_id, at in self.asked.items()],
            "lost": sorted(self.lost),
            "since": _seconds(self.since),
            "front": _seconds(self.front),
            "read_at": _seconds(self.read_at),
            "total": self.total,
            "broken": self.broken,
            "sweep": [_seconds(sweep.started), sweep.below, sweep.done, sweep.pages, sweep.is_first],
            "told": [[run, attempt, _seconds(at)] for (run, attempt), at in self.told.items()],
            "limits": self.limits.dump(),
            "style": self.style.dump(),
        }
        return zlib.compress(orjson.dumps(state))


def cold(repo: str, branch: str, now: datetime) -> Remembered:
    return Remembered(repo, branch, Sweep(started=now))


def load(stored: bytes | None, repo: str, branch: str) -> Remembered | None:
    """What ``dump`` wrote, None when it is of another version, repository or branch, or can't be read."""
    if not stored:
        return None
    try:
        state = orjson.loads(zlib.decompress(stored))
        if (state["version"], state["repo"], state["branch"]) != (_VERSION, repo, branch):
            return None
        known = Remembered(repo, branch, Sweep(ci_runs.from_epoch(state["sweep"][0]), *state["sweep"][1:]))
        for row in state["runs"]:
            run = Run(*row[:6], *map(ci_runs.from_epoch, row[6:9]), *row[9:])
            known.runs[run.id] = run
        for run_id, number, conclusion in state["attempts"]:
            known.attempts.setdefault(run_id, {})[number] = conclusion
        known.asked = {workflow_id: ci_runs.from_epoch(at) for workflow_id, at in state["asked"]}
        known.lost = set(state["lost"])
        known.since = _time_or_none(state["since"])
        known.front = _time_or_none(state["front"])
        known.read_at = _time_or_none(state["read_at"])
        known.total, known.broken = state["total"], state["broken"]
        known.told = {(run_id, attempt): ci_runs.from_epoch(at) for run_id, attempt, at in state["told"]}
        known.limits = ci_time_limits.load(state["limits"])
        known.style = ci_ways.load(state["style"])
    except (zlib.error, ValueError, LookupError, TypeError, OverflowError):
        return None
    return known


def _seconds(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _time_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else ci_runs.from_epoch(seconds)
