"""Every refusal, over real HTTP and down to the bytes."""

import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.adapters.secrets import MountedFile, Secret
from service.web.guard import Guard
from tests.integration.web_stage import BEARER, TOKEN, Daemon, problem_of, served

RUN = "/api/v1/collectors/ci/runs"


@pytest.mark.parametrize(
    "authorization", [b"", b"Bearer", b"Bearer wrong", b"Bearer \xff\xfe", b"Basic b3Blbg==", TOKEN.encode()]
)
async def test_a_write_call_without_the_right_token_is_a_401(authorization: bytes) -> None:
    daemon = Daemon()
    async with served(daemon, token=TOKEN) as stage:
        answer = await stage.client.post(RUN, headers={b"authorization": authorization} if authorization else {})
        problem_of(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
        assert not daemon.history


async def test_two_tokens_are_none() -> None:
    async with served(Daemon(), token=TOKEN) as stage:
        twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
        problem_of(await stage.client.post(RUN, headers=twice), 401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_of_the_token_has_no_case(scheme: str) -> None:
    async with served(Daemon(), token="schlüssel") as stage:
        answer = await stage.client.post(RUN, headers={b"authorization": f"{scheme} schlüssel".encode()})
        assert answer.status_code == 202


@pytest.mark.parametrize("token", [None, "", "  "])
async def test_without_a_token_a_cluster_refuses_and_names_the_setting(token: str | None) -> None:
    async with served(Daemon(), token=token, in_cluster=True) as stage:
        body = problem_of(await stage.client.post(RUN, headers={"authorization": "Bearer x"}), 403)
        assert "INFRA_HEALTH_TOKEN" in body["detail"]


async def test_without_a_token_loopback_may_write() -> None:
    async with served(Daemon()) as stage:
        assert (await stage.client.post(RUN)).status_code == 202


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "via"])
async def test_without_a_token_what_a_proxy_passes_on_is_not_loopback(header: str) -> None:
    async with served(Daemon()) as stage:
        problem_of(await stage.client.post(RUN, headers={header: "127.0.0.1"}), 403)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.7", False), ("fe80::1%eth0", False)],
)
async def test_without_a_token_only_loopback_peers_may_write(peer: str, allowed: bool) -> None:
    status = await asked_directly({"client": (peer, 1234), "method": "POST"})
    assert status == (200 if allowed else 403)


READERS = "for the readers"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer wrong", 401),
        ("Basic !!", 401),
        ("Basic " + base64.b64encode(b"anybody:wrong").decode(), 401),
        ("Bearer " + READERS, 200),
        ("Bearer " + TOKEN, 200),
        ("Basic " + base64.b64encode(f"anybody:{READERS}".encode()).decode(), 200),
    ],
)
async def test_a_read_token_closes_reading_but_the_probes(authorization: str, status: int) -> None:
    async with served(Daemon(), token=TOKEN, read_token=READERS) as stage:
        headers = {"authorization": authorization} if authorization else {}
        for path in ("/", "/version", "/metrics", "/openapi.json", "/api/v1/collectors", "/static/page.css"):
            answer = await stage.client.get(path, headers=headers)
            assert answer.status_code == status
            if status == 401:
                assert "Bearer" in answer.headers["www-authenticate"]
                assert "Basic" in answer.headers["www-authenticate"]
                assert READERS not in answer.text
        for path in ("/livez", "/healthz", "/readyz"):
            assert (await stage.client.get(path)).status_code == 200


async def test_a_read_token_in_a_file_is_taken_over_and_closes_reading_while_the_file_is_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "readers"
    token = Secret("token of the read calls", "set it", sources=[MountedFile(file, "INFRA_HEALTH_READ_TOKEN_FILE")])
    async with served(Daemon(), read_token=token) as stage:
        problem_of(await stage.client.get("/version"), 401)
        file.write_text("first-secret")
        assert (await stage.client.get("/version", headers={"authorization": "Bearer first-secret"})).status_code == 200
        file.write_text("second-secret")
        assert (
            await stage.client.get("/version", headers={"authorization": "Bearer second-secret"})
        ).status_code == 200
        problem_of(await stage.client.get("/version", headers={"authorization": "Bearer first-secret"}), 401)


async def test_what_opens_reading_does_not_open_writing() -> None:
    daemon = Daemon()
    async with served(daemon, token=TOKEN, read_token=READERS) as stage:
        as_password = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        for authorization in (f"Bearer {READERS}", f"Basic {as_password}"):
            problem_of(await stage.client.post(RUN, headers={"authorization": authorization}), 401)
        assert not daemon.history
        assert (await stage.client.post(RUN, headers=BEARER)).status_code == 202


async def test_without_a_write_token_the_empty_token_opens_nothing() -> None:
    async with served(Daemon(), read_token=READERS) as stage:
        for authorization in ("Bearer", "Basic Og==", "Basic"):
            problem_of(await stage.client.get("/version", headers={"authorization": authorization}), 401)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"origin": "\udcff"},
    ],
)
async def test_a_page_of_another_site_may_not_write_even_with_the_token(headers: dict[str, str]) -> None:
    daemon = Daemon()
    async with served(daemon, token=TOKEN) as stage:
        raw = {name.encode(): value.encode(errors="surrogateescape") for name, value in (headers | BEARER).items()}
        problem_of(await stage.client.post(RUN, headers=raw), 403)
        assert not daemon.history


