"""Each answer of the intake over real HTTP, translated into what the delivery acts on."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.config.clients import http_client
from service.config.secrets import Secret
from service.config.settings import DatadogSettings
from service.datadog.intake import Intake, intake_url
from service.datadog.payload import encode
from service.demo.stage import serve
from service.domain.alerts import Event
from service.domain.delivery import Chunk, Point
from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.runs import Mode
from service.domain.samples import Kind
from tests.datadog import HANG_UP, LOSE_ANSWER, Reply, ScriptedDatadog, refusal

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AT = int(NOW.timestamp())
KEY = "0123456789abcdef0123456789abcdef"
HTML = {"Content-Type": "text/html; charset=utf-8"}


def payload(kind: Kind = Kind.GAUGE) -> Any:
    return encode([Chunk(1, "run", "ci", Mode.LIVE, kind, [Point("metta.a", 1.5, AT, ("env:test",))], 50, AT, AT)])


class Rotated:
    """A source of which each look-up gives the next of ``values``, the last for ever."""

    title, lifetime = "a rotated file", 3600.0

    def __init__(self, *values: str) -> None:
        self.values = list(values)

    async def read(self) -> str:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def secret(value: str | None = KEY, source: Any = None) -> Secret:
    return Secret("Datadog API key", "set DD_API_KEY", value, sources=[source] if source else ())


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """One server for all tests; ``app`` is each test's own."""
    holder = SimpleNamespace(app=ScriptedDatadog())

    async def latest(scope: Any, receive: Any, send: Any) -> None:
        await holder.app(scope, receive, send)

    with serve(latest) as (holder.url,):
        yield holder


@pytest.fixture
def datadog(served: SimpleNamespace) -> ScriptedDatadog:
    served.app = ScriptedDatadog(now=NOW.timestamp)
    return served.app  # type: ignore[no-any-return]


@asynccontextmanager
async def intake_at(url: str, key: Secret | None = None) -> AsyncIterator[Intake]:
    async with http_client() as client:
        yield Intake(url, key or secret(), client, lambda: NOW)


@pytest.fixture
async def intake(served: SimpleNamespace, datadog: ScriptedDatadog) -> AsyncIterator[Intake]:
    async with intake_at(served.url) as made:
        yield made


async def fault_of(intake: Intake, datadog: ScriptedDatadog, reply: Reply) -> HealthError:
    """What sending raises when the intake answers so."""
    datadog.script.append(reply)
    with pytest.raises(HealthError) as caught:
        await intake.send(payload())
    return caught.value


async def test_series_are_posted_compressed_with_the_key_in_a_header_alone(
    intake: Intake, datadog: ScriptedDatadog
) -> None:
    await intake.send(payload())
    (request,) = datadog.received
    assert (request.method, request.path) == ("POST", "/api/v2/series")
    assert request.headers["dd-api-key"] == KEY
    assert request.headers["content-encoding"] == "zstd1"
    assert [(each.metric, each.kind, each.value) for each in datadog.points] == [("metta.a", "gauge", 1.5)]
    assert intake.requests == {"202": 1}
    assert intake.trouble is None


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (refusal(400, "Invalid metric name"), Rejected, "answered 400: Invalid metric name"),
        (Reply(400, b"broken \x00 payload"), Rejected, "answered 400: broken payload"),
        (Reply(400, b'{"errors": ["\xff"]}'), Rejected, "answered 400: "),
        (refusal(422, "Unprocessable"), Rejected, "answered 422: Unprocessable"),
        (refusal(401, "Unauthorized"), Unauthorized, "the Datadog API key is refused"),
        (refusal(403, "Forbidden"), Unauthorized, "the Datadog API key is refused"),
        (refusal(413, "Payload too large"), TooLarge, "answered 413"),
        (Reply(413, b"<html>nginx</html>", HTML), TooLarge, "answered 413"),
        # A proxy's refusal is not Datadog's; a wrong address loses nothing, is named and not followed.
        (Reply(403, b"<html>Access denied</html>", HTML), Unavailable, "is a proxy in between?"),
        (Reply(403, b"Blocked by policy", {"Content-Type": "text/plain"}), Unavailable, "is a proxy in between?"),
        (Reply(401, b"<html>Sign in</html>", HTML), Unavailable, "is a proxy in between?"),
        (Reply(403, {"message": "no"}), Unavailable, "is a proxy in between?"),
        (Reply(404, b"not found", {"Content-Type": "text/plain"}), Unavailable, "is DD_URL right?"),
        (refusal(404, "Not found"), Unavailable, "is DD_URL right?"),
        (refusal(405), Unavailable, "is DD_URL right?"),
        (Reply(301, b"", {"Location": "https://elsewhere.example/"}), Unavailable, "is DD_URL right?"),
        (Reply(302, b"", {"Location": "/login"}), Unavailable, "is DD_URL right?"),
        (Reply(200, b"<html>Welcome to the hotel</html>", HTML), Unavailable, "is DD_URL right?"),
    ],
)
async def test_what_an_answer_means(
    intake: Intake, datadog: ScriptedDatadog, reply: Reply, kind: type[HealthError], text: str
) -> None:
    fault = await fault_of(intake, datadog, reply)
    assert type(fault) is kind
    assert text in str(fault)
    assert len(datadog.received) == 1
    # A body that is refused says nothing about the next one; a key that is refused does, and so does a wrong address.
    assert bool(intake.trouble) is (kind in (Unauthorized, Unavailable))


