"""Runs, slots, checks, state and notifications, on each of the databases."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from service.domain.checks import CHECK_STATE, check_id
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Actor, AuditEntry, Cause, LogLine, Mode, Outcome, Pause
from service.domain.samples import Evidence, Sample, Status
from service.store import Busy, Claim, Store
from service.store.checks import Cell, Hour
from service.store.states import MAX_PUSHES, READ_PUSH
from tests.integration.store.cases import KEY, MINUTE, NOW, check, claim_slot, deliver, ended, keep, samples, started


async def test_a_slot_is_claimed_once_and_only_rises(store: Store) -> None:
    assert await claim_slot(store, started(2), None, forbids=False)
    assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + 2 * MINUTE}
    assert not await claim_slot(store, started(3), None, forbids=False)  # somebody had one before
    assert not await claim_slot(store, started(1), NOW + 2 * MINUTE, forbids=False)  # the clock stepped back
    assert await claim_slot(store, started(3), NOW + 2 * MINUTE, forbids=False)
    assert await store.runs.slots(Mode.SHADOW) == {}  # claimed apart
    assert await claim_slot(store, replace(started(1), id="a", mode=Mode.SHADOW), None, forbids=True)
    assert await store.runs.slots(Mode.SHADOW) == {"ci": NOW + MINUTE}
    await store.runs.end(replace(started(1), id="a", mode=Mode.SHADOW, ended=NOW, outcome=Outcome.FAILED))
    assert [run.id for run in await store.runs.list()] == [started(3).id, started(2).id, "a"]


async def test_forbid_costs_no_slot_and_of_slots_that_are_claimed_together_each_is_judged_by_itself(
    store: Store,
) -> None:
    await store.runs.begin(started(0, "busy"), forbids=True)
    with pytest.raises(Busy):
        await store.runs.begin(started(1, "busy"), forbids=True)
    await store.runs.begin(started(1, "busy"), forbids=False)
    await claim_slot(store, started(1), None, forbids=False)
    claims = [Claim(started(2, name), None, forbids=True) for name in ("ci", "evals", "busy", "gpu")]
    stale, won, busy, also_won = await store.runs.claim_slots(claims)
    assert (stale, won, also_won) == (False, True, True)
    assert isinstance(busy, Busy)
    assert busy.run_id == started(0, "busy").id
    assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + MINUTE} | dict.fromkeys(("evals", "gpu"), NOW + 2 * MINUTE)
    assert await store.runs.run(started(2).id) is None
    await store.runs.end(ended(started(0, "busy")))
    assert await claim_slot(store, started(3, "busy"), None, forbids=True)


async def test_an_ended_run_is_kept_with_all_that_it_brought_and_its_end_can_be_repeated(store: Store) -> None:
    """The answer to the first may have been lost. What a later one says does not count."""
    await store.runs.begin(started(), forbids=True)
    assert (await store.runs.run(started().id)) == started()
    done = ended(started(), Outcome.PARTIAL, 2)
    await store.runs.end(done, samples(2), [check()], {"cursor": b"7"})
    assert await store.outbox.counts([done.id]) == {done.id: {DeliveryStatus.PENDING: 2}}
    await deliver(store)
    await store.runs.end(replace(done, outcome=Outcome.FAILED), samples(3), [], {"cursor": b"8"})
    assert await store.runs.run(done.id) == done
    assert await store.checks.read("ci") == [check()]
    assert await store.states.read("ci", "cursor") == (b"7", 1)
    assert await store.outbox.counts([done.id]) == {done.id: {DeliveryStatus.DELIVERED: 2}}


async def test_runs_are_listed_newest_first_and_page_by_page(store: Store) -> None:
    bad = (Outcome.FAILED, Outcome.FAILED, Outcome.INTERRUPTED)
    for number in range(6):
        await keep(store, started(number), outcome=bad[number // 2] if number % 2 else Outcome.COMPLETE)
    await keep(store, started(9, "evals"))
    ids = [started(number).id for number in range(6)]
    assert [run.id for run in await store.runs.list("ci", limit=2)] == [ids[5], ids[4]]
    assert [run.id for run in await store.runs.list("ci", limit=2, before=ids[4])] == [ids[3], ids[2]]
    assert [run.id for run in await store.runs.list(outcome=Outcome.FAILED)] == [ids[3], ids[1]]
    assert [run.id for run in await store.runs.list("ci", since=NOW + 4 * MINUTE)] == [ids[5], ids[4]]
    assert (await store.runs.list(limit=1))[0].collector == "evals"
    latest = {name: run.id for name, run in (await store.runs.latest()).items()}
    assert latest == {"ci": ids[5], "evals": started(9, "evals").id}
    assert {name: run.id for name, run in (await store.runs.last_failures()).items()} == {"ci": ids[5]}
    assert await store.runs.last_successes() == {
        "ci": NOW + 4 * MINUTE + timedelta(seconds=9),
        "evals": NOW + 9 * MINUTE + timedelta(seconds=9),
    }


async def test_runs_by_webhook_push_no_other_out_draw_no_bar_and_say_nothing_of_health(store: Store) -> None:
    polled = await keep(store, started(), checks=[check()])
    failed = await keep(store, started(1), outcome=Outcome.FAILED)
    for number in range(2, 20):
        outcome = Outcome.FAILED if number % 2 else Outcome.COMPLETE
        await keep(store, replace(started(number), cause=Cause.WEBHOOK), outcome=outcome, checks=[check()])
    store.history_limits = {"ci": (3, 4)}
    await store.prune(NOW)
    kept = [run.id for run in await store.runs.list(limit=1000)]
    assert len(kept) == 9
    assert {polled.id, failed.id} <= set(kept)
    assert await store.runs.latest() == {"ci": failed}
    assert await store.runs.last_failures() == {"ci": failed}
    assert await store.runs.last_successes() == {"ci": polled.ended}
    assert [cycle.run for cycle in (await store.checks.histories(["ci"], {}, NOW))[0]["ci"]] == [polled.id, failed.id]


async def test_pauses_audit_and_logs_are_kept(store: Store) -> None:
    pause = Pause("ci", NOW, Actor("127.0.0.1", "ann", "release"))
    for _ in range(2):
        await store.runs.pause(pause)
    assert await store.runs.pauses() == {"ci": pause}
    await store.runs.resume("ci")
    assert await store.runs.pauses() == {}
    entries = [AuditEntry(NOW, f"action {number}", Actor("signal"), "ci", "run") for number in range(5)]
    for entry in entries:
        await store.runs.audit(entry)
    assert await store.runs.audit_entries(2) == [entries[4], entries[3]]
    lines = [LogLine(NOW, "info", f"line {number}", {"n": number}) for number in range(3)]
    await store.runs.save_log("run", lines)
    await store.runs.save_log("run", lines[:2])  # in place of those before
    assert (await store.runs.log("run"), await store.runs.log("other")) == (lines[:2], [])


async def test_text_from_anywhere_is_taken(store: Store) -> None:
    """No NUL for PostgreSQL, no half of a surrogate pair for anybody."""
    await store.runs.audit(AuditEntry(NOW, "trigger", Actor("::1", "a\0b", "\ud83d reason"), "ci"))
    (entry,) = await store.runs.audit_entries()
    assert entry.actor.reason == "? reason"
    odd = replace(check(), condition="a\0\ud83d", evidence=(Evidence("\ud83d"),))
    sample = Sample(CHECK_STATE, 1, NOW, {"t": "\ud83d"}, evidence=(Evidence("\ud83d"),))
    await keep(store, started(), [sample], checks=[odd])
    assert (await store.checks.read("ci"))[0].condition == "a?"
    assert await deliver(store) == 1


async def test_losses_are_counted_by_the_time_of_the_loss(store: Store) -> None:
    await keep(store, started(mode=Mode.SHADOW), samples(1))
    await deliver(store, DeliveryStatus.THROTTLED)  # withheld by shadow mode is not lost
    await store.runs.end(ended(started(1), count=3), samples(3))  # never begun on record
    await deliver(store, DeliveryStatus.REJECTED)
    assert await store.outbox.lost("ci", NOW) == {DeliveryStatus.REJECTED: 3}
    assert await store.outbox.lost("ci", NOW + MINUTE) == {}
    assert await store.outbox.lost("evals", NOW) == {}


# State and pushes


async def test_state_is_written_only_where_nobody_wrote_meanwhile(store: Store) -> None:
    await store.states.write("ci", {"k": b"0"})
    assert await store.states.read("ci", "k") == (b"0", 1)
    await store.states.write("ci", {"k": b"webhook"})
    await keep(store, started(), state={"k": b"run", "other": b"1"}, revisions={"k": 1, "other": 0})
    assert await store.states.read("ci", "k") == (b"webhook", 2)
    assert await store.states.read("ci", "other") == (b"1", 1)
    for number, value in enumerate((None, b"1"), 1):  # a deleted key is not taken for the one before
        await keep(store, started(number), state={"other": value})
        assert await store.states.read("ci", "other") == (value, number + 1)
    await store.states.write("ci", {"a_/x": b"1", "a_/y": b"2", "ab/z": b"3", "a_/gone": None})
    await store.states.write("other", {"a_/x": b"4"})
    assert await store.states.read_all("ci", "a_/") == {"a_/x": b"1", "a_/y": b"2"}


async def test_pushes_wait_until_a_run_has_read_them_and_too_many_are_refused_for_now(store: Store) -> None:
    async def push(key: str, body: bytes, at: datetime = NOW, max_bytes: int = 10_000) -> None:
        await store.states.add_push("evals", key, body, at, max_bytes=max_bytes)

    await push("a", b"1")
    await push("b", b"2" * 100, NOW + MINUTE)
    assert [pushed.at for pushed in await store.states.pushes("evals")] == [NOW, NOW + MINUTE]
    await push("b", b"3")
    first, again = await store.states.pushes("evals")
    assert (first.body, again.body) == (b"1", b"3")
    await keep(store, started(0, "evals"), state={READ_PUSH: str(first.id).encode()})
    assert await store.states.pushes("evals") == [again]
    await keep(store, started(1, "evals"), state={READ_PUSH: str(again.id).encode()})
    assert await store.states.pushes("evals") == [replace(again, is_read=True)]
    with pytest.raises(Unavailable):
        await push("c", b"x", max_bytes=-1)
    for number in range(MAX_PUSHES):
        await push(str(number), b"x")
    with pytest.raises(Unavailable, match="too many pushed") as refusal:
        await push("more", b"x")
    assert refusal.value.retry_after


# History


async def test_a_board_reads_cycles_cells_and_hours(store: Store) -> None:
    number = check_id("ci", KEY)
    values = [(Status.PASS, 1.0, 0), (Status.FAIL, 7.0, 1), (Status.FAIL, 7.0, 1), (Status.UNKNOWN, None, 3)]
    for minute, (status, value, measured) in enumerate(values):
        of_run = check(status, value, NOW + measured * MINUTE)
        await keep(store, started(minute), checks=[of_run])
    cycles = (await store.checks.histories(["ci", "evals"], {}, NOW))[0]["ci"]
    assert [cycle.run for cycle in cycles] == [started(minute).id for minute in range(4)]
    assert (cycles[1].started, cycles[1].seconds, cycles[1].outcome) == (NOW + MINUTE, 9.0, "Complete")
    assert (await store.checks.histories(["ci"], {}, NOW, 2))[0]["ci"] == cycles[2:]
    assert await store.checks.cycle(cycles[2].run) == ("ci", cycles[2])
    assert await store.checks.cycle("none") is None

    numbers = [cycle.number for cycle in cycles]
    found = (await store.checks.histories(["ci"], {"ci": [number]}, NOW))[1][number]
    assert [found.cells[each] for each in numbers] == [
        Cell("pass", False, 1.0),
        Cell("fail", False, 7.0),
        Cell("fail", True, 7.0),
        Cell("unknown", False, None),
    ]
    assert found.hours == (Hour(NOW, 1.0, 7.0, 7.0, True, 5.0),)
    assert (await store.checks.histories(["ci"], {"ci": [5]}, NOW))[1][5].cells == {}
