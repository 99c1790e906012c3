"""Snapshots from where pipelines put them: files, an HTTP server and S3 (moto's server), each over the real way."""

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.collectors.records import MAX_BYTES
from service.collectors.snapshot.sources import Content, parse_place, read_place
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from tests.integration.snapshot.conftest import Collectors
from tests.integration.snapshot.scripted import HANG_UP, Answer, scripted

GOOD = json.dumps(
    [{"metric": "hearts", "workflow_name": "a", "task": "t", "check": "c", "condition": "> 0.5", "value": 0.9}]
).encode()


async def read(source: str, http: httpx.AsyncClient, max_bytes: int = MAX_BYTES) -> Content:
    return await read_place(parse_place(source), http, max_bytes)


@pytest.mark.parametrize(
    "source",
    [
        *("ftp://host/a.json", "gs://bucket/key", "file://host/a.json", "s3://bucket", "s3://"),
        *("http://127.0.0.1:99999/a", "http://[::1/a", "http:///a"),
    ],
)
async def test_other_forms_are_refused_with_what_is_possible(
    source: str, http: httpx.AsyncClient, collectors: Collectors
) -> None:
    with pytest.raises(ValidationError, match="it may be a path"):
        collectors.make(source)
    with pytest.raises(ConfigError, match="it may be a path"):
        await read(source, http)


# The newest, by one rule for directories and prefixes

_OTHER = "not .json, .jsonl, .ndjson or .txt"
BESIDE = {
    "_SUCCESS": (b"", "a marker"),
    "_committed_17": (GOOD, "a marker"),
    "run1_$folder$": (b"x", "a marker"),
    **dict.fromkeys((f"results.json{end}" for end in (".tmp", "~", ".inprogress", ".whatever")), (GOOD[:40], _OTHER)),
    **dict.fromkeys(("x.JSON.partial", "x.lock", "x.json.sha256", "x.json.gz.asc", "x.md5"), (b"abc", _OTHER)),
    **dict.fromkeys(("train.log", "junit.xml", "history.csv.gz", "model.pt", "x.tar.gz"), (b"x", _OTHER)),
    "~$results.json": (b"xx", "hidden"),
    ".results.json": (GOOD, "hidden"),
    "empty.json": (b"", "empty"),
    "_temporary/0/part-0": (GOOD[:40], "of a deeper level"),
    "archive/2026-01-01.json": (GOOD.replace(b"0.9", b"0.1"), "of a deeper level"),
}


@pytest.mark.parametrize("where", ["directory", "prefix"])
async def test_what_is_no_snapshot_is_skipped_and_said_with_v(
    where: str, collectors: Collectors, s3: Any, tmp_path: Path
) -> None:
    async def put(name: str, body: bytes) -> None:
        if where == "prefix":
            await s3.put_object(Bucket="health", Key=f"runs/{name}", Body=body)
            return
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    source = str(tmp_path) if where == "directory" else "s3://health/runs/"
    await put("results.json", GOOD)
    if where == "directory":
        os.utime(tmp_path / "results.json", (datetime.now().timestamp() - 60,) * 2)  # noqa: DTZ005
    else:
        await anyio.sleep(1.1)  # S3 keeps whole seconds
        await put("", b"")  # a folder, as a console makes it
    for name, (body, _) in BESIDE.items():
        await put(name, body)
    with capture_logs() as logs:
        result = await collectors.make(source).collect(datetime.now(UTC))
    assert [sample.value for sample in result.samples] == [0.9]
    said = {each["name"].partition("/")[0]: each["reason"] for each in logs if each["log_level"] == "debug"}
    assert said == {name.partition("/")[0]: reason for name, (_, reason) in BESIDE.items()}


