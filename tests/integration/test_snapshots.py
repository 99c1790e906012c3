"""Snapshots from where pipelines put them: files, an HTTP server and S3 (moto's server), each over the real way."""

import gzip
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aioboto3
import anyio
import httpx
import pytest

from service.adapters import snapshots
from service.adapters.github import Github
from service.adapters.secrets import Secret
from service.collectors.registry import Context
from service.collectors.snapshot import SNAPSHOT_AGE, Snapshot, SnapshotSettings
from service.collectors.snapshot_validation import InvalidSnapshot
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from tests.integration.aws import moto, reach
from tests.integration.scripted_intake import HANG_UP, Answer, Received, scripted

RECORDED = Path(__file__).parents[1] / "payloads" / "snapshots"
NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A bucket with one object, ``training.json``, and this process's environment set to reach it."""
    reach(s3, monkeypatch)
    async with aioboto3.Session().client("s3") as client:
        await client.create_bucket(Bucket="health", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        await client.put_object(Bucket="health", Key="runs/training 1?.json", Body=b"[1]")
        yield "health"
        await client.delete_object(Bucket="health", Key="runs/training 1?.json")
        await client.delete_bucket(Bucket="health")


class Memory:
    """Of a collector, as the store keeps it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_lost = False

    def take(self, remember: Mapping[str, bytes | None]) -> None:
        for name, value in remember.items():
            self.kept.pop(name, None)
            if value is not None:
                self.kept[name] = value

    async def read(self, key: str) -> bytes | None:
        if self.is_lost:
            raise Unavailable("the disk is gone")
        return self.kept.get(key)


def collector(source: str | None, http: httpx.AsyncClient, memory: Memory | None = None, **more: Any) -> Snapshot:
    given = {"type": "snapshot", "schedule": "0 * * * *", "category": "evaluation", "source": source, **more}
    settings = SnapshotSettings.model_validate(given)
    github = Github("http://127.0.0.1:9", Secret("token", ""), "test")
    return Snapshot(settings, Context("nightly", github, http, memory or Memory()))


async def read(source: str, http: httpx.AsyncClient, longest: int = snapshots.LONGEST) -> snapshots.Content:
    content = await snapshots.read(source, http, longest=longest)
    assert content
    return content


# The collector


async def test_a_snapshot_file_becomes_samples(http: httpx.AsyncClient) -> None:
    result = await collector(str(RECORDED / "eval_health.json"), http).collect(NOW)
    assert [sample.metric.name for sample in result.samples] == [
        "metta.infra.cron.remote_eval.latency_p50",
        "metta.infra.cron.remote_eval.pass_rate",
    ]
    assert {sample.tags["source"] for sample in result.samples} == {"cron"}
    assert {sample.tags["workflow_category"] for sample in result.samples} == {"evaluation"}


async def test_no_source_says_what_to_set(http: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigError, match=r"set collectors\.nightly\.source or EVAL_HEALTH_FILE to a path"):
        await collector(None, http).collect(NOW)


async def test_the_recorded_file_is_too_old_a_year_later_and_the_run_says_so(http: httpx.AsyncClient) -> None:
    with pytest.raises(Rejected, match=r"no usable record among 2: record 1: it is 365 days old, older than max_age"):
        await collector(str(RECORDED / "eval_health.json"), http).collect(NOW.replace(year=2026))


async def test_a_file_that_is_cut_off_fails_with_the_place(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes((RECORDED / "eval_health.json").read_bytes()[:300])
    with pytest.raises(Rejected, match=r"eval\.json: no valid JSON at line 16, column .* half-written"):
        await collector(str(path), http).collect(NOW)


async def test_a_count_is_sent_once_even_while_the_store_is_lost(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    records = json.loads((RECORDED / "eval_health.json").read_text())
    path.write_text(json.dumps([record | {"metric_kind": "count"} for record in records]))
    memory = Memory()
    snapshot = collector(str(path), http, memory)
    first = await snapshot.collect(NOW)
    assert len(first.samples) == 2
    memory.is_lost = True
    assert (await snapshot.collect(NOW)).samples == ()
    memory.is_lost = False
    memory.kept = {key: value for key, value in first.remember.items() if value}
    assert (await collector(str(path), http, memory).collect(NOW)).samples == ()


async def test_a_file_that_is_whole_a_second_later_is_read(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    whole = (RECORDED / "eval_health.json").read_bytes()
    path.write_bytes(gzip.compress(whole)[:100])

    async def finish() -> None:
        await anyio.sleep(0.3)
        path.write_bytes(gzip.compress(whole))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finish)
        result = await collector(str(path), http).collect(NOW)
    assert len(result.samples) == 2


async def test_the_collector_tells_the_age_of_its_snapshot_even_when_the_run_fails(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes((RECORDED / "eval_health.json").read_bytes())
    published = NOW.timestamp() - 1800
    os.utime(path, (published, published))
    snapshot = collector(str(path), http)
    assert snapshot.own_values(NOW) == {}
    await snapshot.collect(NOW)
    assert snapshot.own_values(NOW) == {SNAPSHOT_AGE: 1800}
    with pytest.raises(Rejected, match="no usable record"):
        await snapshot.collect(NOW + timedelta(days=2))
    assert snapshot.own_values(NOW + timedelta(days=2)) == {SNAPSHOT_AGE: 1800 + 2 * 86400}


async def test_bounds_can_be_set(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes((RECORDED / "eval_health.json").read_bytes())
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        await collector(str(path), http, max_bytes="100").collect(NOW)
    with pytest.raises(TooLarge, match="more than 1 records"):
        await collector(str(path), http, max_records=1).collect(NOW)
    assert collector(str(path), http, max_bytes="2 MiB")._settings.max_bytes == 2 * 1024 * 1024


# Pushed snapshots


async def test_a_pushed_snapshot_is_read_until_the_source_is_newer(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path, memory = tmp_path / "eval.json", Memory()
    (record, _) = json.loads((RECORDED / "eval_health.json").read_text())
    snapshot = collector(str(path), http, memory)
    memory.take(await snapshot.accept(json.dumps([record | {"value": 1}]).encode(), "a", NOW))
    result = await snapshot.collect(NOW)
    assert [sample.value for sample in result.samples] == [1]
    assert "nothing is there" in str(result.faults[0])
    path.write_text(json.dumps([record | {"value": 2}]))
    for seconds, value in ((-1, 1), (1, 2)):
        os.utime(path, (NOW.timestamp() + seconds, NOW.timestamp() + seconds))
        result = await collector(str(path), http, memory).collect(NOW)
        assert [sample.value for sample in result.samples] == [value]
        assert result.faults == ()


async def test_a_push_without_a_source_is_enough(http: httpx.AsyncClient) -> None:
    memory = Memory()
    snapshot = collector(None, http, memory)
    memory.take(await snapshot.accept(gzip.compress((RECORDED / "eval_health.json").read_bytes()), "a", NOW))
    assert len((await snapshot.collect(NOW)).samples) == 2


async def test_a_count_that_is_pushed_twice_with_one_key_is_sent_once(http: httpx.AsyncClient) -> None:
    memory = Memory()
    snapshot = collector(None, http, memory)
    (record, _) = json.loads((RECORDED / "eval_health.json").read_text())
    body = json.dumps([{**record, "metric_kind": "count", "timestamp": None}]).encode()
    counts = []
    for key in ("a", "a", "b"):
        memory.take(await snapshot.accept(body, key, NOW))
        result = await snapshot.collect(NOW)
        memory.take(result.remember)
        counts.append(len(result.samples))
    assert counts == [1, 0, 1]


async def test_of_pushes_that_come_before_a_run_none_is_lost(http: httpx.AsyncClient) -> None:
    """Counts of all, the checks of each; of a gauge that several have the newest value."""
    memory = Memory()
    (record, _) = json.loads((RECORDED / "eval_health.json").read_text())
    gauge = {**record, "timestamp": None, "metric": "shared"}
    count = {**record, "timestamp": None, "metric": "runs", "metric_kind": "count"}
    for number, key in enumerate("abc"):
        own = {**gauge, "metric": f"own_{key}", "check": key}
        body = json.dumps([{**gauge, "value": number}, {**count, "value": number + 1}, own]).encode()
        memory.take(await collector(None, http, memory).accept(body, key, NOW + timedelta(seconds=number)))
    result = await collector(None, http, memory).collect(NOW + timedelta(seconds=5))
    memory.take(result.remember)
    found = sorted((sample.metric.name.rpartition(".")[2], sample.value) for sample in result.samples)
    assert [each for each in found if each[0] == "runs"] == [("runs", 1), ("runs", 2), ("runs", 3)]
    assert [each for each in found if each[0] == "shared"] == [("shared", 2)]
    assert [name for name, _ in found if name.startswith("own")] == ["own_a", "own_b", "own_c"]
    assert result.faults == ()
    again = await collector(None, http, memory).collect(NOW + timedelta(seconds=9))
    assert sorted(sample.metric.name.rpartition(".")[2] for sample in again.samples) == ["own_c", "shared"]


async def test_a_push_that_comes_while_a_run_reads_is_left_for_the_next_one(http: httpx.AsyncClient) -> None:
    memory = Memory()
    snapshot = collector(None, http, memory)
    (record, _) = json.loads((RECORDED / "eval_health.json").read_text())
    values = []
    pushed = [json.dumps([{**record, "timestamp": None, "metric_kind": "count", "value": n}]).encode() for n in (1, 2)]
    memory.take(await snapshot.accept(pushed[0], "a", NOW))
    first = await snapshot.collect(NOW)
    memory.take(await snapshot.accept(pushed[1], "b", NOW))  # before what the run remembers is stored
    memory.take(first.remember)
    assert await snapshot.is_due()
    for result in (first, await snapshot.collect(NOW)):
        values.append([sample.value for sample in result.samples])
        memory.take(result.remember)
    assert values == [[1], [2]]
    assert not await snapshot.is_due()
    memory.take(await snapshot.accept(pushed[1], "c", NOW))
    assert "pushed-waiting" not in memory.kept  # what was read is not kept


async def test_a_push_with_a_bad_record_is_refused_whole(http: httpx.AsyncClient) -> None:
    records = json.loads((RECORDED / "eval_health.json").read_text())
    with pytest.raises(InvalidSnapshot, match=r"1 of 3 records are bad:\n  record 3: value is text") as raised:
        await collector(None, http).accept(json.dumps([*records, records[0] | {"value": "x"}]).encode(), "a", NOW)
    assert raised.value.count == 1
    with pytest.raises(Rejected, match="holds no record"):
        await collector(None, http).accept(b"[]", "a", NOW)


# Files


async def test_a_path_and_a_file_address_are_the_same(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "a b.json"
    path.write_bytes(b"[1]")
    for source in (str(path), f"file://{tmp_path}/a%20b.json", f"file://localhost{tmp_path}/a b.json"):
        assert (await read(source, http)).body == b"[1]"


async def test_a_file_that_is_published_anew_has_another_version(http: httpx.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[1]")
    os.utime(path, ns=(0, 1))
    first = await read(str(path), http)
    os.utime(path, ns=(0, 2))
    assert (await read(str(path), http)).version != first.version


async def test_files_that_can_not_be_read_say_why(http: httpx.AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"none\.json: nothing is there; publish"):
        await read(str(tmp_path / "none.json"), http)
    with pytest.raises(Rejected, match="the directory holds no file"):
        await read(str(tmp_path), http)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is neither a file nor a directory"):
        await read(str(tmp_path / "pipe"), http)
    (tmp_path / "large.json").write_bytes(b" " * 101)
    with pytest.raises(TooLarge, match=r"large\.json holds more than 100 bytes"):
        await read(str(tmp_path / "large.json"), http, longest=100)


@pytest.mark.parametrize(
    "source", ["ftp://host/a.json", "gs://bucket/key", "file://host/a.json", "s3://bucket", "s3://", "a\0b"]
)
async def test_other_forms_are_refused_with_what_is_possible(source: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigError, match=r"source .*(it may be a path|write |is no path)"):
        await read(source, http)


async def test_of_a_directory_the_newest_finished_file_is_read(http: httpx.AsyncClient, tmp_path: Path) -> None:
    for number in range(300):
        path = tmp_path / f"{number:03}.json"
        path.write_text(f"[{number}]")
        os.utime(path, (1000 + number % 200, 1000 + number % 200))
    for name in (".hidden.json", "draft.json.tmp"):
        (tmp_path / name).write_text("[0]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.json").symlink_to(tmp_path / "none")
    content = await read(str(tmp_path), http)
    assert (content.name, content.body) == (str(tmp_path / "199.json"), b"[199]")
    assert content.published == datetime.fromtimestamp(1199, UTC)


# HTTP


async def test_a_snapshot_is_read_over_http(http: httpx.AsyncClient) -> None:
    async with scripted(Answer(200, b"[1]", {"ETag": '"a"'})) as server:
        content = await read(f"{server.url}/health.json?sig=secret", http)
    assert content.body == b"[1]"
    assert "secret" not in content.name


@pytest.mark.parametrize(
    ("validators", "condition"),
    [
        ({"ETag": '"a"', "Last-Modified": "Tue, 14 Jan 2025 15:00:00 GMT"}, ("if-none-match", '"a"')),
        (
            {"Last-Modified": "Tue, 14 Jan 2025 15:00:00 GMT", "Date": "Tue, 14 Jan 2025 15:00:01 GMT"},
            ("if-modified-since", "Tue, 14 Jan 2025 15:00:00 GMT"),
        ),
    ],
)
async def test_an_address_is_asked_conditionally(
    validators: dict[str, str], condition: tuple[str, str], http: httpx.AsyncClient
) -> None:
    async with scripted(Answer(200, b"[1]", validators), Answer(304, b""), Answer(200, b"[2]", validators)) as server:
        reader = snapshots.Reader(server.url, http, longest=1000, token=None)
        first = await reader.read()
        assert await reader.read() == first
        assert (await reader.read()).body == b"[2]"
        name, value = condition
        assert [request.headers.get(name) for request in server.requests] == [None, value, value]
    if "ETag" not in validators:
        assert first.published == datetime(2025, 1, 14, 15, tzinfo=UTC)


async def test_the_bearer_token_is_looked_up_again_when_it_is_refused(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("old")
    monkeypatch.setenv("SNAPSHOT_TOKEN_FILE", str(tmp_path / "token"))
    body = (RECORDED / "eval_health.json").read_bytes()

    def check(request: Received) -> Answer:
        return Answer(200, body) if request.headers["authorization"] == f"Bearer {wanted}" else Answer(401, b"")

    async with scripted(check) as server:
        wanted = "old"
        snapshot = collector(server.url, http, token_env="SNAPSHOT_TOKEN")
        await snapshot.collect(NOW)
        (tmp_path / "token").write_text("new")
        wanted = "new"
        await snapshot.collect(NOW)
        wanted = "other"
        with pytest.raises(Unauthorized) as raised:
            await snapshot.collect(NOW)
    assert "new" not in str(raised.value)


async def test_gzip_that_a_server_sends_unasked_is_left_to_the_bounds(http: httpx.AsyncClient) -> None:
    packed = gzip.compress((RECORDED / "eval_health.json").read_bytes())
    async with scripted(Answer(200, packed, {"Content-Encoding": "gzip"})) as server:
        assert len((await collector(server.url, http).collect(NOW)).samples) == 2
    async with scripted(Answer(200, gzip.compress(b" " * 1_000_000), {"Content-Encoding": "gzip"})) as server:
        with pytest.raises(TooLarge):
            await collector(server.url, http, max_bytes=100_000).collect(NOW)
    async with scripted(Answer(200, b"?", {"Content-Encoding": "br"})) as server:
        with pytest.raises(Rejected, match="encoding br"):
            await collector(server.url, http).collect(NOW)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, Rejected, "nothing is there"),
        (401, Unauthorized, "access refused"),
        (403, Unauthorized, "access refused"),
        (204, Rejected, "answered 204"),
        (500, Unavailable, "answered 500"),
        (429, Unavailable, "answered 429"),
    ],
)
async def test_http_answers_are_told_apart_by_who_can_mend_them(
    status: int, error: type[Exception], message: str, http: httpx.AsyncClient
) -> None:
    async with scripted(Answer(status, b"", {"Retry-After": "7"})) as server:
        with pytest.raises(error, match=message) as raised:
            await read(f"{server.url}/health.json?sig=secret", http)
    assert "secret" not in str(raised.value)
    if isinstance(raised.value, Unavailable):
        assert raised.value.retry_after == 7


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -2300", "Mon, 01 Jan 99999999999 00:00:00 GMT"])
async def test_a_date_of_no_calendar_is_no_bug_of_ours(date: str, http: httpx.AsyncClient) -> None:
    async with scripted(Answer(503, b"", {"Retry-After": date, "Date": date})) as server:
        with pytest.raises(Unavailable, match="answered 503"):
            await read(f"{server.url}/health.json", http)
    async with scripted(Answer(200, b"[]", {"Last-Modified": date, "Date": date})) as server:
        assert await read(f"{server.url}/health.json", http) is not None


async def test_a_server_that_hangs_up_or_is_not_there_is_unavailable(http: httpx.AsyncClient) -> None:
    async with scripted(HANG_UP) as server:
        with pytest.raises(Unavailable, match="no answer"):
            await read(server.url, http)
    with pytest.raises(Unavailable, match="no answer"):
        await read(server.url, http)


@pytest.mark.parametrize("source", ["http://127.0.0.1:99999/a", "http://[::1/a", "http://xn--/a", "http:///a"])
async def test_what_is_no_address_is_said_to_be_none(source: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigError, match="is no valid address"):
        await read(source, http)


async def test_an_answer_that_is_too_large_is_refused_before_it_is_read_whole(http: httpx.AsyncClient) -> None:
    async with scripted(Answer(200, b" " * 1_000_000)) as server:
        with pytest.raises(TooLarge, match="more than 1,000 bytes"):
            await read(server.url, http, longest=1000)


async def test_a_redirect_is_followed_on_the_same_host_only(http: httpx.AsyncClient) -> None:
    async with scripted(Answer(302, b"", {"Location": "/b.json"}), Answer(200, b"[1]")) as server:
        assert (await read(f"{server.url}/a.json", http)).body == b"[1]"
    for location in ("http://169.254.169.254/latest/meta-data", "http://localhost:1/", "//evil.example/"):
        async with scripted(Answer(302, b"", {"Location": location})) as server:
            with pytest.raises(Rejected, match="redirects to another host"):
                await read(f"{server.url}/a.json", http)
    async with scripted(Answer(302, b"", {"Location": "/a.json"})) as server:
        with pytest.raises(Rejected, match="redirects more than"):
            await read(f"{server.url}/a.json", http)


# S3


async def test_an_object_is_read_from_s3(bucket: str, http: httpx.AsyncClient) -> None:
    content = await read(f"s3://{bucket}/runs/training 1?.json", http)
    assert content.body == b"[1]"


async def test_s3_errors_are_told_apart_by_who_can_mend_them(
    bucket: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Rejected, match=r"s3://health/none\.json: nothing is there"):
        await read(f"s3://{bucket}/none.json", http)
    with pytest.raises(Rejected, match="there is no such bucket"):
        await read("s3://no-such-bucket/none.json", http)
    with pytest.raises(TooLarge):
        await read(f"s3://{bucket}/runs/training 1?.json", http, longest=2)
    with pytest.raises(ConfigError):
        await read("s3://B A D/key", http)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no answer"):
        await read(f"s3://{bucket}/runs/training 1?.json", http)
