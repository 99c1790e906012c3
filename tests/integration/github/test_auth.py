"""GitHub's credentials: a missing or refused token is looked for twice a minute; an App's is renewed in time."""

from datetime import UTC, timedelta
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.types import Options

from service.config.masking import redact
from service.config.secrets import Secret, Source, mounted_file
from service.demo.github import Asked, Reply
from service.domain.errors import Unauthorized, Unavailable
from service.github.auth import Auth, InstallationToken
from tests.integration.github.conftest import WORKFLOWS, Total
from tests.world import Simulated, World, WorldClock, faults
from tests.world.faults import constant


def pem_of(key: rsa.RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = pem_of(KEY)
TOKENS = "/app/installations/77/access_tokens"


# A token from the configuration


class CountingFile(Source):
    """Counts its readings."""

    readings = 0

    async def read(self) -> str:
        CountingFile.readings += 1
        return await super().read()


@pytest.fixture
def clock() -> WorldClock:
    return WorldClock(World.empty())


def auth_of(folder: Path, clock: WorldClock) -> Auth:
    file = mounted_file(folder / "token", "GITHUB_TOKEN_FILE")
    source = CountingFile(file.title, file.lifetime, file.fetch)
    return Auth(Secret("GitHub token", "set it", sources=[source], clock=clock.monotonic), clock)


async def test_a_token_that_is_missing_at_the_start_is_taken_once_it_comes(tmp_path: Path, clock: WorldClock) -> None:
    auth = auth_of(tmp_path, clock)
    assert await auth.token() is None
    assert "60 requests an hour" in (auth.trouble or "")
    (tmp_path / "token").write_text("ghp_1")
    clock.passed += 31
    assert await auth.token() == "ghp_1"
    assert auth.trouble is None


async def test_a_refused_token_is_not_given_again_until_it_was_replaced(tmp_path: Path, clock: WorldClock) -> None:
    auth = auth_of(tmp_path, clock)
    (tmp_path / "token").write_text("ghp_1")
    assert await auth.token() == "ghp_1"
    assert not await auth.refuse("ghp_1")
    CountingFile.readings = 0
    for _ in range(3600):
        with pytest.raises(Unauthorized, match="GitHub refused the GitHub token, nothing is asked: set it"):
            await auth.token()
        clock.passed += 1
    assert CountingFile.readings < 200  # those of its lifetime, one a minute, among them
    (tmp_path / "token").write_text("ghp_2")
    clock.passed += 301
    assert await auth.token() == "ghp_2"


# An App's token


class Issuer:
    """Gives tokens that last an hour to whoever signs as App 42."""

    def __init__(self, server: Simulated) -> None:
        self.server, self.given = server, 0
        server.fail(f"POST {TOKENS}", self.answer)

    def answer(self, asked: Asked, true: Reply) -> Reply:
        not_now: Options = {"verify_exp": False, "verify_iat": False}
        try:
            claims = jwt.decode(asked.token, KEY.public_key(), algorithms=["RS256"], options=not_now)
        except jwt.InvalidSignatureError:
            return Reply.of({"message": "A JSON web token could not be decoded"}, 401)
        now = self.server.clock.now()
        assert claims["iss"] == "42"
        assert claims["exp"] - claims["iat"] <= 600
        assert claims["iat"] <= now.timestamp() < claims["exp"]
        self.given += 1
        ends = (now + timedelta(hours=1)).astimezone(UTC)
        return Reply.of({"token": f"ghs_{self.given}", "expires_at": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}, 201)


def app_token(
    server: Simulated, http: httpx.AsyncClient, pem: str = PEM, key: Secret | None = None
) -> InstallationToken:
    key = key or Secret("GitHub App's private key", "set it", pem)
    return InstallationToken("42", 77, key, api_url=server.url, client=http, clock=server.clock)


def key_in(file: Path) -> Secret:
    return Secret("GitHub App's private key", "set it", sources=[mounted_file(file, "github.app.private_key_file")])


async def test_an_apps_token_is_renewed_before_it_ends(server: Simulated, http: httpx.AsyncClient) -> None:
    issuer = Issuer(server)
    github = server.client(http, app_token(server, http, PEM.replace("\n", "\\n")))
    for _ in range(13):
        await github.get(WORKFLOWS, Total)
        server.world.now += timedelta(minutes=10)
    used = {asked.token for asked in server.app.asked if asked.method == "GET"}
    assert used == {"ghs_1", "ghs_2", "ghs_3"}
    assert issuer.given == 3
    assert "ghs_3" not in redact("the token is ghs_3")


async def test_an_apps_refused_token_is_replaced_at_once(server: Simulated, http: httpx.AsyncClient) -> None:
    Issuer(server)
    github = server.client(http, app_token(server, http))
    await github.get(WORKFLOWS, Total)
    server.app.revoked.add("ghs_1")
    assert (await github.get(WORKFLOWS, Total)).total_count == 0
    assert server.app.asked[-1].token == "ghs_2"


async def test_a_token_serves_on_while_no_new_one_can_be_had(server: Simulated, http: httpx.AsyncClient) -> None:
    outage = server.fail(TOKENS, faults.bad_gateway, times=0)
    issuer = Issuer(server)
    token = app_token(server, http)
    assert await token.get() == "ghs_1"
    outage.times = 10
    server.world.now += timedelta(minutes=55)
    for _ in range(5):
        assert await token.get() == "ghs_1"
    assert outage.hits == 1
    assert token.trouble
    outage.times = 0
    server.world.now += timedelta(minutes=1)
    assert await token.get() == "ghs_2"
    assert issuer.given == 2


async def test_a_key_that_was_replaced_is_taken_over_when_the_old_one_is_refused(
    server: Simulated, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    Issuer(server)
    file = tmp_path / "key.pem"
    file.write_text(pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    token = app_token(server, http, key=key_in(file))
    with pytest.raises(Unauthorized, match="answered 401 to the App"):
        await token.get()
    file.write_text(PEM)
    server.clock.passed += 21
    assert await token.get() == "ghs_1"


@pytest.mark.parametrize("pem", ["nonsense", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"])
async def test_a_key_that_is_none_is_refused_without_being_shown(
    server: Simulated, http: httpx.AsyncClient, pem: str
) -> None:
    github = server.client(http, app_token(server, http, pem))
    with pytest.raises(Unauthorized, match="private key") as raised:
        await github.get(WORKFLOWS, Total)
    assert pem not in str(raised.value)
    assert not server.app.asked


async def test_a_refused_app_is_not_asked_for_in_a_loop(server: Simulated, http: httpx.AsyncClient) -> None:
    server.fail(TOKENS, faults.not_found)
    github = server.client(http, app_token(server, http))
    for _ in range(20):
        with pytest.raises(Unauthorized, match="answered 404 to the App"):
            await github.get(WORKFLOWS, Total)
    assert len(server.app.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Reply(201, b"<html>"),
        Reply.of({"token": 3}, 201),
        Reply.of({"token": "t", "expires_at": "soon"}, 201),
        Reply(204),
        Reply(302, b"", {"location": "http://evil.example/"}),
    ],
)
async def test_an_answer_without_a_token_may_pass(server: Simulated, http: httpx.AsyncClient, answer: Reply) -> None:
    server.fail(TOKENS, constant(answer))
    with pytest.raises(Unavailable, match=f"GitHub answered {answer.status} to the App"):
        await app_token(server, http).get()
    assert len(server.app.asked) == 1
