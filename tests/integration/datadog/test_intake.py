"""Bodies as Datadog's endpoints take them, and each answer over real HTTP as what the delivery acts on."""

import json
import random
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import zstandard
from structlog.testing import capture_logs

from service.config.clients import http_client
from service.config.secrets import Secret
from service.config.settings import DatadogSettings
from service.datadog.intake import Intake, intake_url
from service.datadog.payload import MAX_COMPRESSED, MAX_POINTS, MAX_RAW, Payload, encode
from service.domain.alerts import Event
from service.domain.delivery import Chunk, Point
from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.runs import Mode
from service.domain.samples import Kind
from tests.datadog import HANG_UP, LOSE_ANSWER, Reply, ScriptedDatadog, refusal

NOW = datetime.now(UTC).replace(microsecond=0)
AT = int(NOW.timestamp())
KEY = "0123456789abcdef0123456789abcdef"
HTML = {"Content-Type": "text/html; charset=utf-8"}


# Bodies


def point(value: float = 1.5, at: int = AT, metric: str = "metta.a", tag: str = "env:test") -> Point:
    return Point(metric, value, at, (tag,), 0)


def chunk(points: Sequence[Point], kind: Kind = Kind.GAUGE) -> Chunk:
    return Chunk(1, "run", "ci", Mode.LIVE, kind, points, 0, AT, AT)


def text(payload: Payload) -> bytes:
    return zlib.decompress(payload.body) if payload.kind is Kind.DISTRIBUTION else zstandard.decompress(payload.body)


def series(*chunks: Chunk, prefix: str = "") -> list[tuple[Any, ...]]:
    return [tuple(each.values()) for each in json.loads(text(encode(chunks, prefix)))["series"]]


def test_gauges_and_counts_travel_in_one_body_with_one_value_a_second() -> None:
    """Of gauges the last one, of counts the sum; points of one series share an entry, also across chunks."""
    gauges = chunk([point(1, AT - 60), point(2), point(tag="condition:< 5.0")])
    counts = chunk([Point("metta.c", value, AT, (), 600) for value in (1, 2, 3)], Kind.COUNT)
    assert series(gauges, counts, chunk([point(3)]), prefix="shadow.") == [
        ("shadow.metta.a", 3, [{"timestamp": AT - 60, "value": 1}, {"timestamp": AT, "value": 3}], ["env:test"]),
        ("shadow.metta.a", 3, [{"timestamp": AT, "value": 1.5}], ["condition:< 5.0"]),
        ("shadow.metta.c", 1, [{"timestamp": AT, "value": 6}], [], 600),
    ]


def test_distribution_values_of_one_second_travel_as_one_list_and_exactly() -> None:
    values = [0.1 + 0.2, 1e300, -5e-324, 1e16, 0.0, 1e16]
    points = [*map(point, values[:5]), point(9, AT + 5), point(values[5])]
    assert series(chunk(points, Kind.DISTRIBUTION)) == [
        ("metta.a", [[AT, values], [AT + 5, [9]]], ["env:test"], "distribution")
    ]


