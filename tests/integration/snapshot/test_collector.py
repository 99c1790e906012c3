"""The snapshot collector from source or push to samples, over several runs."""

import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.collectors.snapshot import SNAPSHOT_AGE
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized
from service.domain.runs import CollectResult
from tests.integration.snapshot.conftest import Collectors
from tests.integration.snapshot.scripted import Answer, Received, scripted

RECORDED = Path(__file__).parents[2] / "payloads" / "snapshots"
EVAL = (RECORDED / "eval_health.json").read_bytes()
NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
RECORD = {**json.loads(EVAL)[0], "timestamp": None}


def snapshot_of(*changes: dict[str, Any]) -> bytes:
    return json.dumps([RECORD | change for change in changes]).encode()


def values(result: CollectResult) -> list[float]:
    return [sample.value for sample in result.samples]


async def test_a_snapshot_file_becomes_samples_until_it_is_too_old(collectors: Collectors) -> None:
    path = str(RECORDED / "eval_health.json")
    await collectors.end(CollectResult(state={"snapshot": b"of another shape: a cold start"}))
    result = await collectors.make(path, max_bytes="2 MiB").collect(NOW)
    assert [sample.metric.name for sample in result.samples] == [
        "metta.infra.cron.remote_eval.latency_p50",
        "metta.infra.cron.remote_eval.pass_rate",
    ]
    assert {sample.tags["source"] for sample in result.samples} == {"cron"}
    assert {sample.tags["workflow_category"] for sample in result.samples} == {"evaluation"}
    with pytest.raises(Rejected, match=r"no usable record among 2: record 1: it is 365 days old, older than max_age"):
        await collectors.make(path).collect(NOW.replace(year=2026))
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        await collectors.make(path, max_bytes="100").collect(NOW)
    with pytest.raises(TooLarge, match="more than 1 records"):
        await collectors.make(path, max_records=1).collect(NOW)


