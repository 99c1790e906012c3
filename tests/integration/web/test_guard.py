"""Every refusal, over real HTTP and down to the bytes."""

import base64
import re
import socket
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.config.secrets import Secret, mounted_file
from service.config.settings import HttpSettings, Settings
from service.web.auth import Guard
from tests.integration.web.stage import Stage, in_chunks, problem_of, secret, served

RUN = "/api/v1/collectors/ci/runs"
TOKEN = "open sesame"
READERS = "for the readers"
with_token = pytest.mark.parametrize("options", [{"token": secret(TOKEN)}])
with_tokens = pytest.mark.parametrize("options", [{"token": secret(TOKEN), "read_token": secret(READERS)}])


def allow(stage: Stage, *hosts: str) -> None:
    """Sets ``http.allowed_hosts``."""
    stage.context.settings = Settings(collectors={}, http=HttpSettings(allowed_hosts=hosts))


def as_password(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


@with_token
async def test_a_write_call_without_the_right_token_is_a_401(stage: Stage) -> None:
    wrong: list[list[bytes]] = [[], [b"Bearer"], [b"Bearer wrong"], [b"Bearer \xff\xfe"], [b"Basic b3Blbg=="]]
    for values in (*wrong, [TOKEN.encode()], [f"Bearer {TOKEN}".encode(), b"Bearer other"]):
        answer = await stage.client.post(RUN, headers=[(b"authorization", each) for each in values])
        problem_of(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
    assert not stage.context.scheduler.active.runs()


@pytest.mark.parametrize("options", [{"token": secret(token), "in_cluster": True} for token in (None, "  ")])
async def test_without_a_token_a_cluster_refuses_and_names_the_setting(stage: Stage) -> None:
    body = problem_of(await stage.client.post(RUN, headers={"authorization": "Bearer x"}), 403)
    assert "INFRA_HEALTH_TOKEN" in body["detail"]


@pytest.mark.parametrize(
    ("peer", "header", "status"),
    [
        *((peer, "accept", 200) for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        *((peer, "accept", 403) for peer in ("10.0.0.7", "fe80::1%eth0")),
        *(("127.0.0.1", header, 403) for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via")),
    ],
)
async def test_without_a_token_only_this_machine_may_write_and_no_proxy_on_it(
    peer: str, header: str, status: int
) -> None:
    assert await asked_directly(guarded(Response()), peer, "POST", headers={header: "127.0.0.1"}) == status


@with_tokens
async def test_a_read_token_closes_reading_but_the_probes(stage: Stage) -> None:
    paths = ("/", "/version", "/metrics", "/openapi.json", "/docs", "/api/v1/collectors", "/static/page.css")
    for authorization in ("", "Bearer wrong", "Bearer", "Basic !!", "Basic Og==", as_password("wrong")):
        for path in paths:
            answer = await stage.client.get(path, headers={"authorization": authorization} if authorization else {})
            problem_of(answer, 401)
            assert re.match("Basic .*, Bearer ", answer.headers["www-authenticate"])
            assert READERS not in answer.text
    for authorization in (f"Bearer {READERS}", f"Bearer {TOKEN}", as_password(READERS)):
        for path in paths:
            assert (await stage.client.get(path, headers={"authorization": authorization})).status_code == 200, path
    for path in ("/livez", "/healthz", "/readyz"):
        assert (await stage.client.get(path)).status_code == 200


async def test_a_read_token_in_a_file_is_taken_over_and_closes_reading_while_the_file_is_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "readers"
    token = Secret("token of the read calls", "set it", sources=[mounted_file(file, "INFRA_HEALTH_READ_TOKEN_FILE")])
    async with served(tmp_path, read_token=token) as stage:
        problem_of(await stage.client.get("/version"), 401)
        for held, shown, status in (("first", "first", 200), ("second", "second", 200), ("second", "first", 401)):
            file.write_text(f"{held}-secret")
            answer = await stage.client.get("/version", headers={"authorization": f"Bearer {shown}-secret"})
            assert answer.status_code == status


@with_token
async def test_a_page_of_another_site_may_not_write_even_with_the_token(stage: Stage) -> None:
    allow(stage, "health.example")
    bearer = {b"authorization": f"Bearer {TOKEN}".encode()}
    for site in (b"cross-site", b"same-site"):
        problem_of(await stage.client.post(RUN, headers=bearer | {b"sec-fetch-site": site}), 403)
    for origin in (b"https://evil.example", b"null", b"http://localhost:1", b"\xff"):
        problem_of(await stage.client.post(RUN, headers=bearer | {b"origin": origin}), 403)
    assert not stage.context.scheduler.active.runs()
    own = {b"origin": f"http://127.0.0.1:{stage.port}".encode(), b"sec-fetch-site": b"same-origin"}
    behind_tls = {b"origin": b"https://health.example", b"host": b"health.example"}
    for headers in (own, behind_tls):
        assert (await stage.client.post("/api/v1/runs", headers=bearer | headers)).status_code == 202


async def test_our_own_names_are_answered_and_foreign_ones_get_a_421_but_from_probes(stage: Stage) -> None:
    allow(stage, "Health.Example", "*.wide.example")
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


async def test_what_is_not_http_is_a_400_problem_and_the_next_caller_is_served(stage: Stage) -> None:
    hosts = (b"", b"a b", b"a/b", b"[::1", b"a@b", b"h\xf6st", b"localhost:99x")
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # a TLS client on a plain port
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        chunked + b"\r\nzz\r\n",
        chunked + b"Content-Length: 3\r\n\r\nzz\r\n",
        *(b"GET /version HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n" for host in hosts),
    ):
        answer = await stage.raw(garbage)
        assert answer.startswith(b"HTTP/1.1 400 "), garbage
        assert b"application/problem+json" in answer
        assert b"content-security-policy" in answer
        assert (await stage.client.get("/livez")).status_code == 200


async def test_sizes_beyond_the_bounds_are_refused(stage: Stage) -> None:
    problem_of(await stage.client.post(RUN, content=b" " * (64 * 1024 + 1)), 413)
    problem_of(await stage.client.post(RUN, content=in_chunks(b" " * 1024 * 65, 1024)), 413)
    # Read to its end, so that the answer arrives.
    problem_of(await stage.client.post(RUN, content=b"x" * 5_000_000), 413)
    problem_of(await stage.client.get("/version", headers={"x-long": "x" * 16_000, "x-more": "x" * 400}), 431)
    for value in (b"x", b"-1", b"1e3", b"9" * 5000, "²".encode()):
        sent = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + value + b"\r\n\r\n"
        assert (await stage.raw(sent)).startswith(b"HTTP/1.1 4")
    assert not stage.context.scheduler.active.runs()
    assert (await stage.client.post(RUN, content=in_chunks(b" " * 1024 * 64, 1024))).status_code == 202


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


async def test_every_answer_carries_the_security_headers(stage: Stage) -> None:
    for path in ("/", "/livez", "/metrics", "/api/v1/runs", "/static/page.css", "/docs", "/nope", "/favicon.ico"):
        headers = (await stage.client.get(path)).headers
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert not re.search("unsafe|data:", policy)
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        is_file = path in ("/static/page.css", "/docs")
        assert headers["cache-control"] == ("private, no-cache" if is_file else "no-store")
        assert "server" not in headers


async def test_too_many_requests_at_once_are_turned_away_but_probes_are_answered() -> None:
    hold = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await hold.wait()
        await Response()(scope, receive, send)

    guard = guarded(slow)
    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(asked_directly, guard)
        await anyio.wait_all_tasks_blocked()
        assert await asked_directly(guard) == 503
        assert await asked_directly(guard, path="/livez") == 200
        hold.set()
    assert await asked_directly(guard) == 200


def guarded(app: ASGIApp) -> Guard:
    return Guard(app, token=secret(None), read_token=secret(None), in_cluster=False, allowed_hosts=lambda: ())


async def asked_directly(
    guard: Guard, peer: str = "127.0.0.1", method: str = "GET", path: str = "/", **rest: Any
) -> int:
    """The status of one request at the ASGI border: peers that a test on one machine can't be."""
    transport = httpx.ASGITransport(app=guard, client=(peer, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.request(method, path, **rest)).status_code
