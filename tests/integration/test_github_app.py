"""A GitHub App's token: got with a signed assertion, renewed before it ends, and never asked for in a loop."""

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path

import aioboto3
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.types import Options

from service.adapters.github import Github
from service.adapters.github_app import InstallationToken
from service.adapters.secrets import MountedFile, Secret
from service.config_sources import load
from service.domain.errors import Unauthorized, Unavailable
from service.parts import edges
from tests.github_world import random_world
from tests.integration.aws import moto, reach
from tests.integration.github_server import FakeClock, GithubServer, Reply, github_at
from tests.integration.test_github_ci import Memory, Stage
from tests.integration.test_github_judged import complaints

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
TOKENS = "/app/installations/77/access_tokens"


class Issuer:
    """Gives tokens that last an hour of ``clock`` to whoever signs as App 42."""

    def __init__(self, server: GithubServer, clock: FakeClock) -> None:
        self.clock, self.given = clock, 0
        self.server = server
        server.fail(f"POST {TOKENS}", self.answer)

    def answer(self, line: str) -> Reply:
        assertion = self.server.asked[-1].headers["authorization"].removeprefix("Bearer ")
        not_now: Options = {"verify_exp": False, "verify_iat": False}
        try:
            claims = jwt.decode(assertion, KEY.public_key(), algorithms=["RS256"], options=not_now)
        except jwt.InvalidSignatureError:
            return Reply.of({"message": "A JSON web token could not be decoded"}, 401)
        assert claims["iss"] == "42"
        assert claims["exp"] - claims["iat"] <= 600
        assert claims["iat"] <= self.clock.now().timestamp()
        self.given += 1
        ends = self.clock.now() + timedelta(hours=1)
        return Reply.of({"token": f"ghs_{self.given}", "expires_at": f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}, 201)


@pytest.fixture
async def server() -> AsyncIterator[GithubServer]:
    async with github_at(random_world(1, workflows=40, runs_a_day=300)) as serving:
        yield serving


def app_token(
    server: GithubServer, http: httpx.AsyncClient, clock: FakeClock, pem: str = PEM, key: Secret | None = None
) -> InstallationToken:
    return InstallationToken(
        "42",
        77,
        key or Secret("GitHub App's private key", "set it", pem),
        api_url=server.url,
        user_agent="test",
        client=http,
        clock=clock,
    )


async def test_the_cost_holds_when_the_token_changes_every_hour(server: GithubServer) -> None:
    clock = FakeClock()
    issuer = Issuer(server, clock)
    async with httpx.AsyncClient(verify=False) as http:
        github = Github(server.url, app_token(server, http, clock), "test", client=http, clock=clock)
        stage = Stage(server.world, server, clock, Memory(), {}, github, http)
        await stage.collect_until_whole()
        first = issuer.given
        for _ in range(13):
            stage.pass_time()
            server.take_asked()
            assert await stage.values() == stage.truth()
            asked = [each for each in server.take_asked() if each.method == "GET" or "graphql" in each.target]
            assert len(asked) <= 10
            assert sum(each.cost for each in asked) <= 8
            tokens = {each.headers["authorization"] for each in asked}
            assert tokens == {f"Bearer ghs_{issuer.given}"}
        assert issuer.given - first >= 2


async def test_a_token_serves_on_while_no_new_one_can_be_had(server: GithubServer) -> None:
    clock = FakeClock()
    issuer = Issuer(server, clock)
    async with httpx.AsyncClient(verify=False) as http:
        token = app_token(server, http, clock, PEM.replace("\n", "\\n"))
        assert await token.get() == "ghs_1"
        server.faults.insert(0, server.fail(TOKENS, Reply(502)))
        clock.passed += 3300
        for _ in range(5):
            assert await token.get() == "ghs_1"
        assert len([each for each in server.asked if TOKENS in each.target]) == 2
        assert token.trouble
        server.faults.pop(0)
        server.faults.pop()
        clock.passed += 60
        assert await token.get() == f"ghs_{issuer.given}" != "ghs_1"
        assert token.trouble is None