@pytest.mark.parametrize(
    "name", ["a", "2026-01-14", "x.json", "x.json.gz", "x.jsonl", "x.ndjson.gz", "x.txt", "x.json.1", "x.y.gz.JSON"]
)
async def test_whatever_else_a_pipeline_calls_its_file_is_a_snapshot(
    name: str, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(GOOD)
    assert (await read(str(tmp_path), http)).name == str(tmp_path / name)


async def test_a_place_without_a_snapshot_says_what_it_skipped(
    s3: Any, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match=r"no snapshot is there; publish a snapshot"):
        await read(str(tmp_path), http)
    await s3.put_object(Bucket="health", Key="runs/_SUCCESS", Body=b"")
    with pytest.raises(
        Rejected, match=r"s3://health/runs/: no snapshot is there; skipped: _SUCCESS \(a marker\); publish"
    ):
        await read("s3://health/runs/", http)


async def test_of_a_directory_the_newest_file_is_read(http: httpx.AsyncClient, tmp_path: Path) -> None:
    for number in range(300):
        path = tmp_path / f"{number:03}.json"
        path.write_text(f"[{number}]")
        os.utime(path, (1000 + number % 200, 1000 + number % 200))
    (tmp_path / "ahead.json").write_text("[]")
    os.utime(tmp_path / "ahead.json", (4e9, 4e9))  # its writer's clock was wrong
    (tmp_path / "dangling.json").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    content = await read(str(tmp_path), http)
    assert (content.name, content.body) == (str(tmp_path / "199.json"), b"[199]")
    assert content.published == datetime.fromtimestamp(1199, UTC)


# Files


async def test_a_path_and_a_file_address_are_the_same(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "a b.json"
    path.write_bytes(b"[1]")
    for source in (str(path), f"file://{tmp_path}/a%20b.json", f"file://localhost{tmp_path}/a b.json"):
        assert (await read(source, http)).body == b"[1]"
    versions = set()
    for time in (1, 2):  # published anew
        os.utime(path, ns=(0, time))
        versions.add((await read(str(path), http)).version)
    assert len(versions) == 2


async def test_files_that_can_not_be_read_say_why(http: httpx.AsyncClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.json").write_bytes(b" " * 101)
    with pytest.raises(Rejected, match=r"none\.json: nothing is there; publish"):
        await read(str(tmp_path / "none.json"), http)
    with pytest.raises(ConfigError, match="is neither a file nor a directory"):
        await read(str(tmp_path / "pipe"), http)
    with pytest.raises(TooLarge, match=r"large\.json holds more than 100 bytes"):
        await read(str(tmp_path / "large.json"), http, 100)


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
    headers: dict[str, str], http: httpx.AsyncClient
) -> None:
    async with scripted(Answer(200, b"[1]", headers)) as server:
        content = await read(f"{server.url}/health.json?sig=secret", http)
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
    status: int, error: type[Exception], message: str, http: httpx.AsyncClient
) -> None:
    location = "http://169.254.169.254/latest?key=secret"
    async with scripted(Answer(status, b"", {"Retry-After": "7", "Location": location})) as server:
        with pytest.raises(error, match=message) as raised:
            await read(f"{server.url}/health.json?sig=secret", http)
    assert "secret" not in str(raised.value)
    if isinstance(raised.value, Unavailable):
        assert raised.value.retry_after == 7


async def test_a_server_that_hangs_up_breaks_off_or_is_not_there_is_unavailable(http: httpx.AsyncClient) -> None:
    async with scripted(HANG_UP, Answer(200, b"[2, 2", {"Content-Length": "99"})) as server:
        for _ in range(2):
            with pytest.raises(Unavailable, match="no answer"):
                await read(server.url, http)
    with pytest.raises(Unavailable, match="no answer"):
        await read(server.url, http)


async def test_what_is_too_large_is_refused_before_it_is_read_whole(
    http: httpx.AsyncClient, collectors: Collectors
) -> None:
    async with scripted(Answer(200, b" " * 1_000_000)) as server:
        with pytest.raises(TooLarge, match="more than 1,000 bytes"):
            await read(server.url, http, 1000)
    async with scripted(Answer(200, gzip.compress(b" " * 1_000_000), {"Content-Encoding": "gzip"})) as server:
        with pytest.raises(TooLarge):
            await collectors.make(server.url, max_bytes=100_000).collect(datetime.now(UTC))


# S3


async def test_the_newest_object_below_a_prefix_is_read(s3: Any, http: httpx.AsyncClient) -> None:
    await s3.put_object(Bucket="health", Key="runs/b 1?.json", Body=b"[1]")
    first = await read("s3://health/runs/", http)
    assert (first.name, first.body) == ("s3://health/runs/b 1?.json", b"[1]")
    await anyio.sleep(1.1)  # S3 keeps whole seconds
    await s3.put_object(Bucket="health", Key="runs/a.json", Body=b"[2]")
    await s3.put_object(Bucket="health", Key="other/c.json", Body=b"[3]")
    second = await read("s3://health/runs/", http)
    assert (second.name, second.body) == ("s3://health/runs/a.json", b"[2]")
    assert first.published
    assert second.published
    assert second.published > first.published
    assert (await read("s3://health/runs/b 1?.json", http)).body == b"[1]"


async def test_s3_errors_are_told_apart_by_who_can_mend_them(
    s3: Any, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await s3.put_object(Bucket="health", Key="t.json", Body=b"[1]")
    with pytest.raises(Rejected, match=r"s3://health/none\.json: nothing is there"):
        await read("s3://health/none.json", http)
    with pytest.raises(Rejected, match="there is no such bucket"):
        await read("s3://no-such-bucket/none.json", http)
    with pytest.raises(TooLarge):
        await read("s3://health/t.json", http, 2)
    with pytest.raises(ConfigError):
        await read("s3://B A D/key", http)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no answer"):
        await read("s3://health/t.json", http)
