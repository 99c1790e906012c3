"""Snapshots from where pipelines put them: files, an HTTP server and S3 (moto's server), each over the real way."""

import gzip
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from service.collectors.snapshot import SnapshotSettings
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from tests.datadog import HANG_UP, Reply, ScriptedDatadog
from tests.integration.snapshot.conftest import Read


@pytest.mark.parametrize(
    "source",
    [
        *("ftp://host/a.json", "gs://bucket/key", "file://host/a.json", "s3://bucket", "s3://"),
        *("s3:/bucket/x", "https:/host/a.json"),
        *("http://127.0.0.1:99999/a", "http://[::1/a", "http:///a"),
    ],
)
def test_other_forms_are_refused_with_what_is_possible(source: str) -> None:
    with pytest.raises(ValueError, match="it may be a path"):
        SnapshotSettings.model_validate(
            {"type": "snapshot", "schedule": "@hourly", "category": "training", "source": source}
        )


# The newest, by one rule for directories and prefixes

_OTHER = "not .json, .jsonl, .ndjson or .txt"
BESIDE = {
    "_SUCCESS": (b"", "a marker"),
    "_committed_17": (b"[]", "a marker"),
    "run1_$folder$": (b"x", "a marker"),
    **dict.fromkeys((f"results.json{end}" for end in (".tmp", "~", ".inprogress", ".whatever")), (b"[", _OTHER)),
    **dict.fromkeys(("x.JSON.partial", "x.lock", "x.json.sha256", "x.json.gz.asc", "x.md5"), (b"abc", _OTHER)),
    **dict.fromkeys(("train.log", "junit.xml", "history.csv.gz", "model.pt", "x.tar.gz"), (b"x", _OTHER)),
    "~$results.json": (b"xx", "hidden"),
    ".results.json": (b"[]", "hidden"),
    "empty.json": (b"", "empty"),
    "_temporary/0/part-0": (b"[", "of a deeper level"),
    "archive/2026-01-01.json": (b"[]", "of a deeper level"),
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


@pytest.mark.parametrize(
    "name", ["a", "2026-01-14", "x.json", "x.json.gz", "x.jsonl", "x.ndjson.gz", "x.txt", "x.json.1", "x.y.gz.JSON"]
)
async def test_whatever_else_a_pipeline_calls_its_file_is_a_snapshot(name: str, read: Read, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"[1]")
    assert (await read(tmp_path)).name == str(tmp_path / name)


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
    "headers",
    [
        {"Last-Modified": "Tue, 14 Jan 2025 15:00:00 GMT", "Date": "Tue, 14 Jan 2025 15:00:00 GMT"},
        {"Last-Modified": "Fri, 31 Dec 9999 23:59:59 -2300", "Date": "Fri, 31 Dec 9999 23:59:59 -2300"},
        {"Last-Modified": "Mon, 01 Jan 99999999999 00:00:00 GMT"},
    ],
    ids=["as it was answered", "beyond the calendar", "no date"],
)
async def test_a_date_that_proves_nothing_is_none_and_a_query_is_never_shown(
    headers: dict[str, str], read: Read, server: ScriptedDatadog
) -> None:
    server.script.append(Reply(200, b"[1]", headers))
    content = await read(f"{server.url}/health.json?sig=secret")
    assert (content.body, content.published) == (b"[1]", None)
    assert "secret" not in content.name


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, Rejected, "nothing is there"),
        (401, Unauthorized, "answered 401; does it need a token_env"),
        (403, Unauthorized, "answered 403"),
        (204, Rejected, "answered 204"),
        (302, Rejected, r"redirects to http://169.254.169.254/latest\?\*+; set the source to where it leads"),
        (500, Unavailable, "answered 500"),
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


async def test_a_server_that_hangs_up_breaks_off_or_is_not_there_is_unavailable(
    read: Read, server: ScriptedDatadog
) -> None:
    server.script.extend((HANG_UP, Reply(200, b"[2, 2", {"Content-Length": "99"})))
    for url in (server.url, server.url, "http://127.0.0.1:9"):
        with pytest.raises(Unavailable, match="no answer"):
            await read(url)


async def test_what_is_too_large_is_refused_before_it_is_read_whole(read: Read, server: ScriptedDatadog) -> None:
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
    with pytest.raises(ConfigError):
        await read("s3://B A D/key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no answer"):
        await read("s3://health/t.json")
