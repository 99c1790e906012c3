"""A repository as it truly is, the JSON that GitHub makes of it, and the truth that the metrics must tell.

The truth is written down naively, straight from the contract, and shares no code with the collector.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

NOW = datetime(2026, 3, 4, 5, 6, 7, 500_000, tzinfo=UTC)
FAILING = ("failure", "timed_out", "startup_failure")
SAYING = ("success", *FAILING)


@dataclass
class Attempt:
    """``ended`` and ``conclusion`` are None while it goes on. ``overtime``: its time limit ended a job."""

    started: datetime
    ended: datetime | None = None
    conclusion: str | None = None
    overtime: bool = False


@dataclass
class SimRun:
    id: int
    workflow_id: int
    created: datetime
    attempts: list[Attempt]
    branch: str = "main"
    event: str = "push"
    fork: bool = False

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


@dataclass
class SimWorkflow:
    id: int
    name: str
    path: str
    state: str = "active"


@dataclass
class SimJob:
    """``said``: the message of its annotation."""

    id: int
    attempt: int
    conclusion: str
    started: datetime
    ended: datetime
    said: str

    @property
    def is_overtime(self) -> bool:
        return self.conclusion == "timed_out" or "maximum execution time" in self.said


@dataclass
class Issue:
    labels: tuple[str, ...]
    is_open: bool = True


@dataclass
class Pull:
    merged: datetime | None
    labels: tuple[str, ...]


@dataclass
class World:
    """``lag``: how far behind GitHub's search index is, which serves filtered lists of runs and finds pull requests."""

    now: datetime = NOW
    repo: str = "Metta-AI/metta"
    lag: timedelta = timedelta(minutes=45)
    runs: list[SimRun] = field(default_factory=list)
    workflows: list[SimWorkflow] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)

    def newest_first(self) -> list[SimRun]:
        self.runs.sort(key=lambda run: (run.created, run.id), reverse=True)
        return self.runs

    def run(self, run_id: int) -> SimRun | None:
        return next((run for run in self.runs if run.id == run_id), None)

    def add_run(self, workflow_id: int, created: datetime, *conclusions: str | None, **more: Any) -> SimRun:
        """A run with an attempt for each conclusion, each of five minutes, ten minutes apart."""
        attempts = []
        for number, conclusion in enumerate(conclusions):
            started = created + timedelta(minutes=10 * number)
            ended = None if conclusion is None else started + timedelta(minutes=5)
            attempts.append(Attempt(started, ended, conclusion))
        run = SimRun(max((run.id for run in self.runs), default=1000) + 1, workflow_id, created, attempts, **more)
        self.runs.append(run)
        return run

    def run_json(self, run: SimRun, attempts: Sequence[Attempt] | None = None) -> dict[str, Any]:
        """The run as of the last of ``attempts``; as GitHub writes it, but for what nobody reads."""
        attempts = attempts or run.attempts
        last = attempts[-1]
        return {
            "id": run.id,
            "name": f"Workflow {run.workflow_id}",
            "head_branch": run.branch,
            "display_title": f"Change {run.id}",
            "html_url": f"https://github.com/{self.repo}/actions/runs/{run.id}",
            "event": run.event,
            "status": "completed" if last.conclusion else "in_progress",
            "conclusion": last.conclusion,
            "workflow_id": run.workflow_id,
            "pull_requests": [],
            "created_at": stamp(run.created),
            "updated_at": stamp(last.ended or self.now),
            "run_attempt": len(attempts),
            "run_started_at": stamp(last.started),
            "repository": {"id": 1, "full_name": self.repo},
            "head_repository": {"id": 2 if run.fork else 1, "full_name": "fork/metta" if run.fork else self.repo},
        }

    def jobs_of(self, run: SimRun) -> list[SimJob]:
        """Of all attempts that ended: a job with the attempt's conclusion, and where that is a failure one more that
        was cancelled; the last of them by its time limit when the attempt is ``overtime``."""
        jobs = []
        for number, attempt in enumerate(run.attempts, 1):
            if attempt.ended is None or attempt.conclusion is None:
                continue
            names = [attempt.conclusion, "cancelled"] if attempt.conclusion == "failure" else [attempt.conclusion]
            for place, conclusion in enumerate(names):
                said = "The operation was canceled." if conclusion == "cancelled" else ""
                if attempt.overtime and conclusion == "cancelled":
                    said = "The job running on runner x has exceeded the maximum execution time of 30 minutes."
                number_of_job = run.id * 1000 + number * 10 + place
                jobs.append(SimJob(number_of_job, number, conclusion, attempt.started, attempt.ended, said))
        return jobs

    def job(self, job_id: int) -> SimJob | None:
        run = self.run(job_id // 1000)
        return next((job for job in self.jobs_of(run) if job.id == job_id), None) if run else None

    def indexed(self, workflow_id: int | None = None) -> list[dict[str, Any]]:
        """The runs (of one workflow) as the search index knows them, newest first."""
        then = self.now - self.lag
        rows = []
        for run in self.newest_first():
            known = [attempt for attempt in run.attempts if attempt.started <= then]
            if not known or workflow_id not in (None, run.workflow_id):
                continue
            if known[-1].ended and known[-1].ended > then:
                known[-1] = Attempt(known[-1].started)
            rows.append(self.run_json(run, known))
        return rows

    def open_with(self, labels: Sequence[str]) -> int:
        """Open issues with all of the labels."""
        return sum(issue.is_open and set(labels) <= set(issue.labels) for issue in self.issues)

    def open_with_any(self, labels: Sequence[str]) -> int:
        """Open issues with one of the labels at least, as GraphQL's filter means several."""
        return sum(issue.is_open and not set(labels).isdisjoint(issue.labels) for issue in self.issues)

    def merged_pulls(self, labels: Sequence[str], since: datetime, until: datetime) -> list[datetime]:
        """When the pull requests were merged that have one of the labels, the newest first."""
        found = [pull.merged for pull in self.pulls if pull.merged and not set(labels).isdisjoint(pull.labels)]
        return sorted((merged for merged in found if since <= merged <= until), reverse=True)

    def merged_with(self, labels: Sequence[str], since: datetime) -> int:
        return len(self.merged_pulls(labels, since, self.now))


@dataclass
class Asked:
    """The settings that the truth depends on. Lists hold workflow ids."""

    tests: tuple[int, ...] = ()
    benchmarks: tuple[int, ...] = ()
    branch: str = "main"
    window: timedelta = timedelta(hours=24)
    week: timedelta = timedelta(days=7)
    hotfix: tuple[str, ...] = ("hotfix",)
    force_merge: tuple[str, ...] = ("force-merge", "force_merge")
    reverts: tuple[str, ...] = ("revert",)


def truth(world: World, asked: Asked) -> dict[str, float]:
    """Every value by its metric's name; what has nothing to measure is left out."""
    values: dict[str, float] = {}
    ours = [run for run in world.runs if run.branch == asked.branch and not run.fork]
    recent = [run for run in world.runs if run.last.started >= world.now - asked.window]

    def latest(workflow: int) -> str | None:
        runs = [run for run in ours if run.workflow_id == workflow and run.last.conclusion in SAYING]
        return max(runs, key=lambda run: (run.created, run.id)).last.conclusion if runs else None

    for name, ids in (("tests_blocking_merge", asked.tests), ("benchmarks", asked.benchmarks)):
        found = [latest(each) for each in ids]
        if found and None not in found:
            values[f"ci.workflow.{name}"] = float(all(each == "success" for each in found))
    others = {each.id for each in world.workflows if each.state == "active"} - {*asked.tests, *asked.benchmarks}
    values["ci.workflow.other_failing"] = sum(latest(each) in FAILING for each in others)

    said = [run.last.conclusion for run in recent if run in ours and run.last.conclusion in SAYING]
    if said:
        values["ci.workflow.success"] = float(said.count("success") == len(said))
        values["ci.workflow.success_ratio"] = said.count("success") / len(said)
    values["ci.workflow.flaky_tests"] = sum(
        run.last.conclusion == "success" and any(attempt.conclusion in FAILING for attempt in run.attempts[:-1])
        for run in recent
    )
    values["ci.workflow.cancelled"] = sum(run in ours and run.last.conclusion == "cancelled" for run in recent)
    minutes = sorted(
        (run.last.ended - run.last.started).total_seconds() / 60
        for run in recent
        if run.event in ("pull_request", "pull_request_target", "merge_group")
        and run.last.conclusion in SAYING
        and run.last.ended
    )
    values["ci.jobs.timed_out"] = sum(
        job.is_overtime and job.ended >= world.now - timedelta(days=7)
        for run in world.runs
        for job in world.jobs_of(run)
    )
    values["github.bugs.count"] = world.open_with(["bug"])
    if minutes:
        place = 0.9 * (len(minutes) - 1)
        low, high = minutes[math.floor(place)], minutes[math.ceil(place)]
        values["ci.workflow.duration.p90"] = low + (high - low) * (place - math.floor(place))

    since = world.now - asked.week
    for name, labels in (("hotfix", asked.hotfix), ("force_merge", asked.force_merge), ("reverts", asked.reverts)):
        if labels:
            values[f"github.{name}.count"] = world.merged_with(labels, since)
    return values


def durations(world: World) -> list[tuple[datetime, float, str, str]]:
    """End, minutes, kind and conclusion of each attempt that ended within the last 55 minutes."""
    found = []
    for run in world.runs:
        pre_merge = run.event in ("pull_request", "pull_request_target", "merge_group")
        kind = "pre_merge" if pre_merge else "main" if run.branch == "main" and not run.fork else ""
        for attempt in run.attempts:
            if kind and attempt.ended and attempt.conclusion and attempt.ended >= world.now - timedelta(minutes=55):
                minutes = (attempt.ended - attempt.started).total_seconds() / 60
                found.append((attempt.ended, minutes, kind, attempt.conclusion))
    return sorted(found)


def stamp(time: datetime) -> str:
    """GitHub's times have whole seconds."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


CONCLUSIONS = ("success",) * 12 + (
    *("failure", "failure", "timed_out", "startup_failure", "cancelled", "cancelled", "skipped", "skipped"),
    *("neutral", "stale", "action_required", None),
)


def random_world(seed: int, *, workflows: int = 40, runs_a_day: float = 300, days: float = 33) -> World:
    """A repository with everything that makes counting hard: re-runs of runs of any age, unfinished and skipped runs,
    disabled workflows, workflows that last ran long ago, forks with our branch's name, names that repeat."""
    rng = random.Random(seed)
    world = World(now=NOW.replace(microsecond=rng.choice([0, 1, 500_000])))
    for number in range(1, workflows + 1):
        path = f".github/workflows/w{number}.yml"
        name = rng.choice([f"Workflow {number}", "Build", path])
        state = rng.choice(["active"] * 8 + ["disabled_manually", "disabled_inactivity", "deleted"])
        world.workflows.append(SimWorkflow(number, name, path, state))
    whole = world.now.replace(microsecond=0)
    # The last workflows run now and then, the very last has only been run long ago.
    busy = max(1, workflows - 4)
    for _ in range(round(runs_a_day * days)):
        created = whole - timedelta(seconds=rng.randrange(round(days * 86400)))
        workflow = rng.randint(1, busy)
        world.runs.append(_random_run(rng, world, workflow, created))
    for workflow in range(busy + 1, workflows + 1):
        for _ in range(rng.randint(0, 25)):
            created = whole - timedelta(days=40 + 300 * rng.random())
            world.runs.append(_random_run(rng, world, workflow, created.replace(microsecond=0)))
    for number, run in enumerate(sorted(world.runs, key=lambda run: run.created)):
        run.id = 5000 + number
    labels = ("hotfix", "force-merge", "force_merge", "revert", "other")
    for _ in range(rng.randint(0, 150)):
        merged = whole - timedelta(seconds=rng.randrange(14 * 86400))
        has = tuple(label for label in labels if rng.random() < 0.3)
        world.pulls.append(Pull(merged if rng.random() < 0.8 else None, has))
    for _ in range(rng.randint(0, 60)):
        kept = tuple(label for label in ("bug", "crash", "other") if rng.random() < 0.5)
        world.issues.append(Issue(kept, rng.random() < 0.7))
    return world


def _random_run(rng: random.Random, world: World, workflow: int, created: datetime) -> SimRun:
    whole = world.now.replace(microsecond=0)
    event = rng.choice(["push", "push", "schedule", "pull_request", "pull_request", "merge_group", "dynamic"])
    is_ours = event in ("push", "schedule") and rng.random() < 0.8
    run = SimRun(0, workflow, created, [], "main" if is_ours else f"topic-{rng.randint(1, 9)}", event)
    if event == "pull_request" and rng.random() < 0.2:
        run.branch, run.fork = "main", True
    started = created
    # GitHub lets a run be run again for 30 days; most that are, are right away.
    while True:
        length = timedelta(seconds=rng.randrange(5, 1800))
        conclusion = rng.choice(CONCLUSIONS)
        if conclusion is None and started < whole - timedelta(days=2) and rng.random() < 0.9:
            conclusion = "success"
        if conclusion is None or started + length > whole:
            run.attempts.append(Attempt(started))
            return run
        run.attempts.append(Attempt(started, started + length, conclusion, rng.random() < 0.3))
        pause = timedelta(minutes=rng.randrange(1, 90)) if rng.random() < 0.7 else timedelta(days=30 * rng.random())
        again = (started + length + pause).replace(microsecond=0)
        if rng.random() > 0.06 or again > min(whole, created + timedelta(days=30)):
            return run
        started = again
