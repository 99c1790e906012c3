"""Secrets: from the settings, a mounted file, or AWS Secrets Manager. Their values appear in no text.

Whoever needs a secret asks its ``Secret`` each time, so a rotated one is taken over while the daemon runs.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from pydantic import SecretStr

from service.config.logging import mask
from service.config.settings import Settings
from service.domain.errors import ConfigError, Unavailable

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 60.0  # after a look-up that failed; who has no value at all asks when it needs one
_AWS_SECONDS = 20.0  # for the client, its credentials and the answer
# Any of these says that the process was given an identity in AWS (static keys, IRSA, ECS, a profile, a stand-in).
_AWS_IDENTITY = re.compile(
    r"AWS_(ROLE_ARN|WEB_IDENTITY_TOKEN_FILE|ACCESS_KEY_ID|PROFILE|CONTAINER_CREDENTIALS_\w+|ENDPOINT_URL(_SECRETS_MANAGER)?)"
)


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file that Kubernetes (or an agent) keeps up to date; ``variable`` names it. Read again every minute."""

    path: Path
    variable: str
    lifetime = 60.0

    @property
    def title(self) -> str:
        return f"file {self.path} ({self.variable})"

    async def read(self) -> str:
        """The value, empty where there is none. Raises Unavailable or ConfigError."""
        try:
            text = await anyio.to_thread.run_sync(self.path.read_text, "utf-8", abandon_on_cancel=True)
        except UnicodeDecodeError:
            raise ConfigError(f"{self.title} is no text") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.title}: {getattr(error, 'strerror', None) or 'no such path'}") from error
        return text.strip()


@dataclass(frozen=True, slots=True)
class AwsSecret:
    """NAME or NAME#KEY in AWS Secrets Manager: 2 s to connect, one try. Read again every hour."""

    name: str
    lifetime = 3600.0

    @property
    def title(self) -> str:
        return f"AWS Secrets Manager, {self.name}"

    async def read(self) -> str:
        """The value. Raises Unavailable or ConfigError (no such secret, no access, no such key)."""
        name, separator, key = self.name.partition("#")
        with anyio.move_on_after(_AWS_SECONDS):
            # Importing the client and loading its models takes most of a second: in a thread, so probes are answered.
            text = await anyio.to_thread.run_sync(anyio.run, _ask_aws, name, abandon_on_cancel=True)
            return _pick_value(text, name, key if separator else None)
        raise Unavailable(f"{self.title}: no answer within {_AWS_SECONDS:.0f} s")


Source = MountedFile | AwsSecret


