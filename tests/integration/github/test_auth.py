"""GitHub's credentials: a missing or refused token is looked for twice a minute; an App's is renewed in time."""

from datetime import timedelta

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.config.masking import redact
from service.config.secrets import Secret, Source
from service.demo.github import Asked, Reply
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.github.auth import InstallationToken
from tests.integration.github.conftest import RUNS, WORKFLOWS, Total
from tests.world import Simulated, faults
from tests.world.faults import constant

KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
PEM = KEY.private_bytes(*PKCS8).decode()
TOKENS = "/app/installations/77/access_tokens"


def app_token(server: Simulated, http: httpx.AsyncClient, key: str | Secret = PEM) -> InstallationToken:
    if isinstance(key, str):
        key = Secret("GitHub App's private key", "set it", key)
    return InstallationToken("42", 77, key, api_url=server.url, client=http, clock=server.clock)


async def test_a_missing_or_refused_token_is_looked_for_twice_a_minute(
    server: Simulated, http: httpx.AsyncClient
) -> None:
    token, looked_up = "", []

    def fetch(place: str) -> str:
        looked_up.append(place)
        return token

    secret = Secret("GitHub token", "set it", sources=[Source("test", 60.0, fetch)], clock=server.clock.monotonic)
    github = server.client(http, secret)
    assert not await github.has_token()
    assert (await github.get(RUNS, Total)).total_count == 0
    assert "60 requests an hour" in (github.trouble or "")
    with pytest.raises(Rejected):
        await github.graphql("query { }", dict)
    assert not any("authorization" in asked.headers for asked in server.take_asked())
    token = "ghp_1"
    server.clock.passed += 31
    assert (await github.get(RUNS, Total)).total_count == 0
    assert not github.trouble
    server.app.revoked.add("ghp_1")
    looked_up.clear()
    for number in range(360):
        told = "nothing is asked: set it" if number else "answered 401"
        with pytest.raises(Unauthorized, match=told):
            await github.get(RUNS, Total)
        server.clock.passed += 10
    assert [asked.token for asked in server.app.asked] == ["ghp_1", "ghp_1"]
    assert len(looked_up) < 200  # those of its lifetime, one a minute, among them
    assert "set it" in str(github.trouble)
    token = "ghp_2"
    server.clock.passed += 60
    assert (await github.get(RUNS, Total)).total_count == 0


@pytest.mark.parametrize("value", ["ghp_geheim\r\nX: y", "ghp_geheimü", "-----BEGIN RSA PRIVATE KEY-----\ngeheim"])
async def test_a_token_or_key_that_can_not_be_one_is_refused_without_being_shown(
    server: Simulated, http: httpx.AsyncClient, value: str
) -> None:
    for ask in (server.client(http, value).get(RUNS, Total), app_token(server, http, value).get()):
        with pytest.raises(Unauthorized) as raised:
            await ask
        assert "geheim" not in str(raised.value)
    assert not server.app.asked


# An App's token, which the simulated GitHub gives for an hour


def check_assertion(asked: Asked, server: Simulated) -> None:
    """GitHub takes what App 42 signed, for ten minutes at most."""
    checks = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(asked.token, KEY.public_key(), algorithms=["RS256"], options=checks)  # type: ignore[arg-type]
    assert claims["iss"] == "42"
    assert claims["exp"] - claims["iat"] <= 600
    assert claims["iat"] <= server.world.now.timestamp() < claims["exp"]


async def test_an_apps_token_is_renewed_in_time_or_once_it_is_refused_and_serves_on_while_no_new_one_can_be_had(
    server: Simulated, http: httpx.AsyncClient
) -> None:
    token = app_token(server, http, PEM.replace("\n", "\\n"))
    github = server.client(http, token)
    used = []
    for _ in range(13):
        await github.get(WORKFLOWS, Total)
        *posted, asked = server.take_asked()
        for each in posted:
            check_assertion(each, server)
        used.append(asked.token)
        server.world.now += timedelta(minutes=10)
    assert used == ["ghs_simulated1"] * 5 + ["ghs_simulated2"] * 5 + ["ghs_simulated3"] * 3
    assert "ghs_simulated3" not in redact("the token is ghs_simulated3")
    server.app.revoked.add("ghs_simulated3")
    assert (await github.get(WORKFLOWS, Total)).total_count == 0
    assert await token.get() == "ghs_simulated4"
    outage = server.fail(TOKENS, faults.bad_gateway)
    server.world.now += timedelta(minutes=55)
    for _ in range(5):
        assert await token.get() == "ghs_simulated4"
    assert (outage.hits, bool(token.trouble)) == (1, True)
    server.faults.clear()
    server.world.now += timedelta(minutes=1)
    assert await token.get() == "ghs_simulated6"  # the fifth was lost on the way
    assert token.trouble is None


async def test_a_key_that_was_replaced_is_taken_over_when_the_old_one_is_refused(
    server: Simulated, http: httpx.AsyncClient
) -> None:
    held = {"key": OTHER_KEY.private_bytes(*PKCS8).decode()}
    token = app_token(server, http, Secret("key", "set it", sources=[Source("key", 60.0, held.__getitem__)]))
    server.fail(TOKENS, faults.bad_credentials, times=2)
    with pytest.raises(Unauthorized, match="answered 401 to the App"):
        await token.get()
    held["key"] = PEM
    server.clock.passed += 21
    assert await token.get() == "ghs_simulated3"
    check_assertion(server.app.asked[-1], server)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Reply.of({"message": "Not Found"}, 404), Unauthorized),
        (Reply(201, b"<html>"), Unavailable),
        (Reply(302, b"", {"location": "http://evil.example/"}), Unavailable),
    ],
)
async def test_an_app_that_gets_no_token_does_not_ask_in_a_loop(
    server: Simulated, http: httpx.AsyncClient, answer: Reply, error: type[Exception]
) -> None:
    server.fail(TOKENS, constant(answer))
    token = app_token(server, http)
    for _ in range(5):
        with pytest.raises(error, match=f"GitHub answered {answer.status} to the App"):
            await token.get()
    assert len(server.app.asked) == 1
