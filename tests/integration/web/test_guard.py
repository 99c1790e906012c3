"""Every refusal, over real HTTP and down to the bytes."""

import base64
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.secrets import Secret, mounted_file
from service.web.auth import Guard
from tests.integration.web.stage import BEARER, TOKEN, Stage, problem_of, secret, served

RUN = "/api/v1/collectors/ci/runs"
READERS = "for the readers"


def as_password(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


async def test_a_write_call_without_the_right_token_is_a_401(tmp_path: Path) -> None:
    async with served(tmp_path, token=TOKEN) as stage:
        wrong = [b"", b"Bearer", b"Bearer wrong", b"Bearer \xff\xfe", b"Basic b3Blbg==", TOKEN.encode()]
        for authorization in wrong:
            answer = await stage.client.post(RUN, headers={b"authorization": authorization} if authorization else {})
            problem_of(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN not in answer.text
        twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
        problem_of(await stage.client.post(RUN, headers=twice), 401)
        assert not stage.context.scheduler.active.runs()


@pytest.mark.parametrize("token", [None, "  "])
async def test_without_a_token_a_cluster_refuses_and_names_the_setting(token: str | None, tmp_path: Path) -> None:
    async with served(tmp_path, token=token, in_cluster=True) as stage:
        body = problem_of(await stage.client.post(RUN, headers={"authorization": "Bearer x"}), 403)
        assert "INFRA_HEALTH_TOKEN" in body["detail"]


async def test_without_a_token_what_a_proxy_passes_on_is_not_loopback(stage: Stage) -> None:
    for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via"):
        problem_of(await stage.client.post(RUN, headers={header: "127.0.0.1"}), 403)
    assert (await stage.client.post(RUN)).status_code == 202


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.7", False), ("fe80::1%eth0", False)],
)
async def test_without_a_token_only_loopback_peers_may_write(peer: str, allowed: bool) -> None:
    assert await asked_directly({"client": (peer, 1234), "method": "POST"}) == (200 if allowed else 403)


async def test_a_read_token_closes_reading_but_the_probes(tmp_path: Path) -> None:
    paths = ("/", "/version", "/metrics", "/openapi.json", "/docs", "/api/v1/collectors", "/static/page.css")
    async with served(tmp_path, token=TOKEN, read_token=READERS) as stage:
        for authorization in ("", "Bearer wrong", "Bearer", "Basic !!", "Basic Og==", as_password("wrong")):
            for path in paths:
                answer = await stage.client.get(path, headers={"authorization": authorization} if authorization else {})
                problem_of(answer, 401)
                assert re.match("Basic .*, Bearer ", answer.headers["www-authenticate"])
                assert READERS not in answer.text
        for authorization in (f"Bearer {READERS}", f"Bearer {TOKEN}", as_password(READERS)):
            for path in paths:
                answer = await stage.client.get(path, headers={"authorization": authorization})
                assert answer.status_code == 200, path
        for path in ("/livez", "/healthz", "/readyz"):
            assert (await stage.client.get(path)).status_code == 200


async def test_a_read_token_in_a_file_is_taken_over_and_closes_reading_while_the_file_is_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "readers"
    token = Secret("token of the read calls", "set it", sources=[mounted_file(file, "INFRA_HEALTH_READ_TOKEN_FILE")])
    async with served(tmp_path, read_token=token) as stage:

        async def status(shown: str) -> int:
            return (await stage.client.get("/version", headers={"authorization": f"Bearer {shown}"})).status_code

        problem_of(await stage.client.get("/version"), 401)
        file.write_text("first-secret")
        assert await status("first-secret") == 200
        file.write_text("second-secret")
        assert await status("second-secret") == 200
        assert await status("first-secret") == 401


async def test_a_page_of_another_site_may_not_write_even_with_the_token(tmp_path: Path) -> None:
    async with served(tmp_path, token=TOKEN, allowed_hosts=("health.example",)) as stage:
        for name, value in (
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:1"),
            ("origin", "\udcff"),
        ):
            foreign = {name.encode(): value.encode(errors="surrogateescape")}
            foreign |= {name.encode(): value.encode() for name, value in BEARER.items()}
            problem_of(await stage.client.post(RUN, headers=foreign), 403)
        assert not stage.context.scheduler.active.runs()
        own = {"origin": f"http://127.0.0.1:{stage.port}", "sec-fetch-site": "same-origin"}
        behind_tls = {"origin": "https://health.example", "host": "health.example"}
        for headers in (own, behind_tls):
            assert (await stage.client.post("/api/v1/runs", headers=BEARER | headers)).status_code == 202


async def test_our_own_names_are_answered_and_foreign_ones_get_a_421_but_from_probes(tmp_path: Path) -> None:
    async with served(tmp_path, allowed_hosts=("Health.Example", "*.wide.example")) as stage:
        for host in (
            *("127.0.0.1", "10.1.2.3:8080", "[::1]:8080", "localhost", "LOCALHOST.:80", "app.localhost"),
            *("infra-health", "infra-health.monitoring.svc", "infra-health.monitoring.svc.cluster.local:8080"),
            *(socket.gethostname(), "health.example", "a.b.wide.example"),
        ):
            assert (await stage.client.get("/version", headers={"host": host})).status_code == 200
        foreign = ("evil.example", "localhost.evil.example", "wide.example", "evilwide.example", "svc", "127.1")
        for host in (*foreign, "2130706433"):
            for path in ("/", "/version", "/api/v1/runs", "/static/page.js", "/nope"):
                body = problem_of(await stage.client.get(path, headers={"host": host}), 421)
                assert "http.allowed_hosts" in body["detail"]
            for path in ("/livez", "/healthz", "/readyz", "/metrics"):
                assert (await stage.client.get(path, headers={"host": host})).status_code == 200


async def test_what_is_not_http_is_a_400_problem_and_the_next_caller_is_served(tmp_path: Path) -> None:
    hosts = (b"", b"a b", b"a/b", b"[::1", b"a@b", b"h\xf6st", b"localhost:99x")
    async with served(tmp_path) as stage:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # a TLS client on a plain port
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",  # without Host
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz\r\n",
            *(b"GET /version HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n" for host in hosts),
        ):
            answer = await stage.raw(garbage)
            assert answer.startswith(b"HTTP/1.1 400 "), garbage
            assert b"application/problem+json" in answer
            assert b"content-security-policy" in answer
            assert (await stage.client.get("/livez")).status_code == 200


