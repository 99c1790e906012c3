"""Repositories with everything that makes counting hard: re-runs of runs of any age, carried-over, cancelled and timed
out jobs, unfinished and skipped runs, disabled and idle workflows, forks with a branch of our branch's name."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from service.demo.github_rows import DELETED, Attempt, Issue, Job, Pull, Repository, Run, Workflow

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
NOW = datetime(2026, 3, 4, 5, 6, 7, 500_000, tzinfo=UTC)
CONCLUSIONS = ("success",) * 12 + (
    *("failure", "failure", "timed_out", "startup_failure", "cancelled", "cancelled", "skipped", "skipped"),
    *("neutral", "stale", "action_required", None),
)
OVERTIME = (
    "The job running on runner GitHub Actions 2 has exceeded the maximum execution time of 30 minutes.",
    "The job has exceeded the maximum execution time of 6h0m0s",
)
STATUSES = ("in_progress", "in_progress", "queued", "waiting", "pending", "requested")
_CANCELLED = "The operation was canceled."
_LABELS = ("hotfix", "force-merge", "force_merge", "revert", "other")


@dataclass
class World:
    """``now`` moves by hand. ``lag``: how far the search index is behind. ``others``: more repositories."""

    repository: Repository
    now: datetime = NOW
    lag: timedelta = timedelta(minutes=45)
    others: list[Repository] = field(default_factory=list)

    def add_run(self, workflow_id: int, created: datetime, *conclusions: str | None, **more: Any) -> Run:
        """A run with an attempt for each conclusion, each of five minutes, ten minutes apart; None never ends."""
        created = created.replace(microsecond=0)
        attempts = []
        for number, conclusion in enumerate(conclusions):
            started = created + timedelta(minutes=10 * number)
            ended = None if conclusion is None else started + timedelta(minutes=5)
            attempts.append(Attempt(started, ended, conclusion))
        id = max((run.id for run in self.repository.runs), default=1000) + 1
        run = Run(id, workflow_id, created, attempts, **more)
        self.repository.runs.append(run)
        return run

    def add_workflow(self, id: int, name: str = "", **more: Any) -> Workflow:
        workflow = Workflow(id, name or f"Workflow {id}", f".github/workflows/w{id}.yml", **more)
        self.repository.workflows.append(workflow)
        return workflow

    @classmethod
    def empty(cls, name: str = "Metta-AI/metta", **more: Any) -> "World":
        """Labels that the settings' defaults name exist, nothing else."""
        return cls(Repository(name, labels={*_LABELS, "bug"}), **more)


def generate(
    seed: int,
    *,
    name: str = "Metta-AI/metta",
    workflows: int = 40,
    runs_a_day: float = 300,
    days: float = 33,
    ahead: timedelta = timedelta(0),
) -> World:
    """``ahead``: how long runs go on to begin after ``now``."""
    rng = random.Random(seed)
    now = NOW.replace(microsecond=rng.choice([0, 1, 500_000]))
    whole, span = now.replace(microsecond=0), timedelta(days=days) + ahead
    world = World.empty(name, now=now)
    repository = world.repository
    repository.id = seed + 1
    for number in range(1, workflows + 1):
        row = world.add_workflow(number)
        row.name = rng.choice([row.name, "Build", row.path])
        row.state = rng.choice(["active"] * 8 + ["disabled_manually", "disabled_inactivity", "deleted"])
    # The last workflows run now and then, the very last has only been run long ago.
    busy = max(1, workflows - 4)
    for _ in range(round(runs_a_day * (span / timedelta(days=1)))):
        created = whole + ahead - timedelta(seconds=rng.randrange(int(span.total_seconds())))
        repository.runs.append(_run(rng, rng.randint(1, busy), created, whole + ahead))
    for number in range(busy + 1, workflows + 1):
        for _ in range(rng.randint(0, 25)):
            created = whole - timedelta(days=rng.randint(40, 340), seconds=rng.randrange(86_400))
            repository.runs.append(_run(rng, number, created, whole))
    repository.runs.sort(key=lambda run: run.created)
    for number, run in enumerate(repository.runs):
        run.id, run.sha = 5000 + number, f"{number // 2:040x}"  # two runs of a commit
    repository.branches |= {run.branch for run in repository.runs if not run.fork}
    for number in range(1, rng.randint(0, 150) + 1):
        merged = whole + ahead - timedelta(seconds=rng.randrange(int((timedelta(days=14) + ahead).total_seconds())))
        labels = tuple(label for label in _LABELS if rng.random() < 0.3)
        updated = merged + timedelta(seconds=rng.randrange(10 * 86_400)) if rng.random() < 0.4 else None
        repository.pulls.append(Pull(number, merged if rng.random() < 0.8 else None, labels, updated=updated))
    for number in range(1, rng.randint(0, 60) + 1):
        labels = tuple(label for label in ("bug", "crash", "other") if rng.random() < 0.5)
        created = whole - timedelta(seconds=rng.randrange(400 * 86_400))
        repository.issues.append(Issue(number, created, labels, rng.random() < 0.7))
    repository.labels.add("crash")
    return world


def _run(rng: random.Random, workflow: int, created: datetime, until: datetime) -> Run:
    """A run with its re-runs: GitHub allows them for 30 days, most come right away."""
    event = rng.choice(["push", "push", "schedule", "pull_request", "pull_request", "merge_group", "dynamic"])
    is_ours = event in ("push", "schedule") and rng.random() < 0.8
    run = Run(0, workflow, created, [], "main" if is_ours else f"topic-{rng.randint(1, 9)}", event)
    if event == "pull_request" and rng.random() < 0.2:
        run.branch, run.fork = "main", rng.choice(["someone/metta", DELETED])
    started = created
    while True:
        conclusion = rng.choice(CONCLUSIONS)
        if conclusion is None and started < until - timedelta(days=2) and rng.random() < 0.9:
            conclusion = "success"
        if conclusion is None:
            run.attempts.append(Attempt(started, status=_status(started)))
            return run
        ended = started + timedelta(seconds=rng.randrange(5, 1800))
        jobs = _jobs(rng, run, started, ended, conclusion)
        run.attempts.append(Attempt(started, ended, conclusion, jobs, _status(started)))
        pause = timedelta(minutes=rng.randrange(1, 90)) if rng.random() < 0.7 else timedelta(days=30 * rng.random())
        again = (ended + pause).replace(microsecond=0)
        if rng.random() > 0.06 or again > min(until, created + timedelta(days=30)):
            return run
        started = again


def _status(started: datetime) -> str:
    """While it has not ended."""
    return STATUSES[started.second % len(STATUSES)]


def _jobs(rng: random.Random, run: Run, started: datetime, ended: datetime, conclusion: str) -> list[Job] | None:
    """None where one job that ended like the attempt tells all. A re-run carries a job of the first attempt over."""
    if conclusion not in ("failure", "cancelled", "timed_out") and not run.attempts:
        return None
    first = run.attempts[0].jobs if run.attempts else None
    carried = replace(first[started.second % len(first)]) if first else Job("success", started, ended, "lint")
    jobs = [carried, Job(conclusion, started, ended, "test", _CANCELLED if conclusion == "cancelled" else "")]
    if conclusion == "failure":
        jobs.append(Job("cancelled", started, ended, "package", _CANCELLED))
    if jobs[-1].conclusion == "cancelled" and rng.random() < 0.3:
        jobs[-1].annotation = rng.choice(OVERTIME)
    return jobs
