"""``publish``: to files, over HTTP and to S3; what the collector would refuse is refused first."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized
from service.publish import Published, join_snapshots, publish
from tests.datadog import HANG_UP, Reply, ScriptedDatadog, refusal
from tests.integration.snapshot.conftest import Read

RECORD = {"metric": "hearts", "workflow_name": "a", "task": "t", "check": "c", "condition": "> 0.5", "value": 0.9}


async def sent(to: str, token_env: str | None = None) -> Published:
    return await anyio.to_thread.run_sync(partial(publish, [RECORD], to, token_env=token_env))


def test_a_file_is_replaced_whole_and_a_link_to_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text("before")
    (tmp_path / "link.json").symlink_to(path)
    with path.open() as reading:
        done = publish([RECORD], tmp_path / "link.json")
        assert reading.read() == "before"
    assert (done.records, done.size) == (1, path.stat().st_size)
    assert json.loads(path.read_text()) == [RECORD]
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["health.json", "link.json"]


def test_in_a_directory_each_snapshot_is_a_file_of_its_own_and_one_may_have_several_sources(tmp_path: Path) -> None:
    lines = json.dumps(RECORD | {"check": "b"}).encode()
    joined = join_snapshots({"a": json.dumps([RECORD]).encode(), "b": lines})
    names = [publish(records, tmp_path).to for records in ([RECORD], joined)]
    assert sorted(str(each) for each in tmp_path.iterdir()) == sorted(names) == names
    assert [record["check"] for record in json.loads(Path(names[1]).read_text())] == ["c", "b"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [RECORD, RECORD | {"value": float("nan")}],
            "1 of 2 records are bad:\n  record 2: value is not a finite number",
        ),
        ([RECORD | {"value": object()}], "not JSON serializable"),
        (b'[{"metric"', "half-written"),
    ],
)
def test_what_the_collector_would_refuse_is_not_published(records: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=message):
        publish(records, tmp_path / "health.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("none/health.json", r"none/health\.json can't be written: No such file or directory"),
        (f"{__file__}/health.json", "Not a directory"),
        ("ftp://host/health.json", "is no valid address"),
    ],
)
def test_a_place_that_can_not_be_written_is_named(to: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        publish([RECORD], to)


async def test_an_address_gets_the_snapshot_with_the_token_that_was_named_for_it(
    server: ScriptedDatadog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFRA_HEALTH_TOKEN", "of-the-daemon")
    monkeypatch.setenv("PLACE_TOKEN", "of-the-place")
    server.intercept = lambda received: Reply(201)
    await sent(f"{server.url}/health.json")
    await sent(f"{server.url}/health.json.gz", "PLACE_TOKEN")
    await sent(f"{server.url}/api/v1/collectors/eval/snapshots")
    with pytest.raises(Unauthorized, match="no bearer token NOT_SET: set NOT_SET"):
        await sent(server.url, "NOT_SET")
    plain, packed, of_daemon = server.received
    assert [(each.method, each.headers.get("authorization")) for each in server.received] == [
        ("PUT", None),
        ("PUT", "Bearer of-the-place"),
        ("POST", "Bearer of-the-daemon"),
    ]
    assert json.loads(plain.body) == json.loads(gzip.decompress(packed.body)) == json.loads(of_daemon.body) == [RECORD]


async def test_what_may_pass_is_tried_again_with_the_same_key(
    server: ScriptedDatadog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.publish._between", lambda low, high: low)
    server.script.extend((refusal(503, Retry_After="0"), HANG_UP, Reply(202, b"", {"Location": "/r/1"})))
    assert (await sent(f"{server.url}/api/v1/collectors/eval/snapshots")).run == f"{server.url}/r/1"
    assert len(server.received) == 3
    assert len({each.headers["idempotency-key"] for each in server.received}) == 1


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Reply(401), Unauthorized, r"answered 401; does it need another token \(--token-env\)"),
        (Reply(413), TooLarge, "answered 413"),
        (
            Reply(422, {"detail": "1 of 1 records are bad", "errors": [{"where": "record 1", "what": "it is odd"}]}),
            Rejected,
            "answered 422: 1 of 1 records are bad\n  record 1: it is odd",
        ),
        (Reply(409, {"detail": "no \033[31mway"}), Rejected, r"answered 409: no \\x1b\[31mway$"),
        (Reply(409, b"<html>"), Rejected, "answered 409$"),
        (
            Reply(302, b"", {"Location": "http://other.example/?sig=1"}),
            Rejected,
            r"redirects to http://other\.example/\?\*+; publish to where it leads",
        ),
    ],
)
async def test_refusals_are_told_and_not_tried_again(
    answer: Reply, error: type[Exception], message: str, server: ScriptedDatadog
) -> None:
    server.script.append(answer)
    with pytest.raises(error, match=message):
        await sent(f"{server.url}/health.json")
    assert len(server.received) == 1


async def test_an_object_is_put_under_a_name_that_a_collector_reads(s3: Any, read: Read) -> None:
    await sent("s3://health/runs/")
    await sent("s3://health/t.json.gz")
    assert json.loads((await read("s3://health/runs/")).body) == [RECORD]
    assert json.loads(gzip.decompress((await read("s3://health/t.json.gz")).body)) == [RECORD]
    assert (await s3.head_object(Bucket="health", Key="t.json.gz"))["ContentType"] == "application/gzip"
