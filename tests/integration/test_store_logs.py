"""The log lines of a run live as long as the run."""

from datetime import timedelta
from pathlib import Path

import orjson

from service.adapters.store import SqliteStore
from service.domain.checks import Check
from service.domain.logged import Logged
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Evidence, Status
from tests.integration.store_cases import NOW


def ended(number: int) -> Run:
    at = NOW + timedelta(minutes=number)
    return Run(f"ci-{number}", Slot("ci", None, Cause.HTTP), at, at + timedelta(seconds=1), 1, Outcome.COMPLETE)


async def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=NOW)
    await store.end(ended(1), [], [], {})
    odd = {"n": 1, "big": 10**30, "lone \ud800": "\ud800", "deep": {"list": [1.5, None, True]}}
    lines = [Logged(NOW, "info", "run started", {"cause": "http"}), Logged(NOW, "error", "odd \ud800", odd)]
    await store.keep_log("ci-1", lines)
    first, second = await store.run_log("ci-1")
    assert first == lines[0]
    assert second.fields["deep"] == odd["deep"]
    assert second.fields["big"] == str(10**30)
    assert await store.run_log("ci-2") == []
    await store.keep_log("ci-2", lines)  # a run that could not be stored has no place for its lines
    assert await store.run_log("ci-2") == []
    await store.close()


async def test_many_lines_lose_their_middle(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=NOW)
    await store.end(ended(1), [], [], {})
    lines = [Logged(NOW, "debug", f"{number} {'x' * 1000}") for number in range(200)]
    await store.keep_log("ci-1", lines)
    kept = await store.run_log("ci-1")
    assert 10 < len(kept) < 40
    assert len(orjson.dumps([[line.message] for line in kept])) < 32 * 1024
    assert (kept[0], kept[-1]) == (lines[0], lines[-1])
    await store.close()


async def test_lines_leave_with_their_run(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=NOW, keep_ended=2)
    for number in range(4):
        await store.end(ended(number), [], [], {})
        await store.keep_log(f"ci-{number}", [Logged(NOW, "info", "run ended")])
    await store.prune(NOW + timedelta(hours=1))
    assert [bool(await store.run_log(f"ci-{number}")) for number in range(4)] == [False, False, True, True]
    await store.close()


async def test_checks_keep_their_evidence(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, now=NOW)
    behind = tuple(Evidence(f"run {number}", "https://h/1", NOW, "failure", "CI") for number in range(80))
    odd = (Evidence("lone \ud800"),)
    key = (("check", "flaky"),)
    red = Check(key, Status.FAIL, "< 10", NOW, 12.0, NOW, "flaky", behind)
    other = Check((("check", "other"),), Status.FAIL, "< 10", NOW, 12.0, NOW, "other", odd)
    await store.end(ended(1), [], [red, other], {})
    first, second = await store.checks("ci")
    assert first.evidence == behind[:50]
    assert second.evidence == (Evidence("lone ?"),)
    await store.close()