def noise(seed: int, length: int) -> str:
    return random.Random(seed).randbytes(length // 2).hex()


def test_what_one_body_can_not_hold_travels_in_several_within_all_limits() -> None:
    numbers = range(MAX_POINTS + 1_000)
    compresses_badly = [point(tag=f"a:{noise(number, 180)}") for number in numbers]
    much_json = [point(metric="m" * 900, tag=f"a:{number:0150}") for number in numbers]
    for points in (compresses_badly, much_json, [point()] * len(numbers)):
        pending, bodies = [chunk(points[at : at + 1_000]) for at in range(0, len(points), 1_000)], 0
        while pending:
            payload = encode(pending)
            assert len(payload.body) <= MAX_COMPRESSED
            assert len(text(payload)) <= MAX_RAW
            assert [*payload.sent, *payload.rest] == pending
            assert len(payload.sent) <= 10
            pending, bodies = list(payload.rest), bodies + 1
        assert 2 <= bodies <= 6


@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
def test_a_chunk_that_is_too_large_alone_is_refused_before_it_is_sent(kind: Kind) -> None:
    for large in (f"a:{noise(1, 1_200_000)}", f"a:{'x' * MAX_RAW}"):
        with pytest.raises(TooLarge):
            encode([chunk([point(tag=large)], kind), chunk([point()], kind)])


# Answers


@asynccontextmanager
async def intake_at(url: str, key: str | None = KEY) -> AsyncIterator[Intake]:
    async with http_client() as client:
        yield Intake(url, Secret("Datadog API key", "set DD_API_KEY", key), client, lambda: NOW)


@pytest.fixture
async def intake(server: ScriptedDatadog) -> AsyncIterator[Intake]:
    async with intake_at(server.url) as made:
        yield made


async def fault_of(intake: Intake, server: ScriptedDatadog, *script: Reply) -> HealthError:
    """What sending raises when the intake answers so."""
    server.script.extend(script)
    with pytest.raises(HealthError) as caught:
        await intake.send(encode([chunk([point()])]))
    return caught.value


def http_date(seconds: int) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (refusal(400, "Invalid metric name"), Rejected, "answered 400: Invalid metric name"),
        (Reply(400, b"broken \x00\xff payload"), Rejected, "answered 400: broken"),
        (refusal(422, "Unprocessable"), Rejected, "answered 422: Unprocessable"),
        (refusal(401, "Unauthorized"), Unauthorized, "the Datadog API key is refused"),
        (refusal(403, "Forbidden"), Unauthorized, "the Datadog API key is refused"),
        (Reply(413, b"<html>nginx</html>", HTML), TooLarge, "answered 413"),
        # A proxy's refusal is not Datadog's; a wrong address loses nothing, is named and not followed.
        (Reply(403, b"<html>Access denied</html>", HTML), Unavailable, "is a proxy in between?"),
        (Reply(401, {"message": "no"}), Unavailable, "is a proxy in between?"),
        (refusal(404, "Not found"), Unavailable, "is DD_URL right?"),
        (Reply(301, b"", {"Location": "/login"}), Unavailable, "is DD_URL right?"),
        (Reply(200, b"<html>Welcome to the hotel</html>", HTML), Unavailable, "is DD_URL right?"),
        # Time may mend it, and some say when: Datadog in X-RateLimit-Reset, others in Retry-After.
        (refusal(429, "So", X_RateLimit_Reset="17", Retry_After="900"), Unavailable, "answered 429: So"),
        (refusal(503, "So", X_RateLimit_Reset="17", Retry_After="5"), Unavailable, "answered 503: So"),
        *((refusal(status, "So"), Unavailable, f"answered {status}: So") for status in (408, 500)),
    ],
)
async def test_what_an_answer_means(
    intake: Intake, server: ScriptedDatadog, reply: Reply, kind: type[HealthError], text: str
) -> None:
    fault = await fault_of(intake, server, reply)
    assert type(fault) is kind
    assert text in str(fault)
    assert len(server.received) == 1
    # A body that is refused says nothing about the next one; a key that is refused does, and so does a wrong address.
    assert intake.trouble == (str(fault) if kind in (Unauthorized, Unavailable) else None)
    if isinstance(fault, Unavailable):
        assert (fault.answered, fault.retry_after) == (reply.status >= 500, {429: 17, 503: 5}.get(reply.status))
        assert not fault.ambiguous, "an answer says that the body was not taken, so it is safe to send it again"


async def test_only_a_request_that_was_sent_and_not_answered_is_ambiguous(server: ScriptedDatadog) -> None:
    cases = ((server.url, HANG_UP, True), (server.url, LOSE_ANSWER, True), ("http://127.0.0.1:9", HANG_UP, False))
    for url, reply, is_ambiguous in cases:
        async with intake_at(url) as intake:
            fault = await fault_of(intake, server, reply)
        assert isinstance(fault, Unavailable)
        assert fault.ambiguous is is_ambiguous
        assert (intake.requests, intake.trouble) == ({"error": 1}, str(fault))
    assert server.accepted == 1


