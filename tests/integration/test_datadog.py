"""Each answer of the intake over real HTTP, translated into what the delivery acts on."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from service.adapters.datadog import DatadogIntake, intake_url
from service.adapters.secrets import Secret
from service.adapters.secrets_manager import SecretsManager
from service.config import DatadogSettings
from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.points import Point
from service.domain.samples import Kind
from tests.integration.scripted_intake import HANG_UP, HTML, Answer, Received, datadog_says, scripted

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KEY = "0123456789abcdef0123456789abcdef"
GAUGE = Point(1, "metta.a", Kind.GAUGE, 0, '["env:test"]', 1_760_000_000, 1.5)
DISTRIBUTION = Point(2, "metta.d", Kind.DISTRIBUTION, 0, "[]", 1_760_000_000, 2.5)


class Rotated(SecretsManager):
    """A Secrets Manager whose secret is the next of ``values`` at each look-up."""

    def __init__(self, *values: str) -> None:
        self.values = list(values)

    async def read(self, name: str) -> str:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def secret(value: str | None = KEY, manager: SecretsManager | None = None) -> Secret:
    return Secret("Datadog API key", "set DD_API_KEY", value, manager=manager, name="datadog/api-key")


@asynccontextmanager
async def intake_at(
    url: str, key: Secret | None = None, now: Callable[[], datetime] = lambda: NOW
) -> AsyncIterator[DatadogIntake]:
    intake = DatadogIntake(url, key or secret(), now)
    try:
        yield intake
    finally:
        await intake.aclose()


async def fault_of(*answers: Answer, key: Secret | None = None, point: Point = GAUGE) -> HealthError:
    """What sending raises when the intake answers so."""
    async with scripted(*answers) as server, intake_at(server.url, key) as intake:
        with pytest.raises(HealthError) as caught:
            await intake.send(intake.encode([point]))
        return caught.value


async def test_series_are_posted_compressed_with_the_key_in_a_header_alone() -> None:
    async with scripted(Answer()) as server, intake_at(server.url) as intake:
        await intake.send(intake.encode([GAUGE]))

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/api/v2/series")
    assert request.headers["dd-api-key"] == KEY
    assert request.headers["content-encoding"] == "zstd1"
    assert request.headers["content-type"] == "application/json"
    assert KEY not in request.target
    assert request.json == {
        "series": [
            {
                "metric": "metta.a",
                "type": 3,
                "points": [{"timestamp": 1_760_000_000, "value": 1.5}],
                "tags": ["env:test"],
            }
        ]
    }


async def test_distributions_are_posted_to_their_own_endpoint() -> None:
    async with scripted(Answer(body=b'{"status":"ok"}')) as server, intake_at(server.url) as intake:
        await intake.send(intake.encode([DISTRIBUTION]))

    (request,) = server.requests
    assert request.target == "/api/v1/distribution_points"
    assert request.headers["content-encoding"] == "deflate"
    assert request.json["series"][0]["points"] == [[1_760_000_000, [2.5]]]


async def test_one_connection_serves_all_requests() -> None:
    async with scripted(Answer()) as server, intake_at(server.url) as intake:
        for _ in range(5):
            await intake.send(intake.encode([GAUGE]))

    assert (len(server.requests), server.connections) == (5, 1)


@pytest.mark.parametrize("status", [200, 202])
async def test_taken(status: int) -> None:
    async with scripted(Answer(status, b"")) as server, intake_at(server.url) as intake:
        await intake.send(intake.encode([GAUGE]))


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (datadog_says(400, "Invalid metric name"), Rejected, "answered 400: Invalid metric name"),
        (Answer(400, b"broken \x00 payload"), Rejected, "answered 400: broken payload"),
        (datadog_says(422, "Unprocessable"), Rejected, "answered 422: Unprocessable"),
        (datadog_says(401, "Unauthorized"), Unauthorized, "the Datadog API key is refused"),
        (datadog_says(403, "Forbidden"), Unauthorized, "the Datadog API key is refused"),
        (datadog_says(413, "Payload too large"), TooLarge, "answered 413"),
        (Answer(413, b"<html>nginx</html>", HTML), TooLarge, "answered 413"),
    ],
)
async def test_what_time_cannot_mend(answer: Answer, kind: type[HealthError], text: str) -> None:
    fault = await fault_of(answer)

    assert type(fault) is kind
    assert text in str(fault)


@pytest.mark.parametrize("point", [GAUGE, DISTRIBUTION])
@pytest.mark.parametrize("status", [402, 408, 409, 418, 429, 500, 502, 503, 504, 599])
async def test_what_time_may_mend(status: int, point: Point) -> None:
    fault = await fault_of(datadog_says(status, "Some reason"), point=point)

    assert isinstance(fault, Unavailable)
    assert f"answered {status}: Some reason" in str(fault)
    assert fault.retry_after is None
    # An answer says that the body was not taken, so it is safe to send it again.
    assert not fault.ambiguous


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (datadog_says(429, X_RateLimit_Reset="17"), 17),
        (datadog_says(429, X_RateLimit_Reset="17", Retry_After="900"), 17),
        (datadog_says(429, Retry_After="5"), 5),
        (datadog_says(503, Retry_After="120"), 120),
        (datadog_says(503, Retry_After=format_datetime(NOW + timedelta(seconds=90), usegmt=True)), 90),
        (datadog_says(503, Retry_After=format_datetime(NOW - timedelta(seconds=90), usegmt=True)), 0),
        (datadog_says(503, X_RateLimit_Reset="17"), None),
        (datadog_says(429, X_RateLimit_Reset="soon"), None),
        (datadog_says(429, X_RateLimit_Reset="-3"), None),
        (datadog_says(429, X_RateLimit_Reset="inf"), None),
    ],
)
async def test_the_pause_that_an_answer_asks_for(answer: Answer, seconds: float | None) -> None:
    fault = await fault_of(answer)

    assert isinstance(fault, Unavailable)
    assert fault.retry_after == seconds


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, b"<html>Access denied</html>", HTML),
        Answer(403, b"Blocked by policy", {"Content-Type": "text/plain"}),
        Answer(401, b"<html>Sign in</html>", HTML),
        Answer(403, b'{"message":"no"}'),
    ],
)
async def test_a_proxys_refusal_is_not_datadogs(answer: Answer) -> None:
    fault = await fault_of(answer)

    assert isinstance(fault, Unavailable)
    assert "is a proxy in between?" in str(fault)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b"not found", {"Content-Type": "text/plain"}),
        datadog_says(404, "Not found"),
        datadog_says(405),
        Answer(301, b"", {"Location": "https://elsewhere.example/"}),
        Answer(302, b"", {"Location": "/login"}),
        Answer(200, b"<html>Welcome to the hotel</html>", HTML),
    ],
)
async def test_a_wrong_address_loses_nothing_and_is_named(answer: Answer) -> None:
    fault = await fault_of(answer)

    assert isinstance(fault, Unavailable)
    assert "is DD_URL right?" in str(fault)


async def test_a_page_that_says_400_is_a_proxys_and_costs_no_point() -> None:
    assert isinstance(await fault_of(Answer(400, b"<html>Bad request</html>", HTML)), Unavailable)


async def test_no_redirect_is_followed() -> None:
    async with scripted(Answer()) as elsewhere:
        location = {"Location": f"{elsewhere.url}/api/v2/series"}
        async with scripted(Answer(307, b"", location)) as server, intake_at(server.url) as intake:
            with pytest.raises(Unavailable):
                await intake.send(intake.encode([GAUGE]))
        assert elsewhere.requests == []


async def test_no_answer_after_sending_is_ambiguous() -> None:
    fault = await fault_of(HANG_UP)

    assert isinstance(fault, Unavailable)
    assert fault.ambiguous


async def test_no_connection_is_not_ambiguous() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with intake_at(f"http://127.0.0.1:{port}") as intake:
        with pytest.raises(Unavailable) as caught:
            await intake.send(intake.encode([GAUGE]))

    assert not caught.value.ambiguous
    assert "ConnectError" in str(caught.value)


async def test_a_missing_key_says_what_to_set_and_asks_nobody() -> None:
    async with scripted(Answer()) as server, intake_at(server.url, secret(None)) as intake:
        with pytest.raises(Unauthorized, match="no Datadog API key: set DD_API_KEY"):
            await intake.send(intake.encode([GAUGE]))

    assert server.requests == []


@pytest.mark.parametrize("value", ["abc\ndef", "schlüssel"])
async def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(value: str) -> None:
    fault = await fault_of(Answer(), key=secret(value))

    assert isinstance(fault, Unauthorized)
    assert value not in str(fault)


async def test_white_space_around_a_key_is_a_slip_of_the_editor() -> None:
    async with scripted(Answer()) as server, intake_at(server.url, secret(f" {KEY}\n")) as intake:
        await intake.send(intake.encode([GAUGE]))

    assert server.requests[0].headers["dd-api-key"] == KEY


def only(key: str) -> Callable[[Received], Answer]:
    return lambda request: Answer() if request.headers["dd-api-key"] == key else datadog_says(403, "Forbidden")


async def test_a_refused_key_is_looked_up_again_and_the_new_one_used_at_once() -> None:
    rotated = secret(None, Rotated("old", "new"))
    async with scripted(only("new")) as server, intake_at(server.url, rotated) as intake:
        await intake.send(intake.encode([GAUGE]))

    assert [request.headers["dd-api-key"] for request in server.requests] == ["old", "new"]


async def test_a_refused_key_that_did_not_change_is_not_tried_twice() -> None:
    async with scripted(only("new")) as server, intake_at(server.url, secret(None, Rotated("old"))) as intake:
        with pytest.raises(Unauthorized):
            await intake.send(intake.encode([GAUGE]))

    assert len(server.requests) == 1


async def test_an_answer_that_repeats_the_key_does_not_put_it_into_a_message() -> None:
    for status in (400, 403, 503):
        fault = await fault_of(datadog_says(status, f"key {KEY} is bad"))
        assert "key *** is bad" in str(fault)
        assert KEY not in str(fault)


async def test_a_long_answer_makes_a_short_message_on_one_line() -> None:
    fault = await fault_of(datadog_says(400, "first\nline\x1b[31m " + "x" * 50_000))

    assert "first line [31m xxx" in str(fault)
    assert len(str(fault)) < 400


async def test_remarks_on_a_request_that_was_taken_are_logged() -> None:
    async with scripted(datadog_says(202, "tag was cut")) as server, intake_at(server.url) as intake:
        with capture_logs() as logs:
            await intake.send(intake.encode([GAUGE]))

    assert [entry["remarks"] for entry in logs] == ["tag was cut"]


async def test_a_clock_that_is_wrong_is_warned_of_once_and_points_keep_their_time() -> None:
    dated = Answer(headers={"Date": format_datetime(NOW - timedelta(minutes=5), usegmt=True)})
    async with scripted(dated) as server, intake_at(server.url) as intake:
        known_before = intake.clock_skew
        with capture_logs() as logs:
            for _ in range(3):
                await intake.send(intake.encode([GAUGE]))

    assert (known_before, intake.clock_skew) == (None, 300)
    assert [entry["ahead_seconds"] for entry in logs] == [300]
    assert server.requests[0].json["series"][0]["points"][0]["timestamp"] == GAUGE.at


async def test_a_proxys_date_says_nothing_of_datadogs_clock() -> None:
    page = Answer(502, b"<html></html>", {**HTML, "Date": format_datetime(NOW - timedelta(hours=9), usegmt=True)})
    async with scripted(page) as server, intake_at(server.url) as intake:
        with pytest.raises(Unavailable):
            await intake.send(intake.encode([GAUGE]))

    assert intake.clock_skew is None


async def test_a_proxy_of_the_environment_is_used_and_no_proxy_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    async with scripted(Answer()) as proxy, scripted(Answer()) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with intake_at("http://intake.example") as intake:
            await intake.send(intake.encode([GAUGE]))
        assert [request.target for request in proxy.requests] == ["http://intake.example/api/v2/series"]

        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with intake_at(server.url) as intake:
            await intake.send(intake.encode([GAUGE]))
        assert (len(server.requests), len(proxy.requests)) == (1, 1)


async def test_a_proxy_that_refuses_the_tunnel_is_not_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with scripted(Answer(403, b"<html>no</html>", HTML)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with intake_at("https://intake.example") as intake:
            with pytest.raises(Unavailable, match="ProxyError") as caught:
                await intake.send(intake.encode([DISTRIBUTION]))

    assert not caught.value.ambiguous
    assert proxy.requests[0].method == "CONNECT"
    assert "dd-api-key" not in proxy.requests[0].headers


async def test_a_base_address_may_have_a_path() -> None:
    async with scripted(Answer()) as server:
        url = intake_url(DatadogSettings(url=f"{server.url}/relay/"))
        async with intake_at(url) as intake:
            await intake.send(intake.encode([GAUGE]))

    assert server.requests[0].target == "/relay/api/v2/series"


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


async def test_the_message_names_the_host_and_not_the_credentials_of_the_address() -> None:
    async with scripted(Answer(404, json.dumps({}).encode())) as server:
        url = server.url.replace("http://", "http://user:secret@")
        async with intake_at(url) as intake:
            with pytest.raises(Unavailable) as caught:
                await intake.send(intake.encode([GAUGE]))

    assert "127.0.0.1 answered 404" in str(caught.value)
    assert "secret" not in str(caught.value)