class Secret:
    """One secret that a client needs: looked up when it is first asked for, after its time, and when refused.

    A ``value`` from the settings (set at ``origin``) can't change while the process lives. Without one the ``sources``
    are asked in order; while all of them fail, the value that is known goes on working.
    ``source`` names where the value came from, never the value; "nowhere" while there is none.
    ``trouble`` says why the last look-up failed, None when it did not; ``may_pass``: time may mend that.
    """

    def __init__(
        self,
        title: str,
        remedy: str,
        value: str | None = None,
        *,
        origin: str = "settings",
        sources: Sequence[Source] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.remedy = remedy
        self.source = origin if value else "nowhere"
        self.trouble: str | None = None
        self.may_pass = False
        self._value = value
        self._sources = () if value else tuple(sources)
        self._clock = clock
        self._due = 0.0  # monotonic; the value is good until then
        self._lock = anyio.Lock()

    @property
    def can_change(self) -> bool:
        """Whether another value can come while the process lives."""
        return bool(self._sources)

    @property
    def is_set(self) -> bool:
        """Whether a value is known now."""
        return self._value is not None

    @property
    def missing(self) -> str:
        """What to tell the operator when there is no value."""
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")

    async def get(self) -> str | None:
        """The value, None while there is none."""
        if self._is_due():
            known = self._value
            async with self._lock:
                if self._value is known and self._is_due():  # nobody else has looked it up meanwhile
                    await self._look_up()
        return self._value

    async def ask_again(self) -> bool:
        """Looks the value up anew, since it was refused; True when it changed. A value from the settings can't."""
        if not self._sources:
            return False
        async with self._lock:
            before = self._value
            await self._look_up()
            return self._value is not None and self._value != before

    def _is_due(self) -> bool:
        return bool(self._sources) and (self._value is None or self._clock() >= self._due)

    async def _look_up(self) -> None:
        troubles: list[str] = []
        self.may_pass = False
        self._due = self._clock() + _RETRY_SECONDS
        for source in self._sources:
            try:
                value = await source.read()
                if value:
                    self._take(value, source)
                    break
                raise Unavailable(f"{source.title}: is empty")
            except (Unavailable, ConfigError) as error:
                troubles.append(str(error))
                self.may_pass |= isinstance(error, Unavailable)
        trouble = "; ".join(troubles) or None
        if trouble and trouble != self.trouble:
            effect = "the known value stays in use" if self._value else "there is no value yet"
            log.warning("secret could not be looked up", secret=self.title, reason=trouble, effect=effect)
        self.trouble = trouble

    def _take(self, value: str, source: Source) -> None:
        mask([value])
        if value != self._value or source.title != self.source:
            log.info("secret taken over", secret=self.title, source=source.title, changed=self._value is not None)
        self._value, self.source = value, source.title
        self._due = self._clock() + source.lifetime


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


def credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    """The secrets of these settings. Nothing is read yet."""
    aws, names, app = settings.aws, settings.aws.names, settings.github.app
    has_aws = aws.secrets == "on" or (aws.secrets == "auto" and _has_aws_identity(environ))

    def secret(title: str, key: str, variables: tuple[str, ...], name: str = "", file: Path | None = None) -> Secret:
        value: SecretStr | None = attrgetter(key)(settings)
        plain = value.get_secret_value() if value else None
        variables = (*variables, f"INFRA_HEALTH_{key.replace('.', '__').upper()}")
        variable = next((each for each in variables if environ.get(each, "").strip() == plain), "")
        remedy = f"set {variables[0]} or {variables[0]}_FILE"
        if name:
            remedy += f", or give the process a role that may read {name} in AWS Secrets Manager"
        sources: list[Source] = [MountedFile(file, f"{key}_file")] if file else []
        sources += [*_mounted_files(variables, environ), *([AwsSecret(name)] if name and has_aws else [])]
        origin = f"environment {variable}" if variable else "the settings file"
        return Secret(title, remedy, plain, origin=origin, sources=sources)

    app_key = "GitHub App's private key", "github.app.private_key", ()
    return Credentials(
        secret("Datadog API key", "datadog.api_key", ("DD_API_KEY", "DATADOG_API_KEY"), names.datadog_api),
        secret("Datadog application key", "datadog.app_key", ("DD_APP_KEY", "DATADOG_APP_KEY"), names.datadog_app),
        secret("GitHub token", "github.token", ("GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN"), names.github),
        secret("token of the write calls", "http.token", ("INFRA_HEALTH_TOKEN",)),
        secret("token of the read calls", "http.read_token", ("INFRA_HEALTH_READ_TOKEN",)),
        secret(*app_key, names.github_app, app.private_key_file) if app else None,
    )


def from_environment(variable: str, environ: Mapping[str, str]) -> Secret:
    """The secret that the environment holds under ``variable``, or the file that ``variable``_FILE names."""
    value = environ.get(variable, "").strip() or None
    mask([value or ""])
    remedy = f"set {variable}, or {variable}_FILE to a file that holds it"
    sources = _mounted_files((variable,), environ)
    return Secret(f"bearer token {variable}", remedy, value, origin=f"environment {variable}", sources=sources)


def _has_aws_identity(environ: Mapping[str, str]) -> bool:
    """Whether a look-up in AWS can work at all: without an identity it would only wait for the metadata service."""
    folder = Path(environ.get("HOME", "/nonexistent"), ".aws")
    has_profile = (folder / "credentials").exists() or (folder / "config").exists()
    return has_profile or any(value and _AWS_IDENTITY.fullmatch(name) for name, value in environ.items())


def _mounted_files(variables: Iterable[str], environ: Mapping[str, str]) -> list[MountedFile]:
    """The files that the variables with _FILE behind their names name."""
    names = (f"{variable}_FILE" for variable in variables)
    return [MountedFile(Path(path), name) for name in names if (path := environ.get(name, "").strip())]


async def _ask_aws(name: str) -> str:
    from botocore.exceptions import ClientError

    from service.config.clients import aws_client

    title = f"AWS Secrets Manager, secret {name}"
    try:
        async with aws_client("secretsmanager", title, connect_timeout=2, read_timeout=5) as client:
            answer = await client.get_secret_value(SecretId=name)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        is_refused = code.startswith(("ResourceNotFound", "AccessDenied", "Invalid"))
        raise (ConfigError if is_refused else Unavailable)(f"{title}: {code or 'no answer'}") from error
    value = answer.get("SecretString") or answer.get("SecretBinary") or b""
    return value if isinstance(value, str) else bytes(value).decode(errors="replace")


def _pick_value(text: str, name: str, key: str | None) -> str:
    """A secret is a plain string, or a JSON object: its ``key``, without one its only value (as consoles write)."""
    place = f"AWS Secrets Manager, secret {name}"
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        values = None
    if values is None and key is None:
        return text.strip()
    if values is None:
        raise ConfigError(f"{place}: is no JSON object, so it has no key {key}")
    if key is None and len(values) != 1:
        raise ConfigError(f"{place}: JSON with {len(values)} values; name one as {name}#KEY (aws.names)")
    value = values.get(next(iter(values)) if key is None else key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place}: its JSON has no text under the key {key}")
    return value.strip()
