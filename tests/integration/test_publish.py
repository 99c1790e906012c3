"""``publish``: to files, over HTTP and to S3; what the collector would refuse is refused first."""

import gzip
import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized
from service.publish import InvalidSnapshot, Published, join_snapshots, publish
from tests.integration.snapshot.conftest import moto_server, s3
from tests.integration.snapshot.scripted import HANG_UP, Answer, scripted

__all__ = ["moto_server", "s3"]  # fixtures

RECORD = {"metric": "hearts", "workflow_name": "a", "task": "t", "check": "c", "condition": "> 0.5", "value": 0.9}


async def sent(to: str, token_env: str | None = None) -> Published:
    return await anyio.to_thread.run_sync(lambda: publish([RECORD], to, token_env=token_env))


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


def test_in_a_directory_each_snapshot_is_a_file_of_its_own(tmp_path: Path) -> None:
    names = [publish([RECORD], tmp_path).to for _ in range(2)]
    assert sorted(names) == names
    assert sorted(str(each) for each in tmp_path.iterdir()) == names


def test_where_the_name_ends_with_gz_the_snapshot_is_packed(tmp_path: Path) -> None:
    publish([RECORD], f"file://{tmp_path}/health.json.gz")
    assert json.loads(gzip.decompress((tmp_path / "health.json.gz").read_bytes())) == [RECORD]


def test_records_of_several_files_become_one_snapshot(tmp_path: Path) -> None:
    lines = json.dumps(RECORD | {"check": "b"}).encode()
    publish(join_snapshots({"a": json.dumps([RECORD]).encode(), "b": lines}), tmp_path / "health.json")
    assert [record["check"] for record in json.loads((tmp_path / "health.json").read_text())] == ["c", "b"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [RECORD, RECORD | {"value": float("nan")}],
            "1 of 2 records are bad:\n  record 2: value is not a finite number",
        ),
        ([RECORD | {"task": "\ud800"}], "record 1: it holds half a surrogate pair"),
        ([RECORD | {"timestamp": "2999-01-01T00:00:00Z"}], "record 1: timestamp .* in the future"),
        ([RECORD | {"value": object()}], "not JSON serializable"),
        ([], "the snapshot holds no record"),
        (b'[{"metric"', "half-written"),
    ],
)
def test_what_the_collector_would_refuse_is_not_published(records: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=message):
        publish(records, tmp_path / "health.json")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none/health\.json can't be written: No such file or directory"):
        publish([RECORD], tmp_path / "none" / "health.json")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        publish([RECORD], tmp_path / "file" / "health.json")
    with pytest.raises(ConfigError, match="is no valid address"):
        publish([RECORD], "ftp://host/health.json")


async def test_an_address_gets_the_snapshot_with_the_token_that_was_named_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFRA_HEALTH_TOKEN", "of-the-daemon")
    monkeypatch.setenv("PLACE_TOKEN", "of-the-place")
    async with scripted(Answer(201)) as server:
        await sent(f"{server.url}/health.json")
        await sent(f"{server.url}/health.json", "PLACE_TOKEN")
        await sent(f"{server.url}/api/v1/collectors/eval/snapshots")
    assert [(each.method, each.headers.get("authorization")) for each in server.requests] == [
        ("PUT", None),
        ("PUT", "Bearer of-the-place"),
        ("POST", "Bearer of-the-daemon"),
    ]
    assert json.loads(server.requests[0].body) == [RECORD]


async def test_what_may_pass_is_tried_again_with_the_same_key() -> None:
    answers = Answer(503, b"", {"Retry-After": "0"}), HANG_UP, Answer(202, b"", {"Location": "/r/1"})
    async with scripted(*answers) as server:
        done = await sent(f"{server.url}/api/v1/collectors/eval/snapshots")
        assert done.run == f"{server.url}/r/1"
    assert len(server.requests) == 3
    assert len({each.headers["idempotency-key"] for each in server.requests}) == 1


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Answer(401), Unauthorized, r"answered 401; does it need another token \(--token-env\)"),
        (Answer(413), TooLarge, "answered 413"),
        (
            Answer(
                422, b'{"detail": "1 of 1 records are bad", "errors": [{"where": "record 1", "what": "it is odd"}]}'
            ),
            Rejected,
            "answered 422: 1 of 1 records are bad\n  record 1: it is odd",
        ),
        (Answer(409, b'{"detail": "no \\u001b[31mway"}'), Rejected, r"answered 409: no \\x1b\[31mway$"),
        (Answer(409, b"<html>"), Rejected, "answered 409$"),
        (
            Answer(302, b"", {"Location": "http://other.example/?sig=1"}),
            Rejected,
            r"redirects to http://other\.example/\?\*+; publish to where it leads",
        ),
    ],
)
async def test_refusals_are_told_and_not_tried_again(answer: Answer, error: type[Exception], message: str) -> None:
    async with scripted(answer) as server:
        with pytest.raises(error, match=message):
            await sent(server.url)
    assert len(server.requests) == 1


async def test_a_token_that_is_named_must_be_there() -> None:
    with pytest.raises(Unauthorized, match="no bearer token NOT_SET: set NOT_SET"):
        await sent("http://127.0.0.1:9/", "NOT_SET")


async def test_an_object_is_put_with_its_hash(s3: Any) -> None:
    def put() -> None:
        publish([RECORD], "s3://health/runs/")
        publish([RECORD], "s3://health/t.json.gz")
        with pytest.raises(InvalidSnapshot, match="record 1: Expected `float`"):
            publish([RECORD | {"value": None}], "s3://health/bad.json")
        with pytest.raises(Rejected, match="there is no such bucket"):
            publish([RECORD], "s3://none/t.json")

    await anyio.to_thread.run_sync(put)
    listed = await s3.list_objects_v2(Bucket="health")
    first, packed = (each["Key"] for each in listed["Contents"])
    assert first.startswith("runs/snapshot-")
    found = await s3.get_object(Bucket="health", Key=packed)
    assert json.loads(gzip.decompress(await found["Body"].read())) == [RECORD]
    assert found["ContentType"] == "application/gzip"
