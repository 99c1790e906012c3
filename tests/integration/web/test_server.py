"""The server as a task: its port, its bounds on connections, its end."""

import resource
import socket
from pathlib import Path

import anyio
import pytest

from service.domain.errors import ConfigError
from service.web import server
from service.web.server import bind
from tests.integration.web.stage import Stage, received, served

HALF_A_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_TICK", 0.05)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "x" * 300, "a..b"])
def test_a_host_that_is_not_this_machines_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.host .*no address of this machine"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "callers"),
    [("*", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("::", ["127.0.0.1"]), ("localhost", ["127.0.0.1"])],
)
def test_a_port_is_ours_and_listens_at_once_for_each_family(host: str, callers: list[str]) -> None:
    with bind(host, 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio leaves Nagle's delay on for any other"
        port = listener.getsockname()[1]
        for caller in callers:
            socket.create_connection((caller, port)).close()
        with pytest.raises(ConfigError, match=rf"http\.port {port}: another process .*INFRA_HEALTH_HTTP__PORT"):
            bind(host, port)


def test_a_star_is_ipv4_alone_where_ipv6_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind("*", 0) as listener:
        assert listener.family is socket.AF_INET
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


async def test_an_idle_server_closes_open_connections_and_ends(stage: Stage) -> None:
    idle, half = await stage.connect(), await stage.connect()
    await idle.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await idle.receive()).startswith(b"HTTP/1.1 200 ")
    await half.send(HALF_A_REQUEST)
    stage.stop()
    assert await received(half) == b""
    assert await received(idle) == b""


async def test_a_request_that_comes_too_slowly_is_cut_off(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_TIME", 0.05)
    silent, half, no_body = [await stage.connect() for _ in range(3)]
    await half.send(HALF_A_REQUEST)
    await no_body.send(b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    for stream in (silent, half, no_body):
        assert await received(stream) == b""


async def test_a_client_that_never_reads_its_answers_is_cut_off(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_TIME", 0.05)
    deaf = await stage.connect()

    async def ask_on() -> None:
        while True:
            await deaf.send(b"GET /static/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await anyio.sleep(0.01)

    with pytest.raises(anyio.BrokenResourceError):
        await ask_on()


async def test_slow_clients_beyond_the_bound_give_way_so_that_probes_are_answered(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    slow = []
    for _ in range(60):
        slow.append(await stage.connect())
        await slow[-1].send(HALF_A_REQUEST)
    for path in ("/livez", "/readyz"):
        assert (await stage.client.get(path)).status_code == 200
    assert await received(slow[0]) == b""
    await slow[-1].send(b"no more\r\n\r\n")
    assert (await slow[-1].receive()).startswith(b"HTTP/1.1 200 ")


async def test_callers_beyond_the_files_that_a_user_usually_may_open_are_answered(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as next_one:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one.fileno() + 40, before[1]))
    try:
        async with served(tmp_path) as stage:
            idle = [await stage.connect() for _ in range(40)]
            assert (await stage.client.get("/livez")).status_code == 200
            for each in idle:
                await each.aclose()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    answer = await stage.raw(
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /version HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.index(b"scheduler") < answer.index(b"commit")
