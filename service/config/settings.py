"""The settings: what each key means, its bounds and its default. Where values come from is in ``loader``."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
)

from service.config import fields
from service.config.masking import MASK, is_secret_name, mask_address, secrets_in_address
from service.domain import cron
from service.domain.runs import ConcurrencyPolicy, Mode

# Names in the environment beside INFRA_HEALTH_A__B__C, by key; the first one that is set counts. They win over the
# file; but those of ``github``, which are the replaced system's, fill what it leaves open.
ENVIRONMENT_NAMES = {
    "datadog.api_key": ("DD_API_KEY", "DATADOG_API_KEY"),
    "datadog.app_key": ("DD_APP_KEY", "DATADOG_APP_KEY"),
    **{f"datadog.{key}": (f"DD_{key.upper()}",) for key in ("site", "url", "env", "service", "version")},
    "http.token": ("INFRA_HEALTH_TOKEN",),
    "http.read_token": ("INFRA_HEALTH_READ_TOKEN",),
    "github.token": ("GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN"),
    "github.webhook_secret": ("GITHUB_WEBHOOK_SECRET",),
    "github.api_url": ("GITHUB_API_URL",),
    "github.user_agent": ("GITHUB_USER_AGENT",),
}

Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, AfterValidator(fields.check_url)]
Secret = Annotated[SecretStr, AfterValidator(fields.check_secret)]
PingUrl = Annotated[Secret, AfterValidator(fields.check_ping_url)]
Positive = Annotated[timedelta, Field(gt=timedelta(0))]
NotNegative = Annotated[timedelta, Field(ge=timedelta(0))]
Bytes = ByteSize
File = Annotated[Path, AfterValidator(fields.expand_path)]
Host = Annotated[str, fields.matching(r"[-A-Za-z0-9_.:*\[\]%]+", "must be a host name or address, or *")]
CollectorName = Annotated[
    str,
    fields.matching(
        r"(?=.{1,52}$)[a-z0-9]([-a-z0-9_]*[a-z0-9])?",
        "a collector's name has at most 52 small letters, digits, - and _, with a letter or digit at both ends",
    ),
]
MetricPrefix = Annotated[
    str,
    fields.matching(r"([A-Za-z][A-Za-z0-9_.]{0,48}[._])?", 'must be a word with . or _ behind it; "" sends nothing'),
]
TagName = Annotated[str, AfterValidator(fields.check_tag_name)]
TagValue = Annotated[str, fields.matching(r"(?s).{1,200}", "a tag's value has 1 to 200 characters")]


class Section(BaseModel):
    """A part of the settings. Unknown keys are errors.

    File and environment give text, so every field takes it: durations as seconds or ``90s``, ``5m``, ``2h``, ``1d``;
    lists as comma-separated words or JSON; mappings as JSON; secrets with the blanks around them.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = field_kinds(cls, info.field_name or "")
        is_mapping = any(issubclass(kind, dict | BaseModel) for kind in kinds)
        is_list = any(issubclass(kind, list | tuple | set | frozenset) for kind in kinds)
        if timedelta in kinds and value is not None:
            return fields.read_duration(value)
        if value is None and is_mapping and type(None) not in kinds:
            return {}  # a heading whose keys are all commented out
        if not isinstance(value, str):
            return value
        text = value.strip()
        if (is_list and text.startswith("[")) or (is_mapping and text.startswith("{")):
            return fields.read_json(text)
        if is_list:
            return [part.strip() for part in text.split(",") if part.strip()]
        return text or None if SecretStr in kinds else value


