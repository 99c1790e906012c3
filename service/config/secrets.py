"""Secrets: from the settings, a mounted file, or AWS Secrets Manager. Their values appear in no text.

Whoever needs a secret asks its ``Secret`` each time, so a rotated one is taken over while the daemon runs.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from pydantic import SecretStr

from service.config.fields import QUOTED, is_quoted
from service.config.masking import mask
from service.config.settings import ENVIRONMENT_NAMES, Settings
from service.domain.errors import ConfigError, Unavailable

log = structlog.get_logger(__name__)

AWS = "AWS Secrets Manager"  # begins the titles and troubles of its sources
_RETRY_SECONDS = 60.0  # after a look-up that failed; who has no value at all asks when it needs one
_ABSENT_SECONDS = 600.0  # after AWS had none of an optional one
_READ_SECONDS = 20.0  # of AWS: for the client, its credentials and the answer
# Any of these says that the process was given an identity in AWS (static keys, IRSA, ECS, a profile, a stand-in).
_AWS_IDENTITY = re.compile(
    r"AWS_(ROLE_ARN|WEB_IDENTITY_TOKEN_FILE|ACCESS_KEY_ID|PROFILE|CONTAINER_CREDENTIALS_\w+|ENDPOINT_URL(_SECRETS_MANAGER)?)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A place that a secret is read from again after ``lifetime`` seconds. ``fetch`` may block."""

    title: str
    lifetime: float
    fetch: Callable[[str], str]

    async def read(self) -> str:
        """The value. Raises Unavailable or ConfigError."""
        with anyio.move_on_after(_READ_SECONDS):
            text = (await anyio.to_thread.run_sync(self.fetch, self.title, abandon_on_cancel=True)).strip()
            if not text:
                raise Unavailable(f"{self.title}: is empty")
            if is_quoted(text):
                raise ConfigError(f"{self.title}: {QUOTED}")
            return text
        raise Unavailable(f"{self.title}: no answer within {_READ_SECONDS:.0f} s")


def mounted_file(path: Path, variable: str) -> Source:
    """A file that Kubernetes (or an agent) keeps up to date; ``variable`` names it."""
    return Source(f"file {path} ({variable})", 60.0, partial(_read_file, path))


def aws_secret(name: str) -> Source:
    """NAME in AWS Secrets Manager, or NAME#KEY for one key of a JSON object."""
    return Source(f"{AWS}, {name}", 3600.0, partial(_read_aws, name))


