"""Secrets from mounted files and AWS Secrets Manager (moto's server): which one wins, and how they are replaced."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from service.config.loader import load
from service.config.masking import redact
from service.config.secrets import Credentials, Secret, aws_secret, credentials, mounted_file
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
    """A client of Secrets Manager, where each test has names of its own."""
    reach(server, monkeypatch)
    async with aioboto3.Session().client("secretsmanager") as client:
        yield client


def known(environ: dict[str, str], tmp_path: Path, text: str = "") -> Credentials:
    config = tmp_path / "config.yaml"
    config.write_text(f"collectors: {{}}\n{text}\n")
    return credentials(load(config, environ, lambda name: CollectorSettings).settings, environ)


async def test_the_environment_wins_over_the_file_and_the_file_over_aws(aws: Any, server: str, tmp_path: Path) -> None:
    for name in ("datadog/api-key", "datadog/app-key", "github/dashboard-token"):
        await aws.create_secret(Name=name, SecretString=f"aws-{name}")
    (file := tmp_path / "app").write_text("file-app\n")
    environ = {
        "AWS_ENDPOINT_URL": server,
        "DD_API_KEY": "environment-api",
        "DD_API_KEY_FILE": str(file),
        "DD_APP_KEY_FILE": str(file),
        "GITHUB_TOKEN_FILE": str(tmp_path / "none"),
        "INFRA_HEALTH_READ_TOKEN_FILE": str(file),
    }
    found = known(environ, tmp_path)
    assert [(await secret.get(), secret.source, secret.can_change) for secret in found] == [
        ("environment-api", "environment DD_API_KEY", False),
        ("file-app", f"file {file} (DD_APP_KEY_FILE)", True),
        ("aws-github/dashboard-token", "AWS Secrets Manager, github/dashboard-token", True),
        (None, "nowhere", False),
        ("file-app", f"file {file} (INFRA_HEALTH_READ_TOKEN_FILE)", True),
        (None, "nowhere", True),
    ]
    troubles = [secret.trouble for secret in found if secret.trouble]  # AWS need not have the webhook's
    assert troubles == [f"file {tmp_path / 'none'} (GITHUB_TOKEN_FILE): No such file or directory"]
    assert not known({"DD_SITE": "a.eu"}, tmp_path).github_token.can_change, "without an identity AWS is not asked"


async def test_names_in_aws_can_be_set_for_an_apps_key_and_both_secrets_of_a_rotation_too(
    aws: Any, server: str, tmp_path: Path
) -> None:
    text = 'aws: {names: {datadog_api: "prod#dd", github_app: "prod#app", github_webhook: "prod#hook"}}\n'
    text += "github: {app: {id: 42, installation_id: 77}}"
    environ = {"AWS_ENDPOINT_URL": server}
    stored = '{"dd": "api", "app": "first-secret", "hook": "of-old-days,of-new-days"}'
    await aws.create_secret(Name="prod", SecretString=stored)
    found = known(environ, tmp_path, text)
    key = found.github_app_key
    assert key
    values = [await secret.get() for secret in (found.api_key, key, found.webhook_secret)]
    assert values == ["api", "first-secret", "of-old-days,of-new-days"]
    assert redact("of-old-days and of-new-days") == "******** and ********"
    await aws.put_secret_value(SecretId="prod", SecretString='{"app": "second-secret"}')
    assert (await key.ask_again(), await key.get()) == (True, "second-secret")
    (tmp_path / "key.pem").write_text("from a file")
    environ["INFRA_HEALTH_GITHUB__APP__PRIVATE_KEY_FILE"] = str(tmp_path / "key.pem")
    mounted = known(environ, tmp_path, text).github_app_key
    assert mounted
    assert await mounted.get() == "from a file"


async def test_a_secret_is_read_again_after_an_hour_and_when_it_was_refused(
    aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While AWS is away the known one goes on working."""
    clock = [1000.0]
    await aws.create_secret(Name="key", SecretString="first-secret")
    secret = Secret("key", "set it", sources=[aws_secret("key")], clock=lambda: clock[0])
    assert await secret.get() == "first-secret"
    await aws.put_secret_value(SecretId="key", SecretString="second-secret")
    for seconds, value in ((HOUR - 1, "first-secret"), (1, "second-secret")):
        clock[0] += seconds
        assert await secret.get() == value
    await aws.put_secret_value(SecretId="key", SecretString="third")
    assert [await secret.ask_again(), await secret.get(), await secret.ask_again()] == [True, "third", False]
    reach("http://127.0.0.1:9", monkeypatch)
    clock[0] += HOUR
    assert await secret.get() == "third"
    assert (secret.source, secret.may_pass) == ("AWS Secrets Manager, key", True)
    assert "no answer" in (secret.trouble or "")


async def test_plain_and_json_secrets_are_read_and_what_is_none_is_named_without_its_value(aws: Any) -> None:
    stored = {"one": ' {"only": "one"}\n', "two": '{"a": "1", "b": "2"}', "broken": "{no json\n"}
    for name, text in stored.items():
        await aws.create_secret(Name=name, SecretString=text)
    assert (await aws_secret("one").read(), await aws_secret("broken").read()) == ("one", "{no json")
    for name, message in (
        ("two", "JSON with 2 values; name one as two#KEY"),
        ("one#b", "no JSON with a text under the key b"),
        ("other", "ResourceNotFoundException"),
    ):
        with pytest.raises(ConfigError, match=message):
            await aws_secret(name).read()


async def test_a_mounted_file_that_is_replaced_is_taken_over(tmp_path: Path) -> None:
    """One that is empty, or stands in the quotes that shells leave behind, is named; the known one goes on working."""
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
    ):
        path.write_text(text)
        clock[0] += 60
        assert (await secret.get(), bool(secret.trouble)) == (value, bool(trouble))
        assert (secret.trouble or "").endswith(trouble)