@pytest.mark.parametrize("status", [402, 408, 429, 500, 503, 599])
async def test_what_time_may_mend(intake: Intake, datadog: ScriptedDatadog, status: int) -> None:
    fault = await fault_of(intake, datadog, refusal(status, "Some reason"))
    assert isinstance(fault, Unavailable)
    assert f"answered {status}: Some reason" in str(fault)
    assert fault.retry_after is None
    assert fault.answered is (status >= 500)
    assert not fault.ambiguous, "an answer says that the body was not taken, so it is safe to send it again"
    assert intake.trouble == str(fault)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (refusal(429, X_RateLimit_Reset="17"), 17),
        (refusal(429, X_RateLimit_Reset="17", Retry_After="900"), 17),
        (refusal(429, Retry_After="5"), 5),
        (refusal(503, Retry_After="120"), 120),
        (refusal(503, Retry_After=format_datetime(NOW + timedelta(seconds=90), usegmt=True)), 90),
        (refusal(503, Retry_After=format_datetime(NOW - timedelta(seconds=90), usegmt=True)), 0),
        (refusal(503, X_RateLimit_Reset="17"), None),
        (refusal(429, X_RateLimit_Reset="soon"), None),
        (refusal(429, X_RateLimit_Reset="-3"), None),
        (refusal(429, X_RateLimit_Reset="inf"), None),
    ],
)
async def test_the_pause_that_an_answer_asks_for(
    intake: Intake, datadog: ScriptedDatadog, reply: Reply, seconds: float | None
) -> None:
    fault = await fault_of(intake, datadog, reply)
    assert isinstance(fault, Unavailable)
    assert fault.retry_after == seconds


@pytest.mark.parametrize("reply", [HANG_UP, LOSE_ANSWER])
async def test_no_answer_after_sending_is_ambiguous(intake: Intake, datadog: ScriptedDatadog, reply: Reply) -> None:
    fault = await fault_of(intake, datadog, reply)
    assert isinstance(fault, Unavailable)
    assert fault.ambiguous
    assert datadog.accepted == (1 if reply is LOSE_ANSWER else 0)
    assert intake.requests == {"error": 1}


async def test_no_connection_is_not_ambiguous() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with intake_at(f"http://127.0.0.1:{port}") as intake:
        with pytest.raises(Unavailable, match="ConnectError") as caught:
            await intake.send(payload())
    assert not caught.value.ambiguous


async def test_a_proxy_that_refuses_the_tunnel_is_not_ambiguous_and_sees_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with intake_at("https://intake.example") as intake:
            with pytest.raises(Unavailable, match="ProxyError") as caught:
                await intake.send(payload(Kind.DISTRIBUTION))
    assert not caught.value.ambiguous
    assert seen[0].startswith(b"CONNECT")
    assert KEY.encode() not in seen[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no Datadog API key: set DD_API_KEY"),
        ("abc\ndef", "the Datadog API key holds characters that no key has"),
        ("schlüssel", "the Datadog API key holds characters that no key has"),
    ],
)
async def test_a_key_that_can_not_be_sent_is_told_without_showing_it_and_asks_nobody(
    served: SimpleNamespace, datadog: ScriptedDatadog, value: str | None, said: str
) -> None:
    async with intake_at(served.url, secret(value)) as intake:
        with pytest.raises(Unauthorized) as caught:
            await intake.send(payload())
    assert (str(caught.value), len(datadog.received)) == (said, 0)


