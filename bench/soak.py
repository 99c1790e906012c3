"""Ten weeks of cycles against a faulty GitHub and Datadog in minutes: what grows, what is left over.

Everything between the slot and the 202 is the daemon's own, with a store on a file; only time is made. It passes when
all there is to do now is done: then the clock goes on to whoever sleeps least. ``SOAK_CYCLES`` sets another number.
"""

import asyncio
import gc
import json
import logging
import os
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import structlog

from bench import Measured, read_memory
from service.collectors.github_ci import GithubCiSettings
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.snapshot import SnapshotSettings
from service.config.secrets import credentials
from service.config.settings import Settings, StoreSettings
from service.daemon.maintenance import prune_store, refresh_secrets
from service.daemon.wiring import Clients, Wiring
from service.datadog.intake import Intake
from service.demo.datadog import SimulatedDatadog
from service.demo.intake import Received, Reply, refusal
from service.domain.runs import Outcome, Run
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.notifier import Notifier
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.store.directory import DATABASE
from tests.unit.pipeline.stage import FakeClock, without_threads
from tests.world import InProcess, Simulated, World, faults, generate

IS_LONG = True  # minutes: not among those that run when none is named
CYCLES = int(os.environ.get("SOAK_CYCLES", "10000"))
WARM = min(1_000, CYCLES // 2)  # cycles until everything that is kept for a while is there
MAX_GROWTH = 5  # MiB afterwards
MAX_BYTES = 2 * 2**20  # of samples in the store

_SLOT = timedelta(minutes=10)
_KEPT = timedelta(days=42)  # the world's runs; no collector looks further back
_RUNS_A_SLOT = 0.1
_AT_ONCE = 10  # tasks that come and go with the moment: who waits, requests under way
_STUCK = 0.01  # of the runs never end
_FAULTS = (
    *(faults.bad_gateway, faults.server_error, faults.html, faults.not_found, faults.forbidden, faults.empty_list),
    *(faults.nothing_found, faults.half_json, faults.cut_off, faults.too_many, faults.secondary, faults.exhausted),
    *(faults.other_shape, faults.other_type, faults.no_body, faults.wrong_total()),
)
_PLACES = (".", r"actions/runs\?", r"workflows/\d+/runs", "/jobs", "annotations", "graphql", "search", r"/workflows\?")
_DOWN = (refusal(503, "Down"), refusal(429, "Slow down"), refusal(400, "Bad"), refusal(403, "Forbidden"))


def run() -> Iterable[Measured]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )  # weeks of faults, told by nobody
    with tempfile.TemporaryDirectory() as folder:
        seen = anyio.run(_soak, Path(folder))
    warm, end = seen.marks[WARM], seen.marks[CYCLES]
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in seen.outcomes.most_common())
    yield Measured(f"cycles of github_ci, and as many of a snapshot: {outcomes}", CYCLES, "", counted=True)
    yield Measured("requests to GitHub, faults among them", seen.asked, "", counted=True)
    yield Measured("points that Datadog took", seen.taken, "", counted=True)
    yield Measured(f"resident at the end, beside that after {WARM:,} cycles", end.resident, "MiB", warm.resident)
    yield Measured("samples that the store held at most, beside its bound", seen.kept, "MiB", MAX_BYTES / 2**20)
    yield Measured("the store's file at the end, beside the same", end.stored, "MiB", warm.stored)
    yield Measured("tasks at the end, beside the same", end.tasks, "", warm.tasks, counted=True)
    yield Measured("tasks left over once all is cancelled", seen.left_over, "", counted=True)
    if end.resident - warm.resident > MAX_GROWTH or seen.left_over or end.tasks > warm.tasks + _AT_ONCE:
        raise RuntimeError(f"something grows: {warm} became {end}, {seen.left_over} tasks are left over")


@dataclass(frozen=True)
class Mark:
    """How it stood. MiB."""

    resident: float
    stored: float
    tasks: int


@dataclass
class Seen:
    """``marks``: by the number of cycles. ``kept``: the most samples that the store held, in MiB."""

    marks: dict[int, Mark] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    taken: int = 0
    kept: float = 0.0
    left_over: int = 0


class WorldsClock(FakeClock):
    """The world's time is this clock's."""

    def __init__(self, world: World) -> None:
        super().__init__(world.now)
        self._world = world

    def move(self, seconds: float) -> None:
        super().move(seconds)
        self._world.now = self.now()


class FaultyDatadog(SimulatedDatadog):
    """``fault``: what is answered in place of 202."""

    fault: Reply | None = None

    def reply(self, received: Received) -> Reply:
        return self.fault or super().reply(received)


