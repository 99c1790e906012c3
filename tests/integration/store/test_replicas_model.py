"""Random days of replicas on one PostgreSQL: slots, deaths, stand-stills and deliveries in any order.

Each replica is a Store that does what a daemon does with it, step by step; its clock and the database's are the test's.
What holds at every step: of a slot one run at most completes, no two runs of a collector under Forbid are active, and
no distribution is handed out for sending twice. In the end every sample of a complete run was delivered or is unknown,
and nothing waits for a replica that is gone.
"""

import asyncio
import secrets
import tempfile
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import psycopg
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.config.settings import StoreSettings
from service.domain.delivery import Chunk, DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Run
from service.domain.samples import Kind
from service.store import Busy, Claim, Store, tables
from service.store import replicas as replicas_module
from service.store import runs as runs_module
from service.store.engine import open_server, prepare
from tests.store import ended, samples
from tests.unit.pipeline.stage import without_threads

REPLICAS = 3
COLLECTORS = ("ci", "evals")
EVERY = timedelta(seconds=30)
BEAT = 10
DEADLINE = timedelta(seconds=90)
START = datetime(2025, 1, 15, 10, tzinfo=UTC)

Places = st.integers(0, REPLICAS - 1)


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
        self.stack = ExitStack()
        self.run = self.stack.enter_context(asyncio.Runner()).run
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.elapsed = 0
        self.processes: list[Process] = []
        self.handed = Counter[int]()  # of distributions: how often a chunk was, less what was given back
        for table in tables.meta.sorted_tables:  # sooner done than to make them anew
            self.connection.execute(f"DELETE FROM {table.name}".encode())

        def database_now() -> sa.ColumnElement[int]:
            return sa.literal_column(f"{tables.to_micros(self.now())}::bigint", sa.BigInteger)

        self.stack.enter_context(without_threads())
        for module in (replicas_module, runs_module):
            self.stack.enter_context(patch.object(module, "database_now", database_now))
        clock = SimpleNamespace(monotonic=lambda: self.elapsed)
        self.stack.enter_context(patch.object(replicas_module, "time", clock))
        for _ in range(REPLICAS):
            self.start()
        self.a_slot_comes(lost=None, is_short=True)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)

    def read(self, query: str) -> list[tuple[object, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def start(self) -> None:
        limits = StoreSettings.model_validate({"url": self.url, "dead_after": timedelta(seconds=4 * BEAT)})
        self.processes.append(Process(self.run(Store.open(self.folder, limits, self.now, replica=("pod", "2.0")))))
        self.beat(self.processes[-1])

    def beat(self, process: Process) -> None:
        def may_repeat(run: Run) -> bool:
            return run.slot is not None and self.now() - run.slot <= DEADLINE

        assert process.store.replicas
        seen = self.run(process.store.replicas.beat(may_repeat, process.lost))
        process.active = [*([] if seen.is_new else process.active), *seen.repeats]
        process.slots |= {collector: at for (collector, _), at in seen.slots.items()}
        process.lost = set(seen.own - {run.id for run in process.active})

    @rule(beats=st.sampled_from([1, 3, 6]), standing=st.one_of(st.none(), Places))
    def time_passes(self, beats: int, standing: int | None = None) -> None:
        """Who stands still gives no sign of life meanwhile; the others do as often as they have to."""
        for _ in range(beats):
            self.elapsed += BEAT
            for place, process in enumerate(self.processes):
                if place != standing:
                    self.beat(process)

    @rule(lost=st.one_of(st.none(), Places), is_short=st.booleans())
    def a_slot_comes(self, lost: int | None, is_short: bool) -> None:
        """All want it. One may not hear the answer, as if the database were away; runs may end before the next asks."""
        slot = START + (self.now() - START) // EVERY * EVERY
        if any(at == slot for process in self.processes for at in process.slots.values()):
            self.time_passes(3)
            slot += EVERY
        for place, process in enumerate(self.processes):
            active = {run.collector for run in process.active}
            claims = [
                Claim(
                    Run(secrets.token_hex(8), collector, Cause.SCHEDULE, self.now(), slot, owner=process.store.owner),
                    process.slots.get(collector),
                    forbids=True,
                )
                for collector in COLLECTORS
                if process.slots.get(collector) != slot and collector not in active
            ]
            with suppress(Unavailable):  # it was taken for dead
                results = self.run(process.store.runs.claim_slots(claims)) if claims else []
                for claim, result in zip(claims, [] if place == lost else results, strict=False):
                    if result is True:
                        process.active.append(claim.run)
                    if not isinstance(result, Busy):
                        process.slots[claim.run.collector] = slot
            if is_short:
                self.a_run_ends(place)
            self.send(place, "delivered")

    @rule(place=Places)
    def a_run_ends(self, place: int) -> None:
        """The store is told twice, as where its answer was lost, and keeps one end."""
        process = self.processes[place]
        if process.active:
            done = ended(process.active.pop(0), count=5)
            for _ in range(2):
                brought = [*samples(2, at=self.now()), *samples(3, Kind.DISTRIBUTION, at=self.now())]
                self.run(process.store.runs.end(done, brought))

    @rule(place=Places, how=st.sampled_from(["delivered", "unknown", "refused", "lost"]))
    def send(self, place: int, how: str) -> None:
        """As the forwarder does, one request at a time: what was claimed is answered next."""
        process = self.processes[place]
        chunks, process.sending = process.sending, []
        distributions = [chunk.id for chunk in chunks if chunk.kind is Kind.DISTRIBUTION]
        if how == "refused":  # for now, so the intake has none of it
            self.handed.subtract(distributions)
        if chunks and (how == "refused" or (how != "delivered" and not distributions)):
            self.run(process.store.outbox.release(chunks))
        elif chunks:
            status = DeliveryStatus.DELIVERED if how == "delivered" else DeliveryStatus.UNKNOWN
            self.run(process.store.outbox.settle(chunks, status))
        elif not (claimed := self.run(process.store.outbox.claim(self.now(), 4_000_000, 1_000))):
            self.run(process.store.outbox.recover())
        elif how != "lost":
            process.sending = claimed
            self.handed.update(chunk.id for chunk in claimed if chunk.kind is Kind.DISTRIBUTION)
            assert max(self.handed.values(), default=0) <= 1, "a distribution would be sent twice"

    @rule(place=Places, in_order=st.booleans())
    def a_replica_is_renewed(self, place: int, in_order: bool) -> None:
        """After kill -9, where not in order: then it can say nothing any more."""
        if in_order and self.processes[place].sending:
            self.send(place, "delivered")
        store = self.processes.pop(place).store
        self.run(store.close() if in_order else store._database.close())
        self.start()

    @invariant()
    def every_slot_is_carried_out_once(self) -> None:
        twice = "SELECT 1 FROM runs WHERE {} GROUP BY collector, {} HAVING count(*) > 1"
        assert not self.read(twice.format("outcome = 'Complete'", "slot"))
        assert not self.read(twice.format("true", "slot, cause")), "claimed twice, or repeated twice"
        assert not self.read(twice.format("outcome IS NULL", "mode"))

    def teardown(self) -> None:
        with self.stack:
            self.check_the_end()
            for process in self.processes:
                self.run(process.store._database.close())

    def check_the_end(self) -> None:
        """The replicas that live end what they began and send what waits."""
        self.a_slot_comes(lost=0, is_short=False)
        self.time_passes(8)  # in which the dead are noticed, and runs that nobody carries out
        for place, process in enumerate(self.processes):
            while process.active:
                self.a_run_ends(place)
            for _ in range(12):  # of both endpoints what is in the air, what waits, and what a lost claim had marked
                self.send(place, "delivered")
        self.every_slot_is_carried_out_once()
        assert not self.read("SELECT 1 FROM runs WHERE outcome IS NULL"), "a run that nobody carries out"
        assert not self.read("SELECT 1 FROM outbox WHERE status NOT IN ('delivered', 'unknown')"), "a chunk is stuck"
        kept = "SELECT run AS id, sum(samples) AS kept FROM outbox GROUP BY run"
        differs = "coalesce(kept, 0) <> coalesce(samples, 0)"
        assert not self.read(f"SELECT 1 FROM runs FULL JOIN ({kept}) AS chunks USING (id) WHERE {differs}")


def test_random_days_of_replicas(postgres_url: str) -> None:
    with closing(open_server(postgres_url)) as database, psycopg.connect(postgres_url, autocommit=True) as opened:
        prepare(database)

        class Machine(ReplicasMachine):
            url = postgres_url
            connection = opened

        few = settings(
            max_examples=4,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.reuse, Phase.generate),  # to shrink a sequence takes minutes
        )
        run_state_machine_as_test(Machine, settings=few)
