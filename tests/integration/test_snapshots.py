"""Snapshots from where pipelines put them: files, an HTTP server and S3 (moto's server), each over the real way."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import aioboto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from service.adapters import snapshots
from service.adapters.github import Github
from service.adapters.secrets import Secret
from service.collectors.registry import Context
from service.collectors.snapshot import Snapshot, SnapshotSettings
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable
from tests.integration.scripted_intake import HANG_UP, Answer, scripted

RECORDED = Path(__file__).parents[1] / "payloads" / "snapshots"
NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A bucket with one object, ``training.json``, and this process's environment set to reach it."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
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

    async def read(self, key: str) -> bytes | None:
        if self.is_lost:
            raise Unavailable("the disk is gone")
        return self.kept.get(key)


def collector(source: str | None, http: httpx.AsyncClient, memory: Memory | None = None) -> Snapshot:
    settings = SnapshotSettings(type="snapshot", schedule="0 * * * *", category="evaluation", source=source)
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
    "source", ["ftp://host/a.json", "gs://bucket/key", "file://host/a.json", "s3://bucket", "s3://"]
)
async def test_other_forms_are_refused_with_what_is_possible(source: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigError, match=r"source .*(it may be a path|write )"):
        await read(source, http)


# HTTP


async def test_a_snapshot_is_read_over_http(http: httpx.AsyncClient) -> None:
    async with scripted(Answer(200, b"[1]", {"ETag": '"a"'})) as server:
        content = await read(f"{server.url}/health.json?sig=secret", http)
    assert (content.body, content.version) == (b"[1]", '"a"')
    assert "secret" not in content.name


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


async def test_a_server_that_hangs_up_or_is_not_there_is_unavailable(http: httpx.AsyncClient) -> None:
    async with scripted(HANG_UP) as server:
        with pytest.raises(Unavailable, match="no answer"):
            await read(server.url, http)
    with pytest.raises(Unavailable, match="no answer"):
        await read(server.url, http)


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
    with pytest.raises(Rejected, match="nothing is there"):
        await read("s3://no-such-bucket/none.json", http)
    with pytest.raises(TooLarge):
        await read(f"s3://{bucket}/runs/training 1?.json", http, longest=2)
    with pytest.raises(ConfigError):
        await read("s3://B A D/key", http)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no answer"):
        await read(f"s3://{bucket}/runs/training 1?.json", http)