class Weather:
    """What happens outside from slot to slot: runs come and go, things fail for a while, snapshots are written."""

    def __init__(self, github: Simulated, datadog: FaultyDatadog, snapshot: Path) -> None:
        self._github, self._datadog, self._snapshot = github, datadog, snapshot
        self._chance = random.Random(22)
        self._bad_until = github.world.now

    def change(self) -> None:
        world, chance = self._github.world, self._chance
        if chance.random() < _RUNS_A_SLOT:
            conclusions = chance.choices(["failure", "cancelled", "success"], [2, 1, 6], k=chance.choice((1, 1, 1, 2)))
            last: list[str | None] = [None] if chance.random() < _STUCK else []
            created = world.now - timedelta(seconds=chance.randrange(60, 540))
            branch = chance.choice(("main", "main", "topic"))
            world.add_run(chance.randint(1, 8), created, *conclusions[: 1 - len(last)], *last, branch=branch)
            runs = world.repository.runs
            world.repository.runs = [run for run in runs if run.created > world.now - _KEPT]
        if world.now >= self._bad_until:
            self._github.faults.clear()
            self._datadog.fault = None
            if chance.random() < 0.1:
                self._bad_until = world.now + chance.choice((1, 1, 2, 6, 30)) * _SLOT
                if chance.random() < 0.7:
                    self._github.fail(chance.choice(_PLACES), chance.choice(_FAULTS))
                else:
                    self._datadog.fault = chance.choice(_DOWN)
        self._publish()

    def _publish(self) -> None:
        now, chance = self._github.world.now, self._chance
        common = {"workflow_name": "main", "task": "suite", "condition": "> 0", "date": now.isoformat()}
        records = [
            {"metric": f"suite.{place}", "check": f"c{place}", "value": chance.random(), **common} for place in range(5)
        ]
        body = json.dumps(records)
        self._snapshot.write_text(body if chance.random() < 0.95 else body[: len(body) // 2])
        os.utime(self._snapshot, (now.timestamp(), now.timestamp()))


async def _soak(folder: Path) -> Seen:
    world = generate(22, workflows=12, runs_a_day=24 * 6 * _RUNS_A_SLOT, days=_KEPT.days)
    clock, github, seen = WorldsClock(world), Simulated(world), Seen()
    github.clock = clock  # type: ignore[assignment]  # a wait must let the others go on
    datadog = FaultyDatadog(now=lambda: world.now.timestamp())
    weather = Weather(github, datadog, folder / "snapshot.json")
    with without_threads():
        store = await Store.open(folder / "state", StoreSettings(max_bytes=MAX_BYTES), clock.now)
        async with (
            httpx.AsyncClient(transport=InProcess(github.app)) as asks,
            httpx.AsyncClient(transport=InProcess(datadog)) as sends,
            anyio.create_task_group() as tasks,
        ):
            settings = _settings(folder)
            keys = credentials(settings, {})
            intake = Intake("http://datadog.test", keys.api_key, sends, clock.now)
            clients = Clients(github.client(asks), Deliveries(clock), asks, intake, keys)
            wiring = Wiring({}, clock, store, clients, tasks)
            scheduler = await _start(wiring, settings, seen)
            for cycle in range(1, CYCLES + 1):
                weather.change()
                for name in scheduler.jobs:
                    scheduler.tick(name)
                end = world.now.replace(second=0, microsecond=0) + _SLOT
                await clock.advance((end - world.now).total_seconds())
                seen.asked += len(github.take_asked())
                datadog.points.clear()
                datadog.events.clear()
                if cycle % 50 == 0 or cycle in (WARM, CYCLES):
                    seen.kept = max(seen.kept, _kept(folder / "state"))
                if cycle % 100 == 0 or cycle in (WARM, CYCLES):
                    seen.marks[cycle] = mark = _mark(folder / "state")
                    print(f"{cycle:,} cycles: {mark}", flush=True)  # minutes pass
            seen.taken = datadog.accepted
            tasks.cancel_scope.cancel()
        await store.close()
    seen.left_over = len(asyncio.all_tasks()) - 1
    return seen


def _settings(folder: Path) -> Settings:
    ci = {"type": "github_ci", "schedule": "*/10 * * * *", "repo": "Metta-AI/metta"}
    training = {"type": "snapshot", "schedule": "*/10 * * * *", "category": "training"}
    return Settings(
        collectors={
            "ci": GithubCiSettings.model_validate(ci),
            "training": SnapshotSettings.model_validate(training | {"source": str(folder / "snapshot.json")}),
        },
        datadog={"api_key": "0123456789abcdef0123456789abcdef", "heartbeat": "10m"},
    )


async def _start(wiring: Wiring, settings: Settings, seen: Seen) -> Scheduler:
    """What the daemon starts, but for its timer, which reads the machine's clock, and its pages."""
    store, clock, tasks, intake = wiring.store, wiring.clock, wiring.attempts, wiring.clients.intake
    forwarder = wiring.build_forwarder(settings)
    interval = settings.datadog.heartbeat

    def ended(run: Run) -> None:
        seen.outcomes[(run.outcome or Outcome.INTERRUPTED).value] += 1
        notifier.check_soon(run.collector)

    runner = Runner(store, clock, tasks, on_stored=forwarder.notify, on_end=ended)
    scheduler = Scheduler(runner, store, clock, tasks)
    notifier = Notifier(lambda: scheduler.jobs, store, intake, clock, interval=interval)
    heartbeat = Heartbeat(lambda: scheduler.jobs, store, clock, interval, forwarder.notify)
    await scheduler.load()
    await scheduler.set_jobs(wiring.build_jobs(settings))
    for background in (forwarder.run, notifier.run, heartbeat.run):
        tasks.start_soon(background)
    tasks.start_soon(prune_store, clock, store, forwarder)
    tasks.start_soon(refresh_secrets, clock, wiring.clients.credentials)
    return scheduler


def _kept(state: Path) -> float:
    """What the store's bound is about: the samples' bodies, sent or not."""
    with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as connection:
        (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM outbox").fetchone()
    return float(size) / 2**20


def _mark(state: Path) -> Mark:
    gc.collect()
    resident = read_memory("VmRSS")
    stored = sum(each.stat().st_size for each in state.iterdir()) / 2**20
    return Mark(round(resident, 1), round(stored, 2), len(asyncio.all_tasks()))
