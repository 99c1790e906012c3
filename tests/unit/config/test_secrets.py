"""Secrets from mounted files and AWS Secrets Manager (moto's server): which one wins, and how they are replaced."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import pytest

from service.config.loader import load
from service.config.secrets import Credentials, Secret, Source, aws_secret, credentials, from_environment, mounted_file
from service.config.settings import CollectorSettings
from service.domain.errors import ConfigError
from tests.aws import moto, reach

HOUR = 3600.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def aws(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A client of an empty Secrets Manager."""
    reach(server, monkeypatch)
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:
        await http.post(f"{server}/moto-api/reset")
    async with aioboto3.Session().client("secretsmanager") as client:
        yield client


def known(environ: dict[str, str], tmp_path: Path, text: str = "") -> Credentials:
    config = tmp_path / "config.yaml"
    config.write_text(f"collectors: {{}}\n{text}\n")
    return credentials(load(config, environ, lambda name: CollectorSettings).settings, environ)


async def test_the_environment_wins_over_the_file_and_the_file_over_aws(aws: Any, server: str, tmp_path: Path) -> None:
    for name in ("datadog/api-key", "datadog/app-key", "github/dashboard-token"):
        await aws.create_secret(Name=name, SecretString=f"aws-{name}")
    (tmp_path / "app").write_text("file-app\n")
    environ = {
        "AWS_ENDPOINT_URL": server,
        "DD_API_KEY": "environment-api",
        "DD_API_KEY_FILE": str(tmp_path / "app"),
        "DD_APP_KEY_FILE": str(tmp_path / "app"),
        "INFRA_HEALTH_READ_TOKEN_FILE": str(tmp_path / "app"),
    }
    found = known(environ, tmp_path)
    assert [await secret.get() for secret in found] == [
        "environment-api",
        "file-app",
        "aws-github/dashboard-token",
        None,
        "file-app",
        None,
    ]
    assert [(secret.source, secret.can_change) for secret in found] == [
        ("environment DD_API_KEY", False),
        (f"file {tmp_path / 'app'} (DD_APP_KEY_FILE)", True),
        ("AWS Secrets Manager, github/dashboard-token", True),
        ("nowhere", False),
        (f"file {tmp_path / 'app'} (INFRA_HEALTH_READ_TOKEN_FILE)", True),
        ("nowhere", True),
    ]
    assert [secret.trouble for secret in found] == [None] * 6, "AWS need not have the webhook's"


async def test_both_webhook_secrets_of_a_rotation_are_masked(aws: Any, server: str, tmp_path: Path) -> None:
    from service.config.masking import redact

    await aws.create_secret(Name="github/webhook-secret", SecretString="of-old-days,of-new-days")
    found = known({"AWS_ENDPOINT_URL": server}, tmp_path)
    assert await found.webhook_secret.get() == found.webhook_secret.known == "of-old-days,of-new-days"
    assert redact("of-old-days and of-new-days") == "******** and ********"
    assert known({"GITHUB_WEBHOOK_SECRET": "a-b-c-d,e-f-g-h"}, tmp_path).webhook_secret.known == "a-b-c-d,e-f-g-h"