class CollectorSettings(Section):
    """What every collector has; each type adds its own keys in a subclass.

    ``legacy_names``: the replaced system's environment variable of a key (dotted where nested, "thresholds.hotfix").
    """

    legacy_names: ClassVar[Mapping[str, str]] = {}

    type: Text
    time_zone: Annotated[ZoneInfo, BeforeValidator(fields.read_time_zone)] = ZoneInfo("UTC")
    schedule: Text
    service: Text = "infra-health"
    enabled: bool = True
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline: NotNegative | None = None
    active_deadline: Positive = timedelta(seconds=300)
    backoff_limit: Annotated[int, Field(ge=0)] = 3
    jitter: NotNegative = timedelta(0)
    max_age: Positive = timedelta(hours=24)
    notify_after: Annotated[int, Field(ge=1)] = 1
    heartbeat_url: PingUrl | None = None
    starts_after: AwareDatetime | None = None
    successful_runs_history_limit: Annotated[int, Field(ge=0)] | None = None
    failed_runs_history_limit: Annotated[int, Field(ge=0)] | None = None
    tags: dict[TagName, TagValue] = {}

    @field_validator("schedule")
    @classmethod
    def _fires(cls, expression: str, info: ValidationInfo) -> str:
        time_zone = info.data.get("time_zone", ZoneInfo("UTC"))
        if cron.parse(expression).next(datetime.now(UTC), time_zone) is None:
            raise ValueError(f'"{expression}" does not fire within five years')
        return expression

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """Plain values by key (dotted where nested) for what the configuration leaves open, from the replaced system's
        environment.

        ``values``: the collector's own keys as configured; they win. ``environ`` holds no empty variables.
        Override it where a variable's unit or meaning differs from its key's.
        """
        return {key: environ[variable] for key, variable in cls.legacy_names.items() if variable in environ}


class DatadogSettings(Section):
    site: Annotated[str, AfterValidator(fields.check_site)] = "datadoghq.com"
    url: Annotated[Url, AfterValidator(fields.check_intake_url)] | None = None
    env: Text = "production"
    service: Text = "infra-health"
    version: Text | None = None
    api_key: Secret | None = None
    app_key: Secret | None = None
    heartbeat: Positive = timedelta(minutes=5)
    events: bool = True
    notify: tuple[Annotated[str, Field(pattern=r"^@\S+$")], ...] = ()
    runbook_url: Url | None = None
    historical: tuple[Text, ...] = ()


class GithubAppSettings(Section):
    """``id``: the App's id or its client id. Without a key or a file, the key is read from AWS Secrets Manager."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", coerce_numbers_to_str=True)]
    installation_id: Annotated[int, Field(gt=0)]
    private_key: SecretStr | None = None
    private_key_file: File | None = None


class GithubSettings(Section):
    """``app``: in place of ``token``, which it takes precedence over.

    ``webhook_secret``: what GitHub signs its deliveries with; while it is rotated, both with a comma between.
    """

    api_url: Url = "https://api.github.com"
    token: Secret | None = None
    app: GithubAppSettings | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(fields.check_quotes)] | None = None
    user_agent: Annotated[str, Field(min_length=1, pattern=r"^[ -~]+$")] = "infra-health"


class HttpSettings(Section):
    """``host``: ``*`` is one socket for both families, IPv4 alone where the system has no IPv6."""

    host: Host = "*"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    allowed_hosts: tuple[Host, ...] = ()
    public_url: Url | None = None
    token: Secret | None = None
    read_token: Secret | None = None


class SecretNames(Section):
    """Names in AWS Secrets Manager: NAME, or NAME#KEY for one key of a JSON secret."""

    datadog_api: Text = "datadog/api-key"
    datadog_app: Text = "datadog/app-key"
    github: Text = "github/dashboard-token"
    github_app: Text = "github/app-private-key"
    github_webhook: Text = "github/webhook-secret"


class AwsSettings(Section):
    secrets: Literal["auto", "on", "off"] = "auto"
    names: SecretNames = SecretNames()


class LogSettings(Section):
    format: Literal["auto", "json", "console"] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lambda text: str(text).lower())] = (
        "info"
    )


