"""The snapshot collector from source or push to samples, over several runs."""

import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from service.collectors.snapshot import SNAPSHOT_AGE, collector
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.runs import CollectResult
from service.store.states import States
from tests.datadog import Received, Reply, ScriptedDatadog
from tests.integration.snapshot.conftest import Collectors

EVAL = (Path(__file__).parents[2] / "payloads" / "snapshots" / "eval_health.json").read_bytes()
NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
RECORD = {**json.loads(EVAL)[0], "timestamp": None}


def snapshot_of(*changes: dict[str, Any]) -> bytes:
    return json.dumps([RECORD | change for change in changes]).encode()


def values(result: CollectResult) -> list[float]:
    return [sample.value for sample in result.samples]


def hours_after(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


async def test_a_snapshot_file_becomes_samples_until_it_is_too_old_and_its_age_is_told(
    collectors: Collectors, tmp_path: Path
) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes(EVAL)
    os.utime(path, (NOW.timestamp() - 1800,) * 2)
    await collectors.end(CollectResult(state={"snapshot": b"of another shape: a cold start"}))
    snapshot = collectors.make(path, max_bytes="2 MiB")
    assert snapshot.own_values(NOW) == {}
    found = (await snapshot.collect(NOW)).samples
    names = [each.metric.name for each in found]
    assert names == [f"metta.infra.cron.remote_eval.{name}" for name in ("latency_p50", "pass_rate")]
    assert {(each.tags["source"], each.tags["workflow_category"]) for each in found} == {("cron", "evaluation")}
    assert snapshot.own_values(NOW) == {SNAPSHOT_AGE: 1800}
    with pytest.raises(Rejected, match=r"no usable record among 2: record 1: it is 48.5 h old, older than max_age"):
        await snapshot.collect(hours_after(48))
    assert snapshot.own_values(hours_after(48)) == {SNAPSHOT_AGE: 1800 + 2 * 86400}
    for bound, reason in (({"max_bytes": "100"}, "100 bytes"), ({"max_records": 1}, "1 records")):
        with pytest.raises(TooLarge, match=f"more than {reason}"):
            await collectors.make(path, **bound).collect(NOW)


async def test_what_is_whole_a_moment_later_is_read(
    collectors: Collectors, server: ScriptedDatadog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "HALF_WRITTEN_PAUSE", 0.0)
    server.script.extend((Reply(200, EVAL[:-9]), Reply(200, EVAL)))
    assert len((await collectors.make(server.url).collect(NOW)).samples) == 2


async def test_a_count_is_sent_once_even_while_the_store_is_lost(
    collectors: Collectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the store is away")

    path = tmp_path / "eval.json"
    path.write_bytes(snapshot_of({"metric_kind": "count"}))
    snapshot = collectors.make(path)
    assert len((await collectors.run(snapshot, NOW)).samples) == 1
    with monkeypatch.context() as lost:
        for name in ("read", "pushes"):
            lost.setattr(States, name, away)
        assert (await snapshot.collect(NOW)).samples == ()
    assert (await collectors.make(path).collect(NOW)).samples == ()


# What is expected


async def test_a_push_of_one_pipeline_leaves_the_others_as_they_are(collectors: Collectors) -> None:
    arena, nightly = ({"workflow_name": name, "task": "t", "check": "c"} for name in ("arena", "nightly"))
    now, missing = datetime.now(UTC), list[list[str]]()
    for number, body in enumerate((snapshot_of(arena), snapshot_of(nightly), snapshot_of(arena))):
        snapshot = collectors.make(expect=["arena/t/c", "nightly/t/c"])
        await snapshot.accept(body, str(number), now)
        missing.append([each.tags["workflow_name"] for each in (await collectors.run(snapshot, now)).no_data])
    assert missing == [["nightly"], [], []]


# The age of what HTTP servers hold


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        # Unchanged content is as old as when it was first seen, wherever a server dates each answer anew or not at all.
        ([(0, None, 1), (23, None, 1), (25, None, 1), (26, None, 2)], [(0, 2), (0, 1), None, (26, 2)]),
        ([(0, 0, 1), (23, 23, 1), (25, 25, 1), (26, 26, 2)], [(0, 2), (0, 1), None, (26, 2)]),
        ([(0, -0.001, 1), (23, 22.999, 1), (25, 24.999, 1)], [(0, 2), (0, 1), None]),
        # A date that tells is evidence. Right after the publication it proves nothing: then, by a clock that is half a
        # minute ahead, it is still the same one.
        ([(0, -0.5, 1), (2, -0.5, 1), (3, 2.5, 1)], [(-0.5, 2), (-0.5, 1), (2.5, 2)]),
        ([(0, 1 / 120, 1), (0.5, 1 / 120, 1), (2, 1.9, 1)], [(0, 2), (1 / 120, 1), (1.9, 2)]),
    ],
)
async def test_content_is_as_old_as_its_server_can_prove_and_its_count_is_sent_once(
    answers: list[tuple[float, float | None, float]],
    found: list[tuple[float, int] | None],
    collectors: Collectors,
    server: ScriptedDatadog,
) -> None:
    """``answers``: hours of run and Last-Modified, value. ``found``: when the gauge was measured, number of samples."""
    for (hours, modified, value), expected in zip(answers, found, strict=True):
        headers = {"Date": format_datetime(hours_after(hours), usegmt=True)}
        if modified is not None:
            headers["Last-Modified"] = format_datetime(hours_after(modified), usegmt=True)
        body = snapshot_of({"value": value}, {"check": "n", "metric_kind": "count"})
        server.script.append(Reply(200, body, headers))
        result = await collectors.run(collectors.make(server.url), hours_after(hours))
        if expected:
            assert (result.samples[0].measured, len(result.samples)) == (hours_after(expected[0]), expected[1])
        else:
            assert result.samples == ()
            assert "it is 25 h old, older than max_age" in str(result.failures[0])