async def test_sizes_beyond_the_bounds_are_refused(stage: Stage) -> None:
    problem_of(await stage.client.post(RUN, content=b" " * (64 * 1024 + 1)), 413)
    problem_of(await stage.client.post(RUN, content=in_chunks(b" " * 1024, 65)), 413)
    # Read to its end, so that the answer arrives.
    problem_of(await stage.client.post(RUN, content=b"x" * 5_000_000), 413)
    problem_of(await stage.client.get("/version", headers={"x-long": "x" * 16_000, "x-more": "x" * 400}), 431)
    for value in (b"x", b"-1", b"1e3", b"9" * 5000, "²".encode()):
        sent = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + value + b"\r\n\r\n"
        assert (await stage.raw(sent)).startswith(b"HTTP/1.1 4")
    assert not stage.context.scheduler.active.runs()
    assert (await stage.client.post(RUN, content=in_chunks(b" " * 1024, 64))).status_code == 202


async def test_odd_addresses_never_make_a_500(stage: Stage) -> None:
    for path in (
        *(b"/%ff%fe", b"/api/v1/collectors/%00", b"/api/v1/runs/%2e%2e%2f", b"/api/v1/runs?before=%ff"),
        *(b"//evil.example/", b"http://evil.example/", b"/static/../app.py", b"/static/%2e%2e/app.py"),
        *(b"/static/swagger/..%2f..%2f__init__.py", b"/runs/%ff?limit=%ff", b"/checks/ci/%ff"),
    ):
        answer = await stage.raw(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), path
        assert b"\r\nlocation:" not in answer.lower()
        assert b"import" not in answer


async def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    paths = ("/", "/livez", "/metrics", "/api/v1/runs", "/static/page.css", "/docs", "/nope", "/favicon.ico")
    async with served(tmp_path) as stage:
        for path in paths:
            headers = (await stage.client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "data:" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            is_file = path in ("/static/page.css", "/docs")
            assert headers["cache-control"] == ("private, no-cache" if is_file else "no-store")
            assert "server" not in headers


async def test_too_many_requests_at_once_are_turned_away_but_probes_are_answered() -> None:
    hold = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await hold.wait()
        await fine(scope, receive, send)

    guard = guarded(slow)
    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(asked_directly, {}, guard)
        await anyio.wait_all_tasks_blocked()
        assert await asked_directly({}, guard) == 503
        assert await asked_directly({"path": "/livez"}, guard) == 200
        hold.set()
    assert await asked_directly({}, guard) == 200


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def guarded(app: ASGIApp) -> Guard:
    return Guard(app, token=secret(None), read_token=secret(None), in_cluster=False, allowed_hosts=lambda: ())


async def asked_directly(scope: dict[str, object], guard: Guard | None = None) -> int:
    """The status of one request at the ASGI border: peers that a test on one machine can't be."""

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
