"""The settings: what each key means, its bounds and its default. Where values come from is in ``config_sources``."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_origin
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
)

from service.config_values import (
    absolute_url,
    alternatives,
    byte_count,
    collector_name,
    duration,
    expanded,
    from_json,
    host_name,
    instant,
    is_model,
    metric_prefix,
    ping_address,
    sendable,
    site_name,
    tag_name,
    tag_value,
    zone,
)
from service.domain import cron

SHADOW_PREFIX = "shadow."
# Beyond this many times ``max_series`` delivery holds back what is new.
SERIES_BEFORE_HOLD = 10

Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, AfterValidator(absolute_url)]
Secret = Annotated[SecretStr, AfterValidator(sendable)]
Positive = Annotated[timedelta, Field(gt=timedelta(0))]
NotNegative = Annotated[timedelta, Field(ge=timedelta(0))]


class ConcurrencyPolicy(StrEnum):
    """What happens when a slot comes while a run of the same collector is active (as in a Kubernetes CronJob)."""

    FORBID = "Forbid"
    ALLOW = "Allow"
    REPLACE = "Replace"


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
        kinds = _kinds(cls, info.field_name or "")
        if timedelta in kinds and value is not None:
            return duration(value)
        if value is None and not kinds.isdisjoint({dict, BaseModel}) and type(None) not in kinds:
            return {}  # a heading whose keys are all commented out
        if isinstance(value, str):
            text = value.strip()
            is_list = not kinds.isdisjoint({list, tuple, set, frozenset})
            if (is_list and text.startswith("[")) or (kinds & {dict, BaseModel} and text.startswith("{")):
                return from_json(text)
            if is_list:
                return [part.strip() for part in text.split(",") if part.strip()]
            if SecretStr in kinds:
                return text or None
        return value


class CollectorSettings(Section):
    """What every collector has; each type adds its own keys in a subclass.

    ``legacy_names``: the replaced system's environment variable of a key (dotted where nested, "thresholds.hotfix").
    """

    legacy_names: ClassVar[Mapping[str, str]] = {}

    type: Text
    time_zone: Annotated[ZoneInfo, BeforeValidator(zone)] = ZoneInfo("UTC")
    schedule: Text
    service: Text = "infra-health"
    enabled: bool = True
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline: NotNegative | None = None
    active_deadline: Positive = timedelta(seconds=300)
    backoff_limit: Annotated[int, Field(ge=0)] = 3
    jitter: NotNegative = timedelta(0)
    max_age: Positive = timedelta(hours=24)
    heartbeat_url: Annotated[Secret | None, AfterValidator(ping_address)] = None
    starts_after: Annotated[datetime | None, BeforeValidator(instant)] = None
    successful_runs_history_limit: Annotated[int, Field(ge=0)] | None = None
    failed_runs_history_limit: Annotated[int, Field(ge=0)] | None = None
    tags: dict[Annotated[str, AfterValidator(tag_name)], Annotated[str, AfterValidator(tag_value)]] = {}

    @field_validator("schedule")
    @classmethod
    def _fires(cls, expression: str, info: ValidationInfo) -> str:
        time_zone = info.data.get("time_zone", ZoneInfo("UTC"))
        if cron.parse(expression).next(datetime.now(UTC), time_zone) is None:
            raise ValueError(f'"{expression}" does not fire within five years')
        return expression

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """Plain values for keys that the configuration leaves open, from the replaced system's environment.

        ``values``: the collector's own keys as configured. ``environ`` holds no empty variables. Keys that are in
        ``values`` too are ignored. Override it where a variable's unit or meaning differs from its key's.
        """
        found: dict[str, Any] = {}
        for key, variable in cls.legacy_names.items():
            if variable in environ:
                *parents, last = key.split(".")
                inner = found
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[last] = environ[variable]
        return found


class Mode(StrEnum):
    """``shadow``: collects and stores as in production, but what is sent has names of its own, or is not sent."""

    LIVE = "live"
    SHADOW = "shadow"


class DatadogSettings(Section):
    site: Annotated[str, AfterValidator(site_name)] = "datadoghq.com"
    url: Url | None = None
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
    private_key_file: Annotated[Path, AfterValidator(expanded)] | None = None


class GithubSettings(Section):
    """``app``: in place of ``token``, which it takes precedence over."""

    api_url: Url = "https://api.github.com"
    token: Secret | None = None
    app: GithubAppSettings | None = None
    user_agent: Annotated[str, Field(min_length=1, pattern=r"^[ -~]+$")] = "infra-health"


class HttpSettings(Section):
    host: Annotated[str, AfterValidator(host_name)] = "0.0.0.0"  # noqa: S104 - probes come by the pod's address
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    allowed_hosts: tuple[Annotated[str, AfterValidator(host_name)], ...] = ()
    public_url: Url | None = None
    token: Secret | None = None
    read_token: Secret | None = None


class SecretNames(Section):
    """Names in AWS Secrets Manager: NAME, or NAME#KEY for one key of a JSON secret."""

    datadog_api: Text = "datadog/api-key"
    datadog_app: Text = "datadog/app-key"
    github: Text = "github/dashboard-token"
    github_app: Text = "github/app-private-key"


