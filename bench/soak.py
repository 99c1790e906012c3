"""Ten weeks of cycles against a faulty GitHub and Datadog in minutes: what grows, what is left over.

Everything between the slot and the 202 is the daemon's own, with a store on a file; only time is made. It passes when
all there is to do now is done: then the clock goes on to whoever sleeps least. ``SOAK_CYCLES`` sets another number.
"""

import asyncio
import gc
import json
import os
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx

from bench import Measured, read_memory
from service.collectors.github_ci import GithubCiSettings
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.snapshot import SnapshotSettings
from service.config.secrets import credentials
from service.config.settings import Settings, StoreSettings
from service.daemon.maintenance import prune_store, refresh_secrets
from service.daemon.wiring import Clients, Wiring
from service.datadog.intake import Intake
from service.domain.runs import Run
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.notifier import Notifier
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.store.state_directory import DATABASE
from tests.datadog import Reply, ScriptedDatadog, refusal
from tests.unit.pipeline.stage import FakeClock, without_threads
from tests.world import InProcess, Simulated, World, faults, generate

CYCLES = int(os.environ.get("SOAK_CYCLES", "10000"))
WARM = min(1_000, CYCLES // 2)  # cycles until everything that is kept for a while is there
MAX_GROWTH = 5  # MiB afterwards
MAX_BYTES = 2 * 2**20  # of samples in the store

_SLOT = timedelta(minutes=10)
_KEPT = timedelta(days=42)  # the world's runs; no collector looks further back
_RUNS_A_SLOT = 0.1
_CONCLUSIONS = ("failure", "cancelled", "success", None)  # None: it never ends
_AT_ONCE = 10  # tasks that come and go with the moment: who waits, requests under way
_FAULTS = (
    *(faults.bad_gateway, faults.server_error, faults.html, faults.not_found, faults.forbidden, faults.empty_list),
    *(faults.nothing_found, faults.half_json, faults.cut_off, faults.too_many, faults.secondary, faults.exhausted),
    *(faults.other_shape, faults.other_type, faults.no_body, faults.wrong_total()),
)
_PLACES = (".", r"actions/runs\?", r"workflows/\d+/runs", "/jobs", "annotations", "graphql", "search", r"/workflows\?")
_DOWN = (refusal(503, "Down"), refusal(429, "Slow down"), refusal(400, "Bad"), refusal(403, "Forbidden"))


class Mark(NamedTuple):
    """How it stood after a number of cycles; MiB. ``samples``: what the store's bound is about, sent or not."""

    resident: float
    stored: float
    samples: float
    tasks: int


class WorldsClock(FakeClock):
    """The world's time is this clock's."""

    def __init__(self, world: World) -> None:
        super().__init__(world.now)
        self._world = world

    def move(self, seconds: float) -> None:
        super().move(seconds)
        self._world.now = self.now()


def change_weather(github: Simulated, datadog: ScriptedDatadog, snapshot: Path) -> Iterator[None]:
    """What happens outside from slot to slot: runs come and go, things fail for a while, snapshots are written."""
    world, chance, bad_until = github.world, random.Random(22), github.world.now
    down: Reply | None = None
    datadog.intercept = lambda _: down
    while True:
        if chance.random() < _RUNS_A_SLOT:
            (conclusion,) = chance.choices(_CONCLUSIONS, (20, 10, 60, 1))
            created = world.now - timedelta(seconds=chance.randrange(60, 540))
            world.add_run(chance.randint(1, 8), created, conclusion, branch=chance.choice(("main", "main", "topic")))
            oldest = world.now - _KEPT
            world.repository.runs = [each for each in world.repository.runs if each.created > oldest]
        if world.now >= bad_until:
            github.faults.clear()
            down = None
            if chance.random() < 0.1:
                bad_until = world.now + chance.choice((1, 1, 2, 6, 30)) * _SLOT
                if chance.random() < 0.7:
                    github.fail(chance.choice(_PLACES), chance.choice(_FAULTS))
                else:
                    down = chance.choice(_DOWN)
        common = {"workflow_name": "main", "task": "suite", "condition": "> 0", "date": world.now.isoformat()}
        records = [{"metric": f"suite.{n}", "check": f"c{n}", "value": chance.random(), **common} for n in range(5)]
        body = json.dumps(records)
        snapshot.write_text(body if chance.random() < 0.95 else body[: len(body) // 2])
        os.utime(snapshot, (world.now.timestamp(), world.now.timestamp()))
        yield


def run() -> Iterable[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(_soak, Path(folder))


async def _soak(folder: Path) -> list[Measured]:
    world = generate(22, workflows=12, runs_a_day=24 * 6 * _RUNS_A_SLOT, days=_KEPT.days)
    clock, github, state, snapshot = WorldsClock(world), Simulated(world), folder / "state", folder / "snapshot.json"
    github.clock = clock  # type: ignore[assignment]  # a wait must let the others go on
    datadog = ScriptedDatadog(now=lambda: world.now.timestamp())
    marks, outcomes, requests = dict[int, Mark](), Counter[str](), 0
    with without_threads():
        store = await Store.open(state, StoreSettings(max_bytes=MAX_BYTES), clock.now)
        async with (
            httpx.AsyncClient(transport=InProcess(github.app)) as asks,
            httpx.AsyncClient(transport=httpx.ASGITransport(datadog)) as sends,
            anyio.create_task_group() as tasks,
        ):
            settings = _configure(snapshot)
            keys = credentials(settings, {})
            intake = Intake("http://datadog.test", keys.api_key, sends, clock.now)
            clients = Clients(github.client(asks), Deliveries(clock), asks, intake, keys)
            scheduler = await _start(Wiring({}, clock, store, clients, tasks), settings, outcomes)
            for cycle, _ in zip(range(1, CYCLES + 1), change_weather(github, datadog, snapshot), strict=False):
                for name in scheduler.jobs:
                    scheduler.tick(name)
                slot = world.now.replace(second=0, microsecond=0) + _SLOT
                await clock.advance((slot - world.now).total_seconds())
                requests += len(github.take_asked())
                datadog.points.clear()
                datadog.events.clear()
                if cycle % 50 == 0 or cycle in (WARM, CYCLES):
                    marks[cycle] = _mark(state)
                    print(f"{cycle:,} cycles: {marks[cycle]}", flush=True)  # minutes pass
            tasks.cancel_scope.cancel()
        await store.close()
    left_over, warm, end = len(asyncio.all_tasks()) - 1, marks[WARM], marks[CYCLES]
    if end.resident - warm.resident > MAX_GROWTH or left_over or end.tasks > warm.tasks + _AT_ONCE:
        raise RuntimeError(f"something grows: {warm} became {end}, {left_over} tasks are left over")
    ends = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    most = max(each.samples for each in marks.values())
    return [
        Measured(f"cycles of github_ci, and as many of a snapshot: {ends}", CYCLES),
        Measured("requests to GitHub, faults among them", requests),
        Measured("points that Datadog took", datadog.accepted),
        Measured(f"resident at the end, beside that after {WARM:,} cycles", end.resident, "MiB", warm.resident),
        Measured("samples that the store held at most, beside its bound", most, "MiB", MAX_BYTES / 2**20),
        Measured("the store's file at the end, beside that after as many", end.stored, "MiB", warm.stored),
        Measured("tasks at the end, beside those after as many", end.tasks, "", warm.tasks),
        Measured("tasks left over once all is cancelled", left_over),
    ]


def _configure(snapshot: Path) -> Settings:
    common = {"schedule": "*/10 * * * *"}
    training = {"type": "snapshot", "category": "training", "source": str(snapshot)}
    return Settings(
        collectors={
            "ci": GithubCiSettings.model_validate(common | {"type": "github_ci"}),
            "training": SnapshotSettings.model_validate(common | training),
        },
        datadog={"api_key": "0123456789abcdef0123456789abcdef", "heartbeat": "10m"},
    )


async def _start(wiring: Wiring, settings: Settings, outcomes: Counter[str]) -> Scheduler:
    """What the daemon starts, but for its timer, which reads the machine's clock, and its pages."""
    store, clock, tasks, interval = wiring.store, wiring.clock, wiring.attempts, settings.datadog.heartbeat
    forwarder = wiring.build_forwarder(settings)

    def ended(run: Run) -> None:
        outcomes[str(run.outcome)] += 1
        notifier.check_soon(run.collector)

    scheduler = Scheduler(Runner(store, clock, tasks, on_stored=forwarder.notify, on_end=ended), store, clock, tasks)
    notifier = Notifier(lambda: scheduler.jobs, store, wiring.clients.intake, clock, interval=interval)
    heartbeat = Heartbeat(lambda: scheduler.jobs, store, clock, interval, forwarder.notify)
    await scheduler.load()
    await scheduler.set_jobs(wiring.build_jobs(settings))
    for background in (forwarder.run, notifier.run, heartbeat.run):
        tasks.start_soon(background)
    tasks.start_soon(prune_store, clock, store, forwarder)
    tasks.start_soon(refresh_secrets, clock, wiring.clients.credentials)
    return scheduler


def _mark(state: Path) -> Mark:
    gc.collect()
    with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as connection:
        (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM outbox").fetchone()
    stored = sum(each.stat().st_size for each in state.iterdir())
    resident = read_memory("VmRSS")
    return Mark(round(resident, 1), round(stored / 2**20, 2), round(size / 2**20, 2), len(asyncio.all_tasks()))
