"""Which secrets there are, and where each may come from: the environment, a mounted file, AWS Secrets Manager."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from service.adapters.secrets import Managed, MountedFile, Secret, Source, mounted
from service.adapters.secrets_manager import SecretsManager, aws_is_configured
from service.config import Settings
from service.config_environment import DATADOG_NAMES, GITHUB_NAMES


@dataclass(frozen=True, slots=True)
class Credentials:
    """The daemon's secrets; a snapshot's bearer token is its collector's own.

    ``github_app_key``: a GitHub App's private key, in place of the token; None where no App is configured.
    """

    api_key: Secret
    app_key: Secret
    github_token: Secret
    write_token: Secret
    read_token: Secret
    github_app_key: Secret | None = None

    def __iter__(self) -> Iterator[Secret]:
        github = self.github_app_key or self.github_token
        return iter((self.api_key, self.app_key, github, self.write_token, self.read_token))


def aws_manager(settings: Settings, environ: Mapping[str, str]) -> SecretsManager | None:
    """AWS Secrets Manager where it is to be asked."""
    use_aws = settings.aws.secrets == "on" or (settings.aws.secrets == "auto" and aws_is_configured(environ))
    return SecretsManager() if use_aws else None


def credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    """The secrets of these settings. Nothing is read yet."""
    manager = aws_manager(settings, environ)
    names = settings.aws.names

    def secret(title: str, remedy: str, value: SecretStr | None, variables: Sequence[str], name: str) -> Secret:
        plain = value.get_secret_value() if value else None
        sources: list[Source] = [*mounted(variables, environ)]
        sources += [Managed(manager, name)] if manager and name else []
        return Secret(title, remedy, plain, origin=_origin(plain, variables, environ), sources=sources)

    return Credentials(
        secret(
            "Datadog API key",
            f"set DD_API_KEY, or give the process a role that may read {names.datadog_api} in AWS Secrets Manager",
            settings.datadog.api_key,
            ("INFRA_HEALTH_DATADOG__API_KEY", *DATADOG_NAMES["api_key"]),
            names.datadog_api,
        ),
        secret(
            "Datadog application key",
            f"set DD_APP_KEY, or give the process a role that may read {names.datadog_app} in AWS Secrets Manager",
            settings.datadog.app_key,
            ("INFRA_HEALTH_DATADOG__APP_KEY", *DATADOG_NAMES["app_key"]),
            names.datadog_app,
        ),
        secret(
            "GitHub token",
            f"set GITHUB_DASHBOARD_TOKEN, or give the process a role that may read {names.github} in AWS",
            settings.github.token,
            ("INFRA_HEALTH_GITHUB__TOKEN", *GITHUB_NAMES["token"]),
            names.github,
        ),
        secret(
            "token of the write calls",
            "set INFRA_HEALTH_TOKEN, or INFRA_HEALTH_TOKEN_FILE to a file that holds it",
            settings.http.token,
            ("INFRA_HEALTH_HTTP__TOKEN", "INFRA_HEALTH_TOKEN"),
            "",
        ),
        secret(
            "token of the read calls",
            "set INFRA_HEALTH_READ_TOKEN, or INFRA_HEALTH_READ_TOKEN_FILE to a file that holds it",
            settings.http.read_token,
            ("INFRA_HEALTH_HTTP__READ_TOKEN", "INFRA_HEALTH_READ_TOKEN"),
            "",
        ),
        _github_app_key(settings, environ, manager),
    )


def _github_app_key(settings: Settings, environ: Mapping[str, str], manager: SecretsManager | None) -> Secret | None:
    app, name = settings.github.app, settings.aws.names.github_app
    if app is None:
        return None
    variable = "INFRA_HEALTH_GITHUB__APP__PRIVATE_KEY"
    plain = app.private_key.get_secret_value() if app.private_key else None
    file = app.private_key_file
    return Secret(
        "GitHub App's private key",
        f"set github.app.private_key_file or {variable}, or keep it in AWS Secrets Manager as {name}",
        plain,
        origin=_origin(plain, [variable], environ),
        sources=[MountedFile(file, "github.app.private_key_file")] if file else [],
        manager=manager,
        name=name,
    )


def _origin(value: str | None, variables: Sequence[str], environ: Mapping[str, str]) -> str:
    named = [variable for variable in variables if environ.get(variable, "").strip() == (value or "").strip() != ""]
    return f"environment {named[0]}" if named else "the settings file"
