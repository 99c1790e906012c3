"""Random days of replicas on one PostgreSQL: slots, deaths, stand-stills and deliveries in any order.

Each replica is a Store that does what a daemon does with it, step by step; its clock and the database's are the test's.
What holds at every step: of a slot one run at most completes, no two runs of a collector under Forbid are active, and
no distribution is handed out for sending twice. In the end every sample of an accepted run was delivered or is unknown,
and nothing waits for a replica that is gone.
"""

import asyncio
import secrets
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import psycopg
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from service.config.settings import StoreSettings
from service.domain.delivery import Chunk, DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Outcome, Run
from service.domain.samples import Kind
from service.store import Busy, Claim, Store, tables
from service.store import replicas as replicas_module
from service.store import runs as runs_module
from service.store.engine import open_server, prepare
from tests.integration.store.cases import DISTRIBUTION, ended, samples
from tests.unit.pipeline.stage import without_threads

T = TypeVar("T")

MOST = 3
COLLECTORS = ("ci", "evals")
EVERY = timedelta(seconds=30)
DEAD_AFTER = timedelta(seconds=20)
DEADLINE = timedelta(seconds=90)
START = datetime(2025, 1, 15, 10, tzinfo=UTC)

Places = st.integers(0, MOST - 1)


@dataclass
class Process:
    """A replica as its daemon knows it. ``sending``: chunks that it was given and has not given back."""

    store: Store
    slots: dict[str, datetime] = field(default_factory=dict)
    active: list[Run] = field(default_factory=list)
    sending: list[Chunk] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)


