"""Snapshots to and from where pipelines put them: files, an HTTP server and S3 (moto's server), over the real way."""

import gzip
import json
import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from service.collectors.snapshot import SnapshotSettings
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from service.publish import Published, join_snapshots, publish
from tests.datadog import HANG_UP, Reply, ScriptedDatadog, refusal
from tests.integration.snapshot.conftest import Read

# The newest, by one rule for directories and prefixes

_OTHER = "not .json, .jsonl, .ndjson or .txt"
BESIDE = {
    **dict.fromkeys(("_SUCCESS", "_committed_17", "run1_$folder$"), (b"x", "a marker")),
    **dict.fromkeys((f"results.json{end}" for end in (".tmp", "~", ".inprogress", ".whatever")), (b"[", _OTHER)),
    **dict.fromkeys(("x.JSON.partial", "x.lock", "x.json.sha256", "x.json.gz.asc", "x.md5"), (b"abc", _OTHER)),
    **dict.fromkeys(("train.log", "junit.xml", "history.csv.gz", "model.pt", "x.tar.gz"), (b"x", _OTHER)),
    **dict.fromkeys(("~$results.json", ".results.json"), (b"[]", "hidden")),
    "empty.json": (b"", "empty"),
    **dict.fromkeys(("_temporary/0/part-0", "archive/2026-01-01.json"), (b"[]", "of a deeper level")),
}


@pytest.mark.parametrize("where", ["directory", "prefix"])
async def test_the_newest_is_read_and_what_is_no_snapshot_is_skipped_and_said_with_v(
    where: str, read: Read, s3: Any, tmp_path: Path
) -> None:
    source, now = f"{tmp_path}/" if where == "directory" else "s3://health/runs/", int(time.time())

    async def put(name: str, body: bytes, at: float = now) -> None:
        if where == "prefix":
            await s3.put_object(Bucket="health", Key=f"runs/{name}", Body=body)
            return
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (at, at))

    await put("z.json", b"[1]", now - 120)
    if where == "directory":
        await put("ahead.json", b"[3]", 4e9)  # its writer's clock was wrong
        (tmp_path / "dangling.json").symlink_to(tmp_path / "none")
        os.mkfifo(tmp_path / "pipe")
    else:
        await anyio.sleep(1.1)  # S3 keeps whole seconds
        await put("", b"")  # a folder, as a console makes it
        await s3.put_object(Bucket="health", Key="other/z.json", Body=b"[3]")
    await put("b 1?.json", b"[2]", now - 60)
    for name, (body, _) in BESIDE.items():
        await put(name, body)
    with capture_logs() as logs:
        content = await read(source)
    assert (content.name, content.body) == (f"{source}b 1?.json", b"[2]")
    assert content.published
    assert content.published.timestamp() >= now - 60
    said = {each["name"].partition("/")[0]: each["reason"] for each in logs if each["log_level"] == "debug"}
    assert said == {name.partition("/")[0]: reason for name, (_, reason) in BESIDE.items()}


# Files


async def test_a_path_and_a_file_address_are_the_same(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a b.json"
    path.write_bytes(b"[1]")
    for source in (path, f"file://{tmp_path}/a%20b.json", f"file://localhost{tmp_path}/a b.json"):
        assert (await read(source)).body == b"[1]"
    found = []
    for at in (1, 2):  # published anew
        os.utime(path, (at, at))
        found.append(await read(path))
    assert [each.published for each in found] == [datetime.fromtimestamp(at, UTC) for at in (1, 2)]
    assert found[0].version != found[1].version


async def test_files_that_can_not_be_read_say_why(read: Read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "large.md5").write_bytes(b" " * 101)
    with pytest.raises(Rejected, match=r"none\.json: nothing is there; publish"):
        await read(tmp_path / "none.json")
    with pytest.raises(Rejected, match=r"no snapshot is there; skipped: .*_SUCCESS \(a marker\).*; publish a snapshot"):
        await read(tmp_path)
    with pytest.raises(ConfigError, match="is neither a file nor a directory"):
        await read(tmp_path / "pipe")
    with pytest.raises(TooLarge, match=r"large\.md5 holds more than 100 bytes"):
        await read(tmp_path / "large.md5", 100)


# HTTP


@pytest.mark.parametrize(
    "date",
    ["Tue, 14 Jan 2025 15:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300", "Mon, 01 Jan 99999999999 00:00:00 GMT"],
    ids=["as it was answered", "beyond the calendar", "no date"],
)
async def test_a_date_that_proves_nothing_is_none_and_a_query_is_never_shown(
    date: str, read: Read, server: ScriptedDatadog
) -> None:
    server.script.append(Reply(200, b"[1]", {"Last-Modified": date, "Date": date}))
    content = await read(f"{server.url}/health.json?sig=secret")
    assert (content.body, content.published) == (b"[1]", None)
    assert "secret" not in content.name


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, Rejected, "nothing is there"),
        (401, Unauthorized, "answered 401; does it need a token_env"),
        (204, Rejected, "answered 204"),
        (302, Rejected, r"redirects to http://169.254.169.254/latest\?\*+; set the source to where it leads"),
        (429, Unavailable, "answered 429"),
    ],
)
async def test_http_answers_are_told_apart_by_who_can_mend_them(
    status: int, error: type[Exception], message: str, read: Read, server: ScriptedDatadog
) -> None:
    location = "http://169.254.169.254/latest?key=secret"
    server.script.append(Reply(status, b"", {"Retry-After": "7", "Location": location}))
    with pytest.raises(error, match=message) as raised:
        await read(f"{server.url}/health.json?sig=secret")
    assert "secret" not in str(raised.value)
    if isinstance(raised.value, Unavailable):
        assert raised.value.retry_after == 7