async def test_a_time_from_the_future_keeps_nothing_fresh(collectors: Collectors, tmp_path: Path) -> None:
    """Neither that of a file nor what our own clock told while it was ahead."""
    path, now = tmp_path / "eval.json", datetime.now(UTC)
    path.write_bytes(snapshot_of({}))
    os.utime(path, (4e9, 4e9))
    for at in (now + timedelta(days=300), now):
        assert values(await collectors.run(collectors.make(path), at)) == [RECORD["value"]]
    with pytest.raises(Rejected, match="older than max_age"):
        await collectors.make(path).collect(now + timedelta(hours=24, minutes=1))


# Pushes


async def test_without_source_and_push_the_collector_waits_for_one(collectors: Collectors) -> None:
    snapshot, restarted = collectors.make(), collectors.make()
    assert {each.waits_for for each in (snapshot, restarted)} == {"waiting for a first push"}
    with pytest.raises(ConfigError, match=r"set collectors\.nightly\.source or EVAL_HEALTH_FILE to a path"):
        await snapshot.collect(NOW)
    await snapshot.accept(EVAL, "a", NOW)
    assert await restarted.load()  # a run is due: none has read it
    assert {each.waits_for for each in (snapshot, restarted)} == {None}
    await collectors.run(restarted, NOW)
    assert not await restarted.load()


async def test_a_pushed_snapshot_is_read_until_the_source_is_newer(collectors: Collectors, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    snapshot = collectors.make(path)
    await snapshot.accept(gzip.compress(snapshot_of({"value": 1})), "a", NOW)
    result = await collectors.run(snapshot, NOW)
    assert values(result) == [1]
    assert "nothing is there" in str(result.failures[0])
    path.write_bytes(snapshot_of({"value": 2}))
    for seconds, value in ((-1, 1), (1, 2)):
        os.utime(path, (NOW.timestamp() + seconds,) * 2)
        result = await collectors.make(path).collect(NOW)
        assert (values(result), result.failures) == ([value], ())


async def test_of_pushes_none_is_lost_and_a_repeated_one_is_sent_once(collectors: Collectors) -> None:
    """Counts of all, the checks of each; of a gauge that several have the newest value."""
    for number, key in enumerate("aabc"):
        body = snapshot_of(
            {"metric": "metta.shared", "value": number},
            {"metric": "metta.runs", "metric_kind": "count", "value": number},
            {"metric": f"metta.own_{key}", "check": key},
        )
        await collectors.make().accept(body, key, NOW + timedelta(seconds=number))
    result = await collectors.run(collectors.make(), NOW + timedelta(seconds=5))
    found = sorted((sample.metric.name, sample.value) for sample in result.samples if "own" not in sample.metric.name)
    assert found == [*(("metta.runs", number) for number in (1, 2, 3)), ("metta.shared", 3)]
    assert {f"metta.own_{key}" for key in "abc"} <= {sample.metric.name for sample in result.samples}
    assert result.failures == ()
    again = await collectors.run(collectors.make(), NOW + timedelta(seconds=9))
    assert sorted(sample.metric.name for sample in again.samples) == ["metta.own_c", "metta.shared"]
    # One that grew too old does not stop the newer ones.
    for hours, value in ((-48, 6), (0, 7)):
        await collectors.make().accept(snapshot_of({"value": value}), str(value), hours_after(hours))
    result = await collectors.run(collectors.make(), NOW)
    assert (values(result), "no usable record among 1" in str(result.failures[0])) == ([7], True)


async def test_a_push_that_comes_while_a_run_reads_is_left_for_the_next_one(collectors: Collectors) -> None:
    snapshot = collectors.make()
    first_push, second_push = (snapshot_of({"metric_kind": "count", "value": value}) for value in (1, 2))
    await snapshot.accept(first_push, "a", NOW)
    first = await snapshot.collect(NOW)
    await snapshot.accept(second_push, "b", NOW)  # before the end of that run
    await collectors.end(first)
    assert await snapshot.load()
    assert [values(first), values(await collectors.run(snapshot, NOW))] == [[1], [2]]
    # A push that is repeated has the same key.
    await snapshot.accept(second_push, "b", NOW)
    assert (await collectors.run(snapshot, NOW)).samples == ()


async def test_the_bearer_token_is_looked_up_again_when_it_is_refused(
    collectors: Collectors, server: ScriptedDatadog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, good = tmp_path / "token", ""
    monkeypatch.setenv("SNAPSHOT_TOKEN_FILE", str(file))

    def check(received: Received) -> Reply:
        return Reply(200, EVAL) if received.headers["authorization"] == f"Bearer {good}" else Reply(401)

    server.intercept = check
    snapshot = collectors.make(server.url, token_env="SNAPSHOT_TOKEN")
    for good in ("old-token", "new-token"):
        file.write_text(good)
        await snapshot.collect(NOW)
    good = "other"
    with pytest.raises(Unauthorized) as raised:
        await snapshot.collect(NOW)
    assert "new-token" not in str(raised.value)