class StoreSettings(Section):
    """``url``: of a PostgreSQL that all replicas share; without it SQLite in ``state_dir``. ``pooled``: by pgbouncer in
    transaction mode. ``dead_after``: without a sign of life; then others take over what a replica left.
    """

    url: Secret | None = None
    dead_after: Annotated[Positive, Field(ge=timedelta(seconds=2))] = timedelta(seconds=20)
    pooled: bool = False
    max_bytes: Annotated[Bytes, Field(ge=2**20)] = ByteSize(256 * 2**20)
    retention: Positive = timedelta(days=7)
    keep_failed: Annotated[int, Field(ge=0)] = 3
    keep_ended: Annotated[int, Field(ge=1)] = 100


def _default_state_dir() -> Path:
    from platformdirs import user_state_path

    try:
        return user_state_path("infra-health")
    except RuntimeError:
        # A user without HOME and passwd entry has no home directory: then where a system's daemons keep their state.
        return Path("/var/lib/infra-health")


class Settings(Section):
    collectors: dict[CollectorName, SerializeAsAny[CollectorSettings]]
    datadog: DatadogSettings = DatadogSettings()
    github: GithubSettings = GithubSettings()
    http: HttpSettings = HttpSettings()
    aws: AwsSettings = AwsSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    mode: Mode = Mode.LIVE
    shadow_prefix: MetricPrefix = "shadow."
    max_series: Annotated[int, Field(ge=1)] = 100
    heartbeat_url: PingUrl | None = None
    state_dir: File = Field(default_factory=_default_state_dir)


def describe(section: Section) -> dict[str, Any]:
    """The settings as plain data to print: secrets as ``********``, null where there is none; durations as ``5m``."""
    return {name: _plain(name, value) for name, value in section.model_dump(by_alias=True).items()}


def secret_values(value: Any) -> Iterator[str]:
    """Every secret in the settings, those in addresses included, for ``masking.mask``."""
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case str():
            yield from secrets_in_address(value)
        case BaseModel():  # no dump: a field may be left out of that
            yield from secret_values([part for _, part in value])
        case dict():
            yield from secret_values(list(value.values()))
        case list() | tuple() | set() | frozenset():
            for part in value:
                yield from secret_values(part)


def differences(before: Section, after: Section) -> dict[str, str]:
    """The keys whose values differ, dotted, with both values as ``describe`` shows them: ``15m -> 30m``; of a section
    that is in one of them alone that it was added or removed."""
    return dict(_compare(before.model_dump(by_alias=True), after.model_dump(by_alias=True)))


def _compare(before: dict[str, Any], after: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key in {**before, **after}:
        old, new, name = before.get(key), after.get(key), f"{path}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _compare(old, new, f"{name}.")
        elif isinstance(old, dict) or isinstance(new, dict):
            yield name, "added" if isinstance(new, dict) else "removed"
        elif old != new:
            yield name, f"{_plain(name, old)} -> {_plain(name, new)}"


def _plain(key: str, value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(name, part) for name, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(key, part) for part in value]
        case None | bool() | float():
            return value
        case int():
            return int(value)  # a ByteSize, too
        case timedelta():
            return fields.format_duration(value)
        case Enum():
            return value.value
        case _:
            name = key.rpartition(".")[2]
            is_secret = isinstance(value, SecretStr) or (is_secret_name(name) and name != "secrets")
            return MASK if is_secret else mask_address(str(value))


@cache
def field_kinds(model: type[BaseModel], field: str) -> frozenset[type]:
    """The types that a field may hold, none where ``model`` has no such field; ``list[str]`` as list."""

    def find(annotation: Any) -> Iterator[type]:
        origin = get_origin(annotation)
        if origin is Annotated or origin in (Union, UnionType):
            for argument in get_args(annotation)[: 1 if origin is Annotated else None]:
                yield from find(argument)
        elif isinstance(kind := origin or annotation, type):
            yield kind

    return frozenset(find(model.model_fields[field].annotation) if field in model.model_fields else ())