async def test_a_proxy_that_refuses_the_tunnel_is_not_ambiguous_and_sees_no_key(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedDatadog
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", server.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with intake_at("https://intake.example") as intake:
        fault = await fault_of(intake, server, refusal(403))
    assert isinstance(fault, Unavailable)
    assert ("ProxyError" in str(fault), fault.ambiguous) == (True, False)
    (seen,) = server.received
    assert (seen.method, KEY in str(seen)) == ("CONNECT", False)


async def test_a_key_that_can_not_be_sent_is_told_without_showing_it_and_asks_nobody(server: ScriptedDatadog) -> None:
    odd = "the Datadog API key holds characters that no key has"
    for key, said in ((None, "no Datadog API key: set DD_API_KEY"), ("abc\ndef", odd), ("schlüssel", odd)):
        async with intake_at(server.url, key) as intake:
            fault = await fault_of(intake, server)
        assert (type(fault), str(fault), len(server.received)) == (Unauthorized, said, 0)


async def test_an_answer_is_told_in_one_short_line_without_the_key(intake: Intake, server: ScriptedDatadog) -> None:
    for status in (400, 403, 503):
        fault = await fault_of(intake, server, refusal(status, f"key {KEY}\nis\x1b[31m bad " + "x" * 50_000))
        assert "key *** is [31m bad xxx" in str(fault)
        assert (KEY in str(fault), len(str(fault)) < 400) == (False, True)


async def test_a_wrong_clock_is_told_once_and_points_keep_their_time(intake: Intake, server: ScriptedDatadog) -> None:
    # A proxy's date says nothing of Datadog's clock.
    await fault_of(intake, server, Reply(502, b"", HTML | {"Date": http_date(-9 * 3600)}))
    skews: list[float | None] = [intake.clock_skew]
    with capture_logs() as logs:
        for ago in (300, 300, 0):
            server.script.append(Reply(202, b"", {"Date": http_date(-ago)}))
            await intake.send(encode([chunk([point()])]))
            skews.append(intake.clock_skew)
    assert skews == [None, 300, 300, 0]
    assert [(each["log_level"], each["ahead_seconds"]) for each in logs] == [("warning", 300), ("info", 0)]
    assert {each.json["series"][0]["points"][0]["timestamp"] for each in server.received} == {AT}
    assert (intake.requests, intake.trouble) == ({"502": 1, "202": 3}, None)


async def test_an_event_arrives_as_it_is_and_holds_up_no_points(intake: Intake, server: ScriptedDatadog) -> None:
    event = Event("a: pass -> fail", "%%% \ntext\n %%%", ("env:test",), "error", NOW, "a b")
    server.script.append(refusal(503, "away"))
    with pytest.raises(Unavailable):
        await intake.send_event(event)
    assert intake.trouble is None
    await intake.send_event(event)
    (arrived,) = server.events
    assert arrived.pop("date_happened") == AT
    assert Event(**arrived | {"tags": tuple(arrived["tags"]), "at": NOW}) == event


async def test_the_address_may_have_a_path_and_credentials_that_nobody_is_shown(server: ScriptedDatadog) -> None:
    url = intake_url(DatadogSettings(site="us5.datadoghq.com", url=f"{server.url}/relay/"))
    async with intake_at(url.replace("http://", "http://user:hidden@")) as intake:
        fault = await fault_of(intake, server, refusal(404))
    assert server.received[0].path == "/relay/api/v2/series"
    assert "127.0.0.1 answered 404" in str(fault)
    assert "hidden" not in str(fault)
    assert intake_url(DatadogSettings(site="us5.datadoghq.com")) == "https://api.us5.datadoghq.com"