class AwsSettings(Section):
    secrets: Literal["auto", "on", "off"] = "auto"
    names: SecretNames = SecretNames()


class LogSettings(Section):
    format: Literal["auto", "json", "console"] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lambda text: str(text).lower())] = (
        "info"
    )


class StoreSettings(Section):
    max_bytes: Annotated[int, BeforeValidator(byte_count), Field(ge=2**20)] = 256 * 2**20
    retention: Positive = timedelta(days=7)
    keep_failed: Annotated[int, Field(ge=0)] = 3
    keep_ended: Annotated[int, Field(ge=1)] = 100


def _state_dir() -> Path:
    from platformdirs import user_state_path

    return user_state_path("infra-health")


class Settings(Section):
    collectors: dict[Annotated[str, AfterValidator(collector_name)], SerializeAsAny[CollectorSettings]]
    datadog: DatadogSettings = DatadogSettings()
    github: GithubSettings = GithubSettings()
    http: HttpSettings = HttpSettings()
    aws: AwsSettings = AwsSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    mode: Mode = Mode.LIVE
    shadow_prefix: Annotated[str | None, BeforeValidator(metric_prefix)] = SHADOW_PREFIX
    max_series: Annotated[int, Field(ge=1)] = 100
    heartbeat_url: Annotated[Secret | None, AfterValidator(ping_address)] = None
    state_dir: Annotated[Path, AfterValidator(expanded)] = Field(default_factory=_state_dir, validate_default=True)


def most_series(settings: Settings) -> int | None:
    """How many series an hour may leave; None where the operator has set no ``max_series``: then all may.

    A bound that nobody has set must not part a team from its points: without one there is the warning alone.
    """
    return settings.max_series * SERIES_BEFORE_HOLD if "max_series" in settings.model_fields_set else None


def kept_prefix(settings: Settings) -> str | None:
    """What stands before the names of stored metrics in shadow mode, also where none is sent; None when live."""
    return (settings.shadow_prefix or SHADOW_PREFIX) if settings.mode is Mode.SHADOW else None


# What runs where no file says otherwise: the same three as in the shipped config.yaml.
SHIPPED_COLLECTORS: Mapping[str, Mapping[str, str]] = {
    "ci": {"type": "github_ci", "schedule": "*/10 * * * *", "service": "dashboard-collector"},
    "training": {
        "type": "snapshot",
        "schedule": "0 * * * *",
        "service": "training-health-collector",
        "category": "training",
    },
    "eval": {
        "type": "snapshot",
        "schedule": "0 * * * *",
        "service": "eval-health-collector",
        "category": "evaluation",
    },
}


@cache
def _kinds(model: type[BaseModel], field: str) -> frozenset[type]:
    """The types that a field may hold; models as BaseModel, ``list[str]`` as list."""
    found = (get_origin(kind) or kind for kind in alternatives(model.model_fields[field].annotation))
    return frozenset(BaseModel if is_model(kind) else kind for kind in found)