class Secret:
    """One secret that a client needs: looked up when it is first asked for, after its time, and when refused.

    A ``value`` from the settings (set at ``origin``) can't change while the process lives. Without one the ``sources``
    are asked in order; while all of them fail, the value that is known goes on working.
    ``source`` names where the value came from, never the value; "nowhere" while there is none.
    ``trouble`` says why the last look-up failed, None when it did not; ``may_pass``: time may mend that.
    That its sources have none is no trouble of one that ``is_optional``.
    """

    def __init__(
        self,
        title: str,
        remedy: str,
        value: str | None = None,
        *,
        origin: str = "settings",
        sources: Sequence[Source] = (),
        is_optional: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.remedy = remedy
        self.source = origin if value else "nowhere"
        self.trouble: str | None = None
        self.may_pass = False
        self.known = value  # as of the last look-up, for who can't wait for one
        self._sources = () if value else tuple(sources)
        self._is_optional = is_optional
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
        return self.known is not None

    @property
    def missing(self) -> str:
        """What to tell the operator when there is no value."""
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")

    async def get(self) -> str | None:
        """The value, None while there is none."""
        if self._is_due():
            async with self._lock:
                if self._is_due():  # nobody else has looked it up meanwhile
                    await self._look_up()
        return self.known

    async def ask_again(self) -> bool:
        """Looks the value up anew, since it was refused; True when it changed. A value from the settings can't."""
        async with self._lock:
            before = self.known
            await self._look_up()
            return self.known != before

    def _is_due(self) -> bool:
        is_wanted = self.known is None and not self._is_optional
        return self.can_change and (is_wanted or self._clock() >= self._due)

    async def _look_up(self) -> None:
        errors: list[Exception] = []
        lifetime = _RETRY_SECONDS
        for source in self._sources:
            try:
                value = await source.read()
            except (Unavailable, ConfigError) as error:
                errors.append(error)
                continue
            mask([value])
            if (value, source.title) != (self.known, self.source):
                log.info(f"{self.title} taken over", source=source.title, changed=self.is_set)
            self.known, self.source, lifetime = value, source.title, source.lifetime
            break
        if self._is_optional and not self.is_set:
            errors, lifetime = [], _ABSENT_SECONDS
        self._due = self._clock() + lifetime
        self.may_pass = any(isinstance(error, Unavailable) for error in errors)
        trouble = "; ".join(map(str, errors)) or None
        if trouble and trouble != self.trouble:
            effect = "the known value stays in use" if self.is_set else "there is no value yet"
            log.warning(f"{self.title} could not be looked up", reason=trouble, effect=effect)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Credentials:
    """The daemon's secrets; a snapshot's bearer token is its collector's own.

    ``webhook_secret``: one, or both with a comma between while it is rotated.
    ``github_app_key``: a GitHub App's private key, in place of the token; None where no App is configured.
    """

    api_key: Secret
    app_key: Secret
    github_token: Secret
    write_token: Secret
    read_token: Secret
    webhook_secret: Secret
    github_app_key: Secret | None = None

    def __iter__(self) -> Iterator[Secret]:
        github = self.github_app_key or self.github_token
        return iter((self.api_key, self.app_key, github, self.write_token, self.read_token, self.webhook_secret))


def credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    """The secrets of these settings. Nothing is read yet."""
    names, app = settings.aws.names, settings.github.app
    has_aws = settings.aws.secrets == "on" or (settings.aws.secrets == "auto" and _has_aws_identity(environ))

    def secret(title: str, key: str, name: str = "", file: Path | None = None) -> Secret:
        value: SecretStr | None = attrgetter(key)(settings)
        variables = (*ENVIRONMENT_NAMES.get(key, ()), f"INFRA_HEALTH_{key.replace('.', '__').upper()}")
        files = [mounted_file(file, f"{key}_file")] if file else _find_files(variables, environ)
        remedy = _remedy(variables[0])
        if name:
            remedy += f", or give the process a role that may read {name} in AWS Secrets Manager"
        sources = [*files, aws_secret(name)] if name and has_aws else files
        plain = value.get_secret_value() if value else None
        variable = next((each for each in variables if environ.get(each, "").strip() == plain), "")
        origin = f"environment {variable}" if variable else "the settings file"
        # Who has an identity in AWS need not have this secret there; whoever names a file has it in there.
        is_optional = key == "github.webhook_secret" and not files
        return Secret(title, remedy, plain, origin=origin, sources=sources, is_optional=is_optional)

    app_key = "GitHub App's private key", "github.app.private_key"
    return Credentials(
        secret("Datadog API key", "datadog.api_key", names.datadog_api),
        secret("Datadog application key", "datadog.app_key", names.datadog_app),
        secret("GitHub token", "github.token", names.github),
        secret("token of the write calls", "http.token"),
        secret("token of the read calls", "http.read_token"),
        secret("GitHub webhook secret", "github.webhook_secret", names.github_webhook),
        secret(*app_key, names.github_app, app.private_key_file) if app else None,
    )


def from_environment(variable: str, environ: Mapping[str, str]) -> Secret:
    """The secret that the environment holds under ``variable``, or the file that ``variable``_FILE names."""
    value = environ.get(variable, "").strip() or None
    mask([value or ""])
    title, sources = f"bearer token {variable}", _find_files((variable,), environ)
    return Secret(title, _remedy(variable), value, origin=f"environment {variable}", sources=sources)


def _remedy(variable: str) -> str:
    return f"set {variable}, or {variable}_FILE to a file that holds it"


def _find_files(variables: Iterable[str], environ: Mapping[str, str]) -> list[Source]:
    """The files that the variables with _FILE behind their names name."""
    names = (f"{variable}_FILE" for variable in variables)
    return [mounted_file(Path(path), name) for name in names if (path := environ.get(name, "").strip())]


def _has_aws_identity(environ: Mapping[str, str]) -> bool:
    """Whether a look-up in AWS can work at all: without an identity it would only wait for the metadata service."""
    folder = Path(environ.get("HOME", "/nonexistent"), ".aws")
    has_profile = (folder / "credentials").exists() or (folder / "config").exists()
    return has_profile or any(value and _AWS_IDENTITY.fullmatch(name) for name, value in environ.items())


def _read_file(path: Path, title: str) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{title} is no text") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{title}: {getattr(error, 'strerror', None) or 'no such path'}") from error


def _read_aws(name: str, title: str) -> str:
    """The plain string; of a JSON object the value of KEY, without KEY the only one (as consoles write)."""
    name, _, key = name.partition("#")
    text = anyio.run(_ask_aws, name, title)
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else {}
    except ValueError:
        values = {}
    if not values and not key:
        return text
    if not key and len(values) > 1:
        raise ConfigError(f"{title}: JSON with {len(values)} values; name one as {name}#KEY (aws.names)")
    value = values.get(key or next(iter(values)))
    if not isinstance(value, str):
        raise ConfigError(f"{title}: is no JSON with a text under the key {key}")
    return value


async def _ask_aws(name: str, title: str) -> str:
    # In a thread: importing the client and loading its models takes most of a second.
    from botocore.exceptions import ClientError

    from service.config.clients import aws_client

    try:
        async with aws_client("secretsmanager", title, connect_timeout=2, read_timeout=5) as client:
            answer = await client.get_secret_value(SecretId=name)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        is_refused = code.startswith(("ResourceNotFound", "AccessDenied", "Invalid"))
        raise (ConfigError if is_refused else Unavailable)(f"{title}: {code or 'no answer'}") from error
    return answer.get("SecretString") or bytes(answer.get("SecretBinary", b"")).decode(errors="replace")