async def test_a_server_that_hangs_up_or_breaks_off_is_unavailable_and_one_that_floods_is_read_to_the_bound(
    read: Read, server: ScriptedDatadog
) -> None:
    server.script.extend((HANG_UP, Reply(200, b"[2, 2", {"Content-Length": "99"})))
    for url in (server.url, server.url, "http://127.0.0.1:9"):
        with pytest.raises(Unavailable, match="no answer"):
            await read(url)
    packed = gzip.compress(b" " * 1_000_000)
    server.script.extend((Reply(200, b" " * 100_000), Reply(200, packed, {"Content-Encoding": "gzip"})))
    with pytest.raises(TooLarge, match="more than 2,000 bytes"):
        await read(server.url, 2000)
    assert (await read(server.url, 2000)).body == packed, "who reads the records bounds what it becomes"


# S3


async def test_s3_errors_are_told_apart_by_who_can_mend_them(
    s3: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    await s3.put_object(Bucket="health", Key="b 1?.json", Body=b"[1]")
    assert (await read("s3://health/b 1?.json")).body == b"[1]"
    with pytest.raises(Rejected, match=r"s3://health/none\.json: nothing is there"):
        await read("s3://health/none.json")
    with pytest.raises(Rejected, match="there is no such bucket"):
        await read("s3://no-such-bucket/none.json")
    with pytest.raises(TooLarge):
        await read("s3://health/b 1?.json", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no answer"):
        await read("s3://health/t.json")


# What publish() writes

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
    os.mkfifo(pipe := tmp_path / "pipe")  # as /dev/null, which is to stay a device
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    publish([RECORD], pipe)
    assert (pipe.is_fifo(), os.read(reader, 9999)[:1]) == (True, b"[")
    os.close(reader)


def test_in_a_directory_each_snapshot_is_a_file_of_its_own_and_one_may_have_several_sources(tmp_path: Path) -> None:
    lines = json.dumps(RECORD | {"check": "b"}).encode()
    joined = join_snapshots({"a": json.dumps([RECORD]).encode(), "b": lines})
    names = [publish(records, tmp_path).to for records in ([RECORD], joined)]
    assert sorted(str(each) for each in tmp_path.iterdir()) == sorted(names) == names
    assert [record["check"] for record in json.loads(Path(names[1]).read_text())] == ["c", "b"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([RECORD, RECORD | {"value": float("nan")}], "1 of 2 records are bad:\n  record 2: value is not a finite"),
        ([RECORD | {"value": object()}], "not JSON serializable"),
        (b'[{"metric"', "half-written"),
    ],
)
def test_what_the_collector_would_refuse_is_not_published(records: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=message):
        publish(records, tmp_path / "health.json")
    assert list(tmp_path.iterdir()) == []


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
        (Reply(422, {"detail": "bad", "errors": [{"where": "a", "what": "odd"}]}), Rejected, "422: bad\n  a: odd"),
        (Reply(409, {"detail": "no \033[31mway"}), Rejected, r"answered 409: no \\x1b\[31mway$"),
        (
            Reply(302, b"", {"Location": "http://other.example/?sig=1"}),
            Rejected,
            r"redirects to http://other\.ex.*\?\*",
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


@pytest.mark.parametrize(
    "source",
    ["ftp://host/a.json", "file://host/a.json", "s3://bucket", "s3:/bucket/x", "http://127.0.0.1:99999/a", "http:///a"],
)
def test_other_forms_are_refused_with_what_is_possible(source: str) -> None:
    given = {"type": "snapshot", "schedule": "@hourly", "category": "training", "source": source}
    with pytest.raises(ValueError, match="it may be a path"):
        SnapshotSettings.model_validate(given)