async def test_a_key_that_was_replaced_is_taken_over_when_the_old_one_is_refused(
    server: GithubServer, tmp_path: Path
) -> None:
    clock = FakeClock()
    Issuer(server, clock)
    old = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "key.pem"
    file.write_bytes(old)
    key = Secret("GitHub App's private key", "set it", sources=[MountedFile(file, "github.app.private_key_file")])
    async with httpx.AsyncClient(verify=False) as http:
        token = app_token(server, http, clock, key=key)
        with pytest.raises(Unauthorized, match="answered 401 to the App"):
            await token.get()
        file.write_text(PEM)
        clock.passed += 21
        assert await token.get() == "ghs_1"


async def test_a_key_that_can_not_be_had_yet_is_looked_for_again_soon(server: GithubServer, tmp_path: Path) -> None:
    clock = FakeClock()
    Issuer(server, clock)
    file = tmp_path / "key.pem"
    key = Secret("GitHub App's private key", "set it", sources=[MountedFile(file, "github.app.private_key_file")])
    async with httpx.AsyncClient(verify=False) as http:
        token = app_token(server, http, clock, key=key)
        with pytest.raises(Unavailable, match="no GitHub App's private key: set it"):
            await token.get()
        file.write_text(PEM)
        clock.passed += 21
        assert await token.get() == "ghs_1"


@pytest.mark.parametrize("pem", ["nonsense", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"])
async def test_a_key_that_is_none_is_refused_without_being_shown(server: GithubServer, pem: str) -> None:
    clock = FakeClock()
    async with httpx.AsyncClient(verify=False) as http:
        github = Github(server.url, app_token(server, http, clock, pem), "test", client=http, clock=clock)
        with pytest.raises(Unauthorized, match="private key") as raised:
            await github.get("/repos/Metta-AI/metta/actions/workflows", read=dict)
        assert pem not in str(raised.value)
        assert server.asked == []


async def test_a_refused_app_is_not_asked_for_in_a_loop(server: GithubServer) -> None:
    clock = FakeClock()
    server.fail(TOKENS, Reply.of({"message": "Integration not found"}, 404))
    async with httpx.AsyncClient(verify=False) as http:
        github = Github(server.url, app_token(server, http, clock), "test", client=http, clock=clock)
        for _ in range(20):
            with pytest.raises(Unauthorized, match="answered 404 to the App"):
                await github.get("/repos/Metta-AI/metta/actions/workflows", read=dict)
        assert len(server.asked) == 1


@pytest.mark.parametrize("place", ["environment", "file", "aws"])
async def test_the_key_comes_from_the_environment_a_file_or_aws(
    place: str, server: GithubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Issuer(server, FakeClock())
    config = tmp_path / "config.yaml"
    app = "id: 42, installation_id: 77"
    environ = {"GITHUB_API_URL": server.url}
    with moto() as address:
        reach(address, monkeypatch)
        if place == "environment":
            environ["INFRA_HEALTH_GITHUB__APP__PRIVATE_KEY"] = PEM.replace("\n", "\\n")
        elif place == "file":
            (tmp_path / "app.pem").write_text(PEM)
            app += f", private_key_file: {tmp_path / 'app.pem'}"
        else:
            environ["AWS_ENDPOINT_URL"] = address
            async with aioboto3.Session().client("secretsmanager") as client:
                await client.create_secret(Name="github/app-private-key", SecretString=PEM)
        config.write_text(f"collectors: {{}}\ngithub: {{app: {{{app}}}}}\n")
        async with edges(load(config, environ, {}).settings, environ) as parts:
            await parts.github.get("/repos/Metta-AI/metta/actions/workflows", read=dict)
    asked, answered = server.asked
    assert answered.headers["authorization"] == "Bearer ghs_1"
    assert complaints(asked) == []


async def test_a_key_that_is_nowhere_is_told_with_a_remedy(server: GithubServer, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("collectors: {}\ngithub: {app: {id: 42, installation_id: 77}}\naws: {secrets: 'off'}\n")
    environ = {"GITHUB_API_URL": server.url}
    async with edges(load(config, environ, {}).settings, environ) as parts:
        with pytest.raises(Unauthorized, match="private_key_file"):
            await parts.github.get("/repos/Metta-AI/metta/actions/workflows", read=dict)
    assert server.asked == []