async def test_a_secret_is_read_again_after_an_hour_and_when_it_was_refused(
    aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While AWS is away the known one goes on working."""
    clock = [1000.0]
    await aws.create_secret(Name="key", SecretString="first-secret")
    secret = Secret("key", "set it", sources=[aws_secret("key")], clock=lambda: clock[0])
    assert await secret.get() == "first-secret"
    await aws.put_secret_value(SecretId="key", SecretString="second-secret")
    clock[0] += HOUR - 1
    assert await secret.get() == "first-secret"
    clock[0] += 1
    assert await secret.get() == "second-secret"
    await aws.put_secret_value(SecretId="key", SecretString="third")
    assert [await secret.ask_again(), await secret.get(), await secret.ask_again()] == [True, "third", False]
    reach("http://127.0.0.1:9", monkeypatch)
    clock[0] += HOUR
    assert await secret.get() == "third"
    assert (secret.source, secret.may_pass) == ("AWS Secrets Manager, key", True)
    assert "no answer" in (secret.trouble or "")


async def test_plain_and_json_secrets_are_read_and_what_is_none_is_named_without_its_value(aws: Any) -> None:
    stored = {"plain": " plain\n", "one": '{"only": "one"}', "two": '{"a": "1", "b": "2"}', "broken": "{no json"}
    for name, text in stored.items():
        await aws.create_secret(Name=name, SecretString=text)
    for name, value in (("plain", "plain"), ("one", "one"), ("two#b", "2"), ("broken", "{no json")):
        assert await aws_secret(name).read() == value
    for name, message in (
        ("two", "JSON with 2 values; name one as two#KEY"),
        ("one#b", "no JSON with a text under the key b"),
        ("plain#b", "no JSON with a text under the key b"),
        ("other", "ResourceNotFoundException"),
    ):
        with pytest.raises(ConfigError, match=message):
            await aws_secret(name).read()


async def test_the_names_in_aws_can_be_set(aws: Any, server: str, tmp_path: Path) -> None:
    await aws.create_secret(Name="prod", SecretString='{"dd": "api", "gh": "token"}')
    found = known({"AWS_ENDPOINT_URL": server}, tmp_path, 'aws: {names: {datadog_api: "prod#dd", github: "prod#gh"}}')
    assert (await found.api_key.get(), await found.github_token.get()) == ("api", "token")


async def test_a_mounted_file_that_is_replaced_is_taken_over(tmp_path: Path) -> None:
    """One that is gone, or stands in the quotes that shells leave behind, is named; the known value goes on working."""
    clock, path = [1000.0], tmp_path / "token"
    path.write_text("first-secret\n")
    secret = Secret("token", "set it", sources=[mounted_file(path, "TOKEN_FILE")], clock=lambda: clock[0])
    assert await secret.get() == "first-secret"
    path.write_text("second-secret\n")
    assert await secret.ask_again()
    for text, value, trouble in (
        ("third\n", "third", ""),
        ('"fourth"', "third", "stands in quotes that are a part of the value: leave them out"),
        ("fifth", "fifth", ""),
        ("", "fifth", "is empty"),
        (None, "fifth", "No such file or directory"),
    ):
        path.unlink()
        if text is not None:
            path.write_text(text)
        clock[0] += 60
        assert await secret.get() == value
        assert (secret.trouble or "").endswith(trouble)
        assert bool(secret.trouble) is bool(trouble)


async def test_while_the_file_is_missing_aws_is_asked(aws: Any, tmp_path: Path) -> None:
    await aws.create_secret(Name="key", SecretString="managed")
    sources: list[Source] = [mounted_file(tmp_path / "none", "KEY_FILE"), aws_secret("key")]
    secret = Secret("key", "set it", sources=sources)
    assert await secret.get() == "managed"
    assert secret.source == "AWS Secrets Manager, key"


async def test_a_token_is_named_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("held")
    assert await from_environment("SNAP", {"SNAP": "given"}).get() == "given"
    assert await from_environment("SNAP", {"SNAP_FILE": str(tmp_path / "token")}).get() == "held"
    assert (
        from_environment("SNAP", {}).missing == "no bearer token SNAP: set SNAP, or SNAP_FILE to a file that holds it"
    )


async def test_the_key_of_a_github_app_is_a_secret_like_the_others(aws: Any, server: str, tmp_path: Path) -> None:
    await aws.create_secret(Name="github/app-private-key", SecretString="first-secret")
    app, environ = "github: {app: {id: 42, installation_id: 77}}", {"AWS_ENDPOINT_URL": server}
    key = known(environ, tmp_path, app).github_app_key
    assert key
    assert (await key.get(), key.source) == ("first-secret", "AWS Secrets Manager, github/app-private-key")
    await aws.put_secret_value(SecretId="github/app-private-key", SecretString="second-secret")
    assert await key.ask_again()
    assert await key.get() == "second-secret"
    (tmp_path / "key.pem").write_text("from a file")
    environ["INFRA_HEALTH_GITHUB__APP__PRIVATE_KEY_FILE"] = str(tmp_path / "key.pem")
    key = known(environ, tmp_path, app).github_app_key
    assert key
    assert await key.get() == "from a file"