async def test_our_own_page_may_write() -> None:
    async with served(Daemon(), token=TOKEN, allowed_hosts=("health.example",)) as stage:
        own = {"origin": f"http://127.0.0.1:{stage.port}", "sec-fetch-site": "same-origin"}
        assert (await stage.client.post("/api/v1/runs", headers=BEARER | own)).status_code == 202
        behind_tls = {"origin": "https://health.example", "host": "health.example"}
        assert (await stage.client.post("/api/v1/runs", headers=BEARER | behind_tls)).status_code == 202


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3:8080",
        "[::1]:8080",
        "localhost",
        "LOCALHOST.:80",
        "app.localhost",
        "infra-health",
        "infra-health.monitoring.svc",
        "infra-health.monitoring.svc.cluster.local:8080",
        socket.gethostname(),
        "health.example",
        "a.b.wide.example",
    ],
)
async def test_our_own_names_are_answered(host: str) -> None:
    async with served(Daemon(), allowed_hosts=("Health.Example", "*.wide.example")) as stage:
        assert (await stage.client.get("/version", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "wide.example", "evilwide.example", "svc", "2130706433", "127.1"]
)
async def test_a_foreign_name_is_a_421_but_for_probes_and_metrics(host: str) -> None:
    async with served(Daemon(), allowed_hosts=("*.wide.example",)) as stage:
        for path in ("/", "/version", "/api/v1/runs", "/static/page.js", "/nope"):
            assert "allowed_hosts" in problem_of(await stage.client.get(path, headers={"host": host}), 421)["detail"]
        for path in ("/livez", "/healthz", "/readyz", "/metrics"):
            assert (await stage.client.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"[::1", b"a@b", b"h\xf6st", b"localhost:99x"])
async def test_a_host_that_is_none_is_a_400(host: bytes) -> None:
    async with served(Daemon()) as stage:
        answer = await stage.raw(b"GET /version HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_body_beyond_the_bound_is_a_413() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        problem_of(await stage.client.post(RUN, content=b" " * (64 * 1024 + 1)), 413)
        problem_of(await stage.client.post(RUN, content=in_chunks(b" " * 1024, 65)), 413)
        assert not daemon.history
        assert (await stage.client.post(RUN, content=in_chunks(b" " * 1024, 64))).status_code == 202


@pytest.mark.parametrize("value", [b"x", b"-1", b"1e3", b"9" * 5000, "²".encode()])
async def test_a_content_length_that_is_none_is_a_4xx(value: bytes) -> None:
    async with served(Daemon()) as stage:
        sent = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + value + b"\r\n\r\n"
        assert (await stage.raw(sent)).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # a TLS client on a plain port
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_a_400_problem_and_the_next_caller_is_served(garbage: bytes) -> None:
    async with served(Daemon()) as stage:
        answer = await stage.raw(garbage)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer
        assert (await stage.client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        b"/%ff%fe",
        b"/api/v1/collectors/%00",
        b"/api/v1/runs/%2e%2e%2f",
        b"/api/v1/runs?before=%ff",
        b"//evil.example/",
        b"http://evil.example/",
    ],
)
async def test_odd_addresses_never_make_a_500(path: bytes) -> None:
    async with served(Daemon()) as stage:
        answer = await stage.raw(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
        assert b"\r\nlocation:" not in answer.lower()


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/metrics", "/api/v1/runs", "/static/page.css", "/nope", "/favicon.ico"]
)
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with served(Daemon()) as stage:
        headers = (await stage.client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


async def test_too_many_requests_at_once_are_turned_away_but_probes_are_answered() -> None:
    hold = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = guarded(slow)
    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(asked_directly, {}, guard)
        await anyio.wait_all_tasks_blocked()
        assert await asked_directly({}, guard) == 503
        assert await asked_directly({"path": "/livez"}, guard) == 200
        hold.set()
    assert await asked_directly({}, guard) == 200


def guarded(app: ASGIApp) -> Guard:
    return Guard(app, token=None, in_cluster=False, allowed_hosts=(), machine="box")


async def asked_directly(scope: dict[str, object], guard: Guard | None = None) -> int:
    """The status of one request at the ASGI border: peers that a test on one machine can't be."""

    async def fine(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing() -> Message:
        return {"type": "http.request", "body": b""}

    statuses = []

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(message["status"]))

    request = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"host", b"localhost")],
        "raw_path": b"/",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        **scope,
    }
    await (guard or guarded(fine))(request, nothing, note)
    return statuses[0]


async def in_chunks(part: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield part


async def test_a_refused_upload_is_read_to_its_end_so_that_the_answer_arrives() -> None:
    async with served(Daemon()) as stage:
        problem_of(await stage.client.post(RUN, content=b"x" * 5_000_000), 413)
        assert (await stage.client.get("/livez")).status_code == 200
