"""The history behind the board: it follows the runs, stays bounded, and outlives what it came from."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.adapters.store import SqliteStore
from service.domain import checks
from service.domain.checks import Check
from service.domain.history import CYCLES, Cell, CheckHistory, Cycle, Hour, check_id
from service.domain.points import Fate
from service.domain.runs import Cause, Fault, Outcome, Run, Slot
from service.domain.samples import Metric, Sample, Status

START = datetime(2025, 1, 14, 15, tzinfo=UTC)
METRIC = Metric("ci.x")
TAGS = {"source": "cron", "workflow_category": "ci", "workflow_name": "main", "task": "t", "check": "c"}
DAY = timedelta(hours=24)


async def cycle(
    store: SqliteStore,
    number: int,
    value: float | None,
    status: Status = Status.PASS,
    *,
    measured: datetime | None = None,
    every: timedelta = timedelta(minutes=10),
    outcome: Outcome = Outcome.COMPLETE,
) -> Run:
    """One ended run as the pipeline keeps it."""
    at = START + number * every
    run = Run(f"ci-{number:05}", Slot("ci", at, Cause.SCHEDULE), at)
    await store.begin(run)
    brought = [] if value is None else [Sample(METRIC, value, at, {**TAGS, "status": status}, measured)]
    known = checks.updated(await store.checks("ci"), brought, [], at)
    faults = () if outcome.succeeded else (Fault("no answer"),)
    ended = replace(run, ended=at + timedelta(seconds=2), outcome=outcome, faults=faults, attempts=1)
    await store.end(ended, [*brought, *checks.to_samples(known, at, DAY)], known, {})
    return ended


@dataclass
class Seen:
    cycles: list[Cycle]
    cells: list[Cell | None]
    hours: tuple[Hour, ...]


async def history(store: SqliteStore, most: int = 60) -> Seen:
    """The job's one check as a board reads it."""
    cycles = (await store.cycles({"ci": 0}, most)).get("ci", [])
    checks_of_job = (await store.checks_of(["ci"])).get("ci", [])
    ids = [check_id("ci", check.key) for check in checks_of_job]
    found = await store.check_histories(ids, [each.number for each in cycles], START - timedelta(days=7))
    one = found[ids[0]] if ids else CheckHistory()
    return Seen(cycles, [one.cells.get(each.number) for each in cycles], one.hours)


async def test_each_ended_run_is_a_cycle_with_the_state_of_each_check(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START)
    await cycle(store, 0, 1.0)
    await cycle(store, 1, 7.0, Status.FAIL)
    await cycle(store, 2, None, outcome=Outcome.FAILED)
    found = await history(store)
    assert [(each.run, each.outcome, each.seconds) for each in found.cycles] == [
        ("ci-00000", Outcome.COMPLETE, 2.0),
        ("ci-00001", Outcome.COMPLETE, 2.0),
        ("ci-00002", Outcome.FAILED, 2.0),
    ]
    assert found.cells == [
        Cell(Status.PASS, False, 1.0),
        Cell(Status.FAIL, False, 7.0),
        Cell(Status.FAIL, True, 7.0),  # the run failed: what is known is carried over
    ]
    (hour,) = found.hours
    assert (hour.low, hour.high, hour.last, hour.failed) == (1.0, 7.0, 7.0, True)
    assert await store.last_cycles(["ci", "other"]) == {"ci": found.cycles[-1].number}
    await store.close()


async def test_a_value_that_was_not_measured_anew_is_carried_and_becomes_unknown_with_age(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START)
    for number in range(3):
        await cycle(store, number, 1.0, measured=START, every=timedelta(hours=20))
    found = await history(store)
    assert found.cells == [
        Cell(Status.PASS, False, 1.0),
        Cell(Status.PASS, True, 1.0),
        Cell(Status.UNKNOWN, True, None),
    ]
    await store.close()


async def test_cycles_are_bounded_and_outlive_the_record_of_their_run(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START, keep_ended=5)
    for number in range(CYCLES + 5):
        await cycle(store, number, float(number))
    await store.settle([point.id for point in await store.waiting(10_000)], Fate.DELIVERED)
    await store.prune(START + timedelta(days=1))
    found = await history(store, 1000)
    assert len(found.cycles) == CYCLES
    assert None not in found.cells
    assert found.hours[0].at == START
    oldest = found.cycles[0]
    assert await store.run(oldest.run) is None
    assert await store.cycle(oldest.run) == ("ci", oldest)
    assert await store.cycle("ci-00000") is None
    await store.close()


async def test_hours_and_cycles_leave_after_their_days(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START)
    for number in range(10):
        await cycle(store, number, 1.0, every=timedelta(hours=24))
    await store.prune(START + timedelta(days=9))
    found = await history(store)
    assert [each.at for each in found.hours] == [START + timedelta(days=day) for day in range(2, 10)]
    assert found.cycles[0].run == "ci-00002"
    await store.close()


async def test_a_run_that_a_crash_cut_off_is_a_cycle_too(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START)
    await store.begin(Run("ci-1", Slot("ci", None, Cause.HTTP), START))
    await store.close()
    store = await SqliteStore.open(tmp_path, now=START + timedelta(minutes=1))
    assert [(each.run, each.outcome) for each in (await history(store)).cycles] == [("ci-1", Outcome.INTERRUPTED)]
    await store.close()


async def test_many_jobs_are_read_at_once_each_with_its_own(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=START)
    for number in range(3):
        await cycle(store, number, 1.0)
    other = Check((("source", "x"),), Status.UNKNOWN, "", START)
    run = Run("b-1", Slot("b", None, Cause.HTTP), START, START, 1, Outcome.COMPLETE)
    await store.end(run, [], [other], {})
    found = await store.cycles({"ci": 0, "b": 0, "never": 0}, 2)
    assert {name: [each.run for each in cycles] for name, cycles in found.items()} == {
        "ci": ["ci-00001", "ci-00002"],
        "b": ["b-1"],
    }
    newer = await store.cycles({"ci": found["ci"][0].number, "b": found["b"][0].number}, 60)
    assert {name: [each.run for each in cycles] for name, cycles in newer.items()} == {"ci": ["ci-00002"]}
    assert (await store.checks_of(["b", "never"])) == {"b": [other]}
    await store.close()