async def test_a_file_that_is_whole_a_second_later_is_read(collectors: Collectors, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes(gzip.compress(EVAL)[:100])

    async def finish() -> None:
        await anyio.sleep(0.3)
        path.write_bytes(gzip.compress(EVAL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finish)
        result = await collectors.make(str(path)).collect(NOW)
    assert len(result.samples) == 2


async def test_a_count_is_sent_once_even_while_the_store_is_lost(collectors: Collectors, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps([record | {"metric_kind": "count"} for record in json.loads(EVAL)]))
    snapshot = collectors.make(str(path))
    assert len((await collectors.run(snapshot, NOW)).samples) == 2
    collectors.connection.is_lost = True
    assert (await snapshot.collect(NOW)).samples == ()
    collectors.connection.is_lost = False
    assert (await collectors.make(str(path)).collect(NOW)).samples == ()


async def test_the_age_of_the_snapshot_is_told_even_when_the_run_fails(collectors: Collectors, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes(EVAL)
    os.utime(path, (NOW.timestamp() - 1800,) * 2)
    snapshot = collectors.make(str(path))
    assert snapshot.own_values(NOW) == {}
    await snapshot.collect(NOW)
    assert snapshot.own_values(NOW) == {SNAPSHOT_AGE: 1800}
    with pytest.raises(Rejected, match="no usable record"):
        await snapshot.collect(NOW + timedelta(days=2))
    assert snapshot.own_values(NOW + timedelta(days=2)) == {SNAPSHOT_AGE: 1800 + 2 * 86400}


# What is expected


def told(result: CollectResult) -> tuple[list[str], list[str]]:
    """The checks without data, and the failures."""
    return [f"{each.tags['check']}: {each.summary}" for each in result.no_data], [str(each) for each in result.failures]


async def test_a_check_that_a_snapshot_lost_is_missing_at_once_even_after_a_restart(
    collectors: Collectors, tmp_path: Path
) -> None:
    path, names = tmp_path / "eval.json", "{workflow_name}/{task}".format(**RECORD)
    expect, now = [f"{names}/speed", f"{names}/*"], datetime.now(UTC)
    path.write_bytes(snapshot_of({}, {"check": "speed", "tags": {"repo": "a/b"}}))
    assert told(await collectors.run(collectors.make(str(path), expect=expect), now)) == ([], [])
    path.write_bytes(snapshot_of({}))
    result = await collectors.run(collectors.make(str(path), expect=expect), now)
    assert told(result) == (["speed: the last snapshot has no check of this name"], [])
    assert result.no_data[0].tags["repo"] == "a/b", "it is the check that was there"
    path.write_bytes(snapshot_of({"value": "x"}))
    with pytest.raises(Rejected):  # and nothing is said of what was expected
        await collectors.make(str(path), expect=expect).collect(now)
    path.write_bytes(snapshot_of({"workflow_name": "other"}))
    result = await collectors.run(collectors.make(str(path), expect=expect), now)
    assert told(result)[1] == [f'expect "{names}/*": the snapshot has no check of such a name']


async def test_a_record_that_is_too_old_is_there_and_says_so_itself(collectors: Collectors, tmp_path: Path) -> None:
    path, now = tmp_path / "eval.json", datetime.now(UTC)
    old = {"check": "old", "timestamp": (now - timedelta(days=2)).isoformat()}
    path.write_bytes(snapshot_of({}, old))
    snapshot = collectors.make(str(path), expect=["{workflow_name}/{task}/old".format(**RECORD)])
    assert told(await snapshot.collect(now))[0] == ["old: its value is older than 24 h"]


async def test_a_push_of_one_pipeline_leaves_the_others_as_they_are(collectors: Collectors) -> None:
    arena, nightly = ({"workflow_name": name, "task": "t", "check": "c"} for name in ("arena", "nightly"))
    snapshot, now = collectors.make(None, expect=["arena/t/c", "nightly/t/c"]), datetime.now(UTC)
    missing: list[list[str]] = []
    for number, body in enumerate((snapshot_of(arena), snapshot_of(nightly), snapshot_of(arena))):
        await snapshot.accept(body, str(number), now)
        missing.append([each.tags["workflow_name"] for each in (await collectors.run(snapshot, now)).no_data])
    assert missing == [["nightly"], [], []]


# The age of what HTTP servers hold


def dated(body: bytes, date: datetime, modified: datetime | None) -> Answer:
    headers = {"Date": format_datetime(date, usegmt=True)}
    if modified:
        headers["Last-Modified"] = format_datetime(modified, usegmt=True)
    return Answer(200, body, headers)


@pytest.mark.parametrize("offset", [None, 0, 4], ids=["no Last-Modified", "now", "just now"])
async def test_content_that_is_unchanged_is_as_old_as_when_it_was_first_seen(
    offset: int | None, collectors: Collectors
) -> None:
    """... over runs and restarts, wherever its server dates each answer anew or not at all."""

    def answer(body: bytes, now: datetime) -> Answer:
        return dated(body, now, None if offset is None else now - timedelta(seconds=offset))

    times = [NOW + timedelta(hours=hours) for hours in (0, 1, 23, 25, 26)]
    bodies = [snapshot_of({}, {"check": "other"})] * 4 + [snapshot_of({"value": 2})]
    async with scripted(*(answer(body, now) for body, now in zip(bodies, times, strict=True))) as server:
        measured = [
            {sample.measured for sample in (await collectors.run(collectors.make(server.url), now)).samples}
            for now in times[:3]
        ]
        assert measured == [{NOW}] * 3
        with pytest.raises(Rejected, match=r"it is 25 h old, older than max_age"):
            await collectors.make(server.url).collect(times[3])
        assert [sample.measured for sample in (await collectors.make(server.url).collect(times[4])).samples] == [
            times[4]
        ]


async def test_a_time_from_the_future_keeps_nothing_fresh(collectors: Collectors, tmp_path: Path) -> None:
    """Neither that of a file nor what our own clock told while it was ahead."""
    path, now = tmp_path / "eval.json", datetime.now(UTC)
    path.write_bytes(snapshot_of({}))
    os.utime(path, (4e9, 4e9))
    for at in (now + timedelta(days=300), now):
        assert values(await collectors.run(collectors.make(str(path)), at)) == [RECORD["value"]]
    with pytest.raises(Rejected, match="older than max_age"):
        await collectors.make(str(path)).collect(now + timedelta(hours=24, minutes=1))


async def test_a_last_modified_that_tells_is_evidence(collectors: Collectors) -> None:
    published = NOW - timedelta(hours=3)
    count = snapshot_of({}, {"check": "n", "metric_kind": "count", "timestamp": NOW.isoformat()})
    async with scripted(
        dated(count, NOW, published),
        dated(count, NOW + timedelta(hours=2), published),
        dated(count, NOW + timedelta(hours=3), NOW + timedelta(hours=2)),
    ) as server:
        runs = [
            (await collectors.run(collectors.make(server.url), NOW + timedelta(hours=hours))).samples
            for hours in (0, 2, 3)
        ]
    assert [run[0].measured for run in runs] == [published, published, NOW + timedelta(hours=2)]
    assert [len(run) for run in runs] == [2, 1, 1]  # the count was sent once


async def test_a_count_without_a_time_is_sent_once_while_the_content_is_the_same(collectors: Collectors) -> None:
    """Right after its publication the date proves nothing, an hour later it does: it is the same publication."""
    count = snapshot_of({"metric_kind": "count"})
    answers = [dated(count, NOW + timedelta(hours=hours), NOW - timedelta(seconds=2)) for hours in (0, 1)]
    sent = []
    async with scripted(*answers, dated(count, NOW + timedelta(hours=2), NOW + timedelta(hours=1.9))) as server:
        for hours in (0, 1, 2):
            result = await collectors.run(collectors.make(server.url), NOW + timedelta(hours=hours))
            sent.append(len(result.samples))
    assert sent == [1, 0, 1]


# Pushes


async def test_without_source_and_push_the_collector_waits_for_one(collectors: Collectors) -> None:
    snapshot = collectors.make(None)
    waits = [snapshot.waits_for]
    with pytest.raises(ConfigError, match=r"set collectors\.nightly\.source or EVAL_HEALTH_FILE to a path"):
        await snapshot.collect(NOW)
    await snapshot.accept(EVAL, "a", NOW)
    waits.append(snapshot.waits_for)
    restarted = collectors.make(None)
    waits.append(restarted.waits_for)
    assert await restarted.load()  # a run is due: none has read it
    waits.append(restarted.waits_for)
    assert waits == ["waiting for a first push", None] * 2
    await collectors.run(restarted, NOW)
    assert not await restarted.load()


async def test_a_pushed_snapshot_is_read_until_the_source_is_newer(collectors: Collectors, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    snapshot = collectors.make(str(path))
    await snapshot.accept(gzip.compress(snapshot_of({"value": 1})), "a", NOW)
    result = await snapshot.collect(NOW)
    assert values(result) == [1]
    assert "nothing is there" in str(result.failures[0])
    path.write_bytes(snapshot_of({"value": 2}))
    await collectors.end(result)
    for seconds, value in ((-1, 1), (1, 2)):
        os.utime(path, (NOW.timestamp() + seconds,) * 2)
        result = await collectors.make(str(path)).collect(NOW)
        assert (values(result), result.failures) == ([value], ())


async def test_a_count_that_is_pushed_twice_with_one_key_is_sent_once(collectors: Collectors) -> None:
    snapshot = collectors.make(None)
    counts = []
    for key in ("a", "a", "b"):
        await snapshot.accept(snapshot_of({"metric_kind": "count"}), key, NOW)
        counts.append(len((await collectors.run(snapshot, NOW)).samples))
    assert counts == [1, 0, 1]
    # One that grew too old does not stop the newer ones.
    await snapshot.accept(snapshot_of({"check": "old"}), "c", NOW - timedelta(days=2))
    await snapshot.accept(snapshot_of({"value": 7}), "d", NOW)
    result = await collectors.run(snapshot, NOW)
    assert values(result) == [7]
    assert "no usable record among 1" in str(result.failures[0])


async def test_of_pushes_that_come_before_a_run_none_is_lost(collectors: Collectors) -> None:
    """Counts of all, the checks of each; of a gauge that several have the newest value."""
    for number, key in enumerate("abc"):
        body = snapshot_of(
            {"metric": "shared", "value": number},
            {"metric": "runs", "metric_kind": "count", "value": number + 1},
            {"metric": f"own_{key}", "check": key},
        )
        await collectors.make(None).accept(body, key, NOW + timedelta(seconds=number))
    result = await collectors.run(collectors.make(None), NOW + timedelta(seconds=5))
    found = sorted((sample.metric.name.rpartition(".")[2], sample.value) for sample in result.samples)
    assert [each for each in found if each[0] == "runs"] == [("runs", 1), ("runs", 2), ("runs", 3)]
    assert [each for each in found if each[0] == "shared"] == [("shared", 2)]
    assert [name for name, _ in found if name.startswith("own")] == ["own_a", "own_b", "own_c"]
    assert result.failures == ()
    again = await collectors.make(None).collect(NOW + timedelta(seconds=9))
    assert sorted(sample.metric.name.rpartition(".")[2] for sample in again.samples) == ["own_c", "shared"]


async def test_a_push_that_comes_while_a_run_reads_is_left_for_the_next_one(collectors: Collectors) -> None:
    snapshot = collectors.make(None)
    first_push, second_push = (snapshot_of({"metric_kind": "count", "value": value}) for value in (1, 2))
    await snapshot.accept(first_push, "a", NOW)
    first = await snapshot.collect(NOW)
    await snapshot.accept(second_push, "b", NOW)  # before the end of that run
    await collectors.end(first)
    assert await snapshot.load()
    assert [values(first), values(await collectors.run(snapshot, NOW))] == [[1], [2]]
    assert not await snapshot.load()


async def test_the_bearer_token_is_looked_up_again_when_it_is_refused(
    collectors: Collectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("old-token")
    monkeypatch.setenv("SNAPSHOT_TOKEN_FILE", str(tmp_path / "token"))

    def check(request: Received) -> Answer:
        return Answer(200, EVAL) if request.headers["authorization"] == f"Bearer {wanted}" else Answer(401)

    async with scripted(check) as server:
        snapshot = collectors.make(server.url, token_env="SNAPSHOT_TOKEN")
        wanted = "old-token"
        await snapshot.collect(NOW)
        (tmp_path / "token").write_text("new-token")
        wanted = "new-token"
        await snapshot.collect(NOW)
        wanted = "other"
        with pytest.raises(Unauthorized) as raised:
            await snapshot.collect(NOW)
    assert "new-token" not in str(raised.value)