class ReplicasMachine(RuleBasedStateMachine):
    """``url``, ``connection``: of a database that has the tables; set by the test."""

    url: str
    connection: psycopg.Connection[tuple[object, ...]]

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._stack = ExitStack()
        self.elapsed = 0.0
        self.processes: list[Process] = []
        self.accepted: dict[str, int] = {}  # samples by run
        self.handed: Counter[int] = Counter()  # of distributions: how often a chunk was, less what was given back

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)

    @initialize()
    def begin(self) -> None:
        self._stack.enter_context(without_threads())
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        for table in tables.meta.sorted_tables:  # sooner done than to make them anew
            self.connection.execute(f"DELETE FROM {table.name}".encode())

        def database_now() -> sa.ColumnElement[int]:
            return sa.literal_column(f"{tables.to_micros(self.now())}::bigint", sa.BigInteger)

        for module in (replicas_module, runs_module):
            self._stack.enter_context(patch.object(module, "database_now", database_now))
        clock = SimpleNamespace(monotonic=lambda: self.elapsed)
        self._stack.enter_context(patch.object(replicas_module, "time", clock))
        for place in range(2):
            self.a_replica_starts()
            self.a_usual_half_minute(place)

    @rule()
    def a_replica_starts(self) -> None:
        if len(self.processes) < MOST:
            limits = StoreSettings.model_validate({"url": self.url, "dead_after": DEAD_AFTER})
            self.processes.append(Process(self.run(Store.open(self.folder, limits, self.now, replica=("pod", "2.0")))))
            self.beat(self.processes[-1])

    def pick(self, place: int) -> Process:
        """One of those that live, of which there is one at least."""
        if not self.processes:
            self.a_replica_starts()
        return self.processes[place % len(self.processes)]

    def beat(self, process: Process) -> None:
        assert process.store.replicas
        seen = self.run(process.store.replicas.beat(self._may_repeat, process.lost))
        if seen.is_new:
            process.active = []
        for (collector, _), at in seen.slots.items():
            process.slots[collector] = max(at, process.slots.get(collector, at))
        process.active += seen.repeats
        process.active = [run for run in process.active if run.id not in seen.cancelled]
        process.lost = set(seen.own - {run.id for run in process.active})

    def _may_repeat(self, run: Run) -> bool:
        return run.slot is not None and self.now() - run.slot <= DEADLINE

    @rule(seconds=st.sampled_from([1, 5, 10, 30]), standing=st.one_of(st.none(), Places))
    def time_passes(self, seconds: int, standing: int | None) -> None:
        """Who stands still gives no sign of life meanwhile; the others do as often as they have to."""
        still = None if standing is None else self.pick(standing)
        for _ in range(seconds):
            self.elapsed += 1.0
            if self.elapsed % 5 == 0:
                for process in self.processes:
                    if process is not still:
                        self.beat(process)

    @rule(place=Places)
    def a_usual_half_minute(self, place: int) -> None:
        """Without which few days come to anything: one run goes on, one has ended, and some of it is being sent."""
        self.time_passes(30, None)
        self.claim(place, set(COLLECTORS), answered=1)
        self.a_run_ends(place, 2, 0, told=1)
        self.mark(place, answered=1)
        self.settle(place, "delivered")
        self.mark(place, answered=1)

    @rule(place=Places, collectors=st.sets(st.sampled_from(COLLECTORS), min_size=1), answered=st.integers(0, 4))
    def claim(self, place: int, collectors: set[str], answered: int) -> None:
        """Now and then the answer gets lost, which the replica takes for a database that is away."""
        process, slot = self.pick(place), START + (self.now() - START) // EVERY * EVERY
        claims = [
            Claim(
                Run(secrets.token_hex(8), collector, Cause.SCHEDULE, self.now(), slot, owner=process.store.owner),
                process.slots.get(collector),
                forbids=True,
            )
            for collector in sorted(collectors)
            if process.slots.get(collector) != slot and collector not in {run.collector for run in process.active}
        ]
        if not claims:
            return
        with suppress(Unavailable):  # it was taken for dead
            results = self.run(process.store.runs.claim_slots(claims))
            for claim, result in zip(claims, results if answered else [], strict=False):
                if result is True:
                    process.active.append(claim.run)
                if not isinstance(result, Busy):
                    process.slots[claim.run.collector] = slot

    @rule(place=Places, count=st.integers(1, 3), index=st.integers(0, 5), told=st.integers(1, 2))
    def a_run_ends(self, place: int, count: int, index: int, told: int) -> None:
        """A store that is told twice, because its answer was lost, keeps one end."""
        process = self.pick(place)
        if not process.active:
            return
        run = process.active.pop(index % len(process.active))
        done = ended(run, Outcome.COMPLETE, 2 * count)
        brought = [*samples(count, at=self.now()), *samples(count, DISTRIBUTION, at=self.now())]
        for _ in range(told):
            self.run(process.store.runs.end(done, brought))
        if self._read("SELECT 1 FROM runs WHERE id = %s AND outcome = 'Complete'", run.id):
            self.accepted[run.id] = 2 * count

    @rule(place=Places, answered=st.integers(0, 4))
    def mark(self, place: int, answered: int) -> None:
        """As the forwarder does: one request at a time."""
        process = self.pick(place)
        if process.sending:
            return
        chunks = self.run(process.store.outbox.claim(self.now(), 4_000_000, 10))
        if not chunks:
            self.run(process.store.outbox.recover())
        elif answered:
            process.sending = chunks
            self.handed.update(chunk.id for chunk in chunks if chunk.kind is Kind.DISTRIBUTION)
            assert not [id_ for id_, times in self.handed.items() if times > 1], "a distribution would be sent twice"

    @rule(place=Places, how=st.sampled_from(["delivered", "delivered", "unknown", "release"]))
    def settle(self, place: int, how: str) -> None:
        process = self.pick(place)
        chunks, process.sending = process.sending, []
        distributions = [chunk.id for chunk in chunks if chunk.kind is Kind.DISTRIBUTION]
        if how == "release":  # the intake refused it for now, so it has none of it
            self.handed.subtract(distributions)
        if how == "release" or (how == "unknown" and not distributions):
            self.run(process.store.outbox.release(chunks))
        else:
            self.run(process.store.outbox.settle(chunks, DeliveryStatus(how)))

    @rule(place=Places)
    def die(self, place: int) -> None:
        """As kill -9 does: it can say nothing any more."""
        process = self.pick(place)
        self.processes.remove(process)
        self.run(process.store._database.close())

    @rule(place=Places)
    def leave(self, place: int) -> None:
        self.settle(place, "delivered")
        process = self.pick(place)
        self.processes.remove(process)
        self.run(process.store.close())

    @invariant()
    def every_slot_is_carried_out_once(self) -> None:
        twice = "SELECT 1 FROM runs WHERE {} GROUP BY collector, {} HAVING count(*) > 1"
        assert not self._read(twice.format("outcome = 'Complete'", "slot"))
        assert not self._read(twice.format("cause <> 'retry'", "slot"))
        assert not self._read(twice.format("outcome IS NULL", "mode"))

    def teardown(self) -> None:
        try:
            if hasattr(self, "folder"):
                self._check_the_end()
        finally:
            for process in self.processes:
                self.run(process.store._database.close())
            self._stack.close()
            self._loop.close()

    def _check_the_end(self) -> None:
        """The replicas that live end what they began and send what waits; one starts where none is left."""
        self.pick(0)
        for _ in range(8):  # in which the dead are noticed
            self.time_passes(5, None)
        for place, process in enumerate(self.processes):
            self.settle(place, "delivered")
            for run in process.active:
                self.run(process.store.runs.end(ended(run)))
            while self.run(process.store.outbox.pending()).samples:
                self.mark(place, 1)
                self.settle(place, "delivered")
        self.every_slot_is_carried_out_once()
        assert not self._read("SELECT 1 FROM runs WHERE outcome IS NULL"), "a run that nobody carries out"
        assert not self._read("SELECT 1 FROM outbox WHERE status IN ('pending', 'sending')"), "a chunk that is stuck"
        found: Counter[str] = Counter()
        for run_id, status, count in self._read("SELECT run, status, samples FROM outbox"):
            assert status in ("delivered", "unknown")
            found[str(run_id)] += int(str(count))
        assert found == Counter(self.accepted)

    def _read(self, query: str, *values: str) -> list[tuple[object, ...]]:
        return list(self.connection.execute(query.encode(), values).fetchall())


def test_random_days_of_replicas(postgres_url: str) -> None:
    with closing(open_server(postgres_url)) as database, psycopg.connect(postgres_url, autocommit=True) as opened:
        prepare(database)

        class Machine(ReplicasMachine):
            url = postgres_url
            connection = opened

        few = settings(
            max_examples=6,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.reuse, Phase.generate),  # to shrink a sequence takes minutes
        )
        run_state_machine_as_test(Machine, settings=few)
