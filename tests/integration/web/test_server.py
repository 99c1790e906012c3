"""Who is answered and who is refused, over real HTTP and down to the bytes; the server's port, bounds and end."""

import base64
import re
import socket
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.responses import Response

from service.config.secrets import Secret, mounted_file
from service.config.settings import HttpSettings, Settings
from service.domain.errors import ConfigError
from service.web import server
from service.web.auth import MAX_IN_FLIGHT, Guard
from service.web.server import bind
from tests.integration.web.stage import Stage, in_chunks, problem_of, received, secret, served

RUN = "/api/v1/collectors/ci/runs"
TOKEN, READERS = "open sesame", "for the readers"
HALF_A_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_A_BODY = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{"
HOSTS = Settings(collectors={}, http=HttpSettings(allowed_hosts=("Health.Example", "*.wide.example")))
with_token = pytest.mark.parametrize("options", [{"token": secret(TOKEN), "settings": HOSTS}])


@with_token
async def test_a_write_call_without_the_right_token_is_a_401(stage: Stage) -> None:
    wrong: list[list[bytes]] = [[], [b"Bearer"], [b"Bearer wrong"], [b"Bearer \xff\xfe"], [b"Basic b3Blbg=="]]
    for values in (*wrong, [TOKEN.encode()], [f"Bearer {TOKEN}".encode(), b"Bearer other"]):
        answer = await stage.client.post(RUN, headers=[(b"authorization", each) for each in values])
        problem_of(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not stage.context.scheduler.active.runs()


async def test_without_a_token_only_this_machine_may_write_no_proxy_on_it_and_in_a_cluster_nobody() -> None:
    for peer, header, in_cluster, status in (
        *((peer, "accept", False, 200) for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        *((peer, "accept", False, 403) for peer in ("10.0.0.7", "fe80::1%eth0")),
        *(("127.0.0.1", header, False, 403) for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via")),
        ("127.0.0.1", "accept", True, 403),
    ):
        blank = secret("  ")
        guard = Guard(Response(), token=blank, read_token=blank, in_cluster=in_cluster, allowed_hosts=lambda: ())
        # At the ASGI border: peers that a test on one machine can't be.
        transport = httpx.ASGITransport(app=guard, client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/", headers={header: "127.0.0.1"})
        assert answer.status_code == status, (peer, header)
        assert status == 200 or "INFRA_HEALTH_TOKEN" in problem_of(answer, 403)["detail"]


@pytest.mark.parametrize("options", [{"token": secret(TOKEN), "read_token": secret(READERS)}])
async def test_a_read_token_closes_reading_but_the_probes(stage: Stage) -> None:
    paths = ("/", "/version", "/metrics", "/openapi.json", "/docs", "/api/v1/collectors", "/static/page.css")
    wrong, right = ("Basic " + base64.b64encode(b"anybody:" + each).decode() for each in (b"wrong", READERS.encode()))
    for authorization in ("", "Bearer wrong", "Basic !!", "Basic Og==", wrong):
        for path in paths:
            answer = await stage.client.get(path, headers={"authorization": authorization} if authorization else {})
            problem_of(answer, 401)
            assert re.match("Basic .*, Bearer ", answer.headers["www-authenticate"])
    for authorization in (f"Bearer {READERS}", f"Bearer {TOKEN}", right):
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
    bearer = {b"authorization": f"Bearer {TOKEN}".encode()}
    foreign = [{b"sec-fetch-site": site} for site in (b"cross-site", b"same-site")]
    foreign += [{b"origin": each} for each in (b"https://evil.example", b"null", b"http://localhost:1", b"\xff")]
    for headers in foreign:
        problem_of(await stage.client.post(RUN, headers=bearer | headers), 403)
    assert not stage.context.scheduler.active.runs()
    own = {b"origin": f"http://127.0.0.1:{stage.port}".encode(), b"sec-fetch-site": b"same-origin"}
    behind_tls = {b"origin": b"https://health.example", b"host": b"health.example"}
    for headers in (own, behind_tls):
        assert (await stage.client.post("/api/v1/runs", headers=bearer | headers)).status_code == 202


@with_token
async def test_our_own_names_are_answered_and_foreign_ones_get_a_421_but_from_probes(stage: Stage) -> None:
    for host in (
        *("127.0.0.1", "10.1.2.3:8080", "[::1]:8080", "LOCALHOST.:80", "app.localhost", socket.gethostname()),
        *("infra-health", "infra-health.monitoring.svc", "infra-health.monitoring.svc.cluster.local:8080"),
        *("health.example", "a.b.wide.example"),
    ):
        assert (await stage.client.get("/version", headers={"host": host})).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "wide.example", "evilwide.example", "svc", "127.1"):
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
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        chunked + b"Content-Length: 3\r\n\r\nzz\r\n",
        *(b"GET /version HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n" for host in hosts),
    ):
        answer = await received(await stage.connect(garbage))
        assert answer.startswith(b"HTTP/1.1 400 "), garbage
        assert b"application/problem+json" in answer
        assert b"content-security-policy" in answer
        assert (await stage.client.get("/livez")).status_code == 200


async def test_sizes_beyond_the_bounds_are_refused(stage: Stage) -> None:
    problem_of(await stage.client.post(RUN, content=in_chunks(b" " * 1024 * 65, 1024)), 413)
    # Read to its end, so that the answer arrives.
    problem_of(await stage.client.post(RUN, content=b"x" * 5_000_000), 413)
    problem_of(await stage.client.get("/version", headers={"x-long": "x" * 16_000, "x-more": "x" * 400}), 431)
    assert not stage.context.scheduler.active.runs()
    assert (await stage.client.post(RUN, content=in_chunks(b" " * 1024 * 64, 1024))).status_code == 202


async def test_odd_addresses_never_make_a_500(stage: Stage) -> None:
    for path in (
        *(b"/%ff%fe", b"/api/v1/collectors/%00", b"/api/v1/runs/%2e%2e%2f", b"/api/v1/runs?before=%ff"),
        *(b"//evil.example/", b"http://evil.example/", b"/static/../app.py", b"/static/%2e%2e/app.py"),
        *(b"/static/swagger/..%2f..%2f__init__.py", b"/runs/%ff?limit=%ff", b"/checks/ci/%ff"),
    ):
        sent = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = await received(await stage.connect(sent))
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), path
        assert b"\r\nlocation:" not in answer.lower()
        assert b"import" not in answer


async def test_every_answer_carries_the_security_headers_and_head_is_get_without_the_body(stage: Stage) -> None:
    for path in ("/", "/livez", "/metrics", "/api/v1/runs", "/static/page.css", "/docs", "/nope", "/favicon.ico"):
        answer, head = await stage.client.get(path), await stage.client.head(path)
        assert (head.status_code, head.content) == (answer.status_code, b"")
        headers = answer.headers
        assert head.headers.get("content-type") == headers.get("content-type")
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert not re.search("unsafe|data:", policy)
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        is_file = path in ("/static/page.css", "/docs")
        assert headers["cache-control"] == ("private, no-cache" if is_file else "no-store")
        assert "server" not in headers


def test_a_port_is_ours_and_listens_at_once_for_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, callers in (("*", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("localhost", ["127.0.0.1"])):
        with bind(host, 0) as listener:
            assert listener.proto == socket.IPPROTO_TCP, "asyncio leaves Nagle's delay on for any other"
            port = listener.getsockname()[1]
            for caller in callers:
                socket.create_connection((caller, port)).close()
            with pytest.raises(ConfigError, match=rf"http\.port {port}: another process .*INFRA_HEALTH_HTTP__PORT"):
                bind(host, port)
    for host in ("203.0.113.7", "no such host", "x" * 300):
        with pytest.raises(ConfigError, match=r"http\.host .*no address of this machine"):
            bind(host, 0)
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind("*", 0) as listener:
        assert listener.family is socket.AF_INET


async def test_who_sends_too_slowly_or_never_reads_the_answers_is_cut_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_TIME", 0.05)
    for sent in (b"", HALF_A_REQUEST, HALF_A_BODY):
        assert await received(await stage.connect(sent)) == b""
    monkeypatch.setattr(server, "REQUEST_TIME", 600)
    monkeypatch.setattr(server, "ANSWER_TIME", 0.05)
    deaf = await stage.connect()
    with suppress(anyio.BrokenResourceError):
        while True:
            await deaf.send(b"GET /static/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await anyio.sleep(0.01)


async def test_requests_and_connections_beyond_their_bounds_give_way_so_that_probes_are_answered(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [await stage.connect(HALF_A_BODY) for _ in range(MAX_IN_FLIGHT)]
    while (await stage.client.get("/version")).status_code != 503:
        pass
    for path in ("/livez", "/readyz"):
        assert (await stage.client.get(path)).status_code == 200
    monkeypatch.setattr(server, "REQUEST_TIME", 600)  # it would end them as well
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    assert await received(slow[0]) == b""
    assert (await stage.client.get("/version")).status_code == 200
    await slow[-1].send(b"}")
    assert (await slow[-1].receive()).startswith(b"HTTP/1.1 202 ")
    for each in slow:
        await each.aclose()