@pytest.mark.parametrize(("keys", "is_taken"), [(["old", "new"], True), (["old"], False)])
async def test_a_refused_key_is_looked_up_again_and_only_another_one_tried(
    served: SimpleNamespace, datadog: ScriptedDatadog, keys: list[str], is_taken: bool
) -> None:
    datadog.intercept = lambda got: None if got.headers["dd-api-key"] == "new" else refusal(403, "Forbidden")
    async with intake_at(served.url, secret(None, Rotated(*keys))) as intake:
        with nullcontext() if is_taken else pytest.raises(Unauthorized):
            await intake.send(payload())
    assert [request.headers["dd-api-key"] for request in datadog.received] == keys


async def test_an_answer_that_repeats_the_key_does_not_put_it_into_a_message(
    intake: Intake, datadog: ScriptedDatadog
) -> None:
    for status in (400, 403, 503):
        fault = await fault_of(intake, datadog, refusal(status, f"key {KEY} is bad"))
        assert "key *** is bad" in str(fault)
        assert KEY not in str(fault)


async def test_a_long_answer_makes_a_short_message_on_one_line(intake: Intake, datadog: ScriptedDatadog) -> None:
    fault = await fault_of(intake, datadog, refusal(400, "first\nline\x1b[31m " + "x" * 50_000))
    assert "first line [31m xxx" in str(fault)
    assert len(str(fault)) < 400


def dated(ago: timedelta, status: int = 202, **headers: str) -> Reply:
    date = {"Date": format_datetime(NOW - ago, usegmt=True)}
    return Reply(status, b"", {**date, **{name.replace("_", "-"): value for name, value in headers.items()}})


async def test_a_clock_that_is_wrong_is_warned_of_once_and_points_keep_their_time(
    intake: Intake, datadog: ScriptedDatadog
) -> None:
    known_before = intake.clock_skew
    datadog.script.extend([dated(timedelta(minutes=5))] * 3)
    with capture_logs() as logs:
        for _ in range(3):
            await intake.send(payload())
    assert (known_before, intake.clock_skew) == (None, 300)
    assert [entry["ahead_seconds"] for entry in logs] == [300]
    assert datadog.received[0].json["series"][0]["points"][0]["timestamp"] == AT
    datadog.script.append(dated(timedelta(0)))
    with capture_logs() as logs:
        await intake.send(payload())
    assert [entry["log_level"] for entry in logs] == ["info"]


async def test_a_proxy_s_date_says_nothing_of_datadog_s_clock(intake: Intake, datadog: ScriptedDatadog) -> None:
    await fault_of(intake, datadog, dated(timedelta(hours=9), 502, Content_Type="text/html"))
    assert intake.clock_skew is None


async def test_validation_sends_nothing_and_tells_a_wrong_key(intake: Intake, datadog: ScriptedDatadog) -> None:
    await intake.validate()
    datadog.api_keys = {"another"}
    with pytest.raises(Unauthorized, match="the Datadog API key is refused"):
        await intake.validate()
    assert {request.path for request in datadog.received} == {"/api/v1/validate"}
    assert datadog.accepted == 0


async def test_an_event_arrives_as_it_is(intake: Intake, datadog: ScriptedDatadog) -> None:
    await intake.send_event(Event("a: pass -> fail", "%%% \ntext\n %%%", ("env:test",), "error", NOW, "a b"))
    (event,) = datadog.events
    assert event["date_happened"] == AT
    assert (event["title"], event["alert_type"], event["aggregation_key"]) == ("a: pass -> fail", "error", "a b")
    assert event["tags"] == ["env:test"]
    datadog.script.append(refusal(503, "away"))
    with pytest.raises(Unavailable):
        await intake.send_event(Event("t", "x", (), "error", NOW, ""))
    assert intake.trouble is None, "points are not held up by an event"


async def test_the_address_may_have_a_path_and_credentials_that_nobody_is_shown(
    served: SimpleNamespace, datadog: ScriptedDatadog
) -> None:
    url = intake_url(DatadogSettings(url=f"{served.url}/relay/"))
    async with intake_at(url.replace("http://", "http://user:hidden@")) as intake:
        fault = await fault_of(intake, datadog, refusal(404))
    assert datadog.received[0].path == "/relay/api/v2/series"
    assert "127.0.0.1 answered 404" in str(fault)
    assert "hidden" not in str(fault)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://api.datadoghq.com"),
        ({"site": "us5.datadoghq.com"}, "https://api.us5.datadoghq.com"),
        ({"site": "ddog-gov.com", "url": "http://127.0.0.1:8126"}, "http://127.0.0.1:8126"),
    ],
)
def test_the_address_comes_from_the_url_else_from_the_site(settings: dict[str, str], url: str) -> None:
    assert intake_url(DatadogSettings(**settings)) == url
