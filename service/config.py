"""The settings: what each key means, its bounds and its default. Where values come from is in ``config_sources``."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ConcurrencyPolicy(StrEnum):
    """What happens when a slot comes while a run of the same collector is active (as in a Kubernetes CronJob)."""

    FORBID = "Forbid"
    ALLOW = "Allow"
    REPLACE = "Replace"


class Section(BaseModel):
    """A part of the settings. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class CollectorSettings(Section):
    """What every collector has; each type adds its own keys in a subclass."""

    type: str
    schedule: str
    service: str = "infra-health"
    time_zone: ZoneInfo = ZoneInfo("UTC")
    enabled: bool = True
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline: timedelta | None = None
    active_deadline: timedelta = timedelta(seconds=300)
    backoff_limit: Annotated[int, Field(ge=0)] = 3
    jitter: timedelta = timedelta(0)
    max_age: timedelta = timedelta(hours=24)
    tags: dict[str, str] = {}


class DatadogSettings(Section):
    site: str = "datadoghq.com"
    url: str | None = None
    env: str = "production"
    service: str = "infra-health"
    version: str | None = None
    api_key: SecretStr | None = None
    app_key: SecretStr | None = None
    heartbeat: timedelta = timedelta(minutes=5)


class GithubSettings(Section):
    api_url: str = "https://api.github.com"
    token: SecretStr | None = None
    user_agent: str = "infra-health"


class HttpSettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - probes come by the pod's address
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    token: SecretStr | None = None


class AwsSettings(Section):
    secrets: str = "auto"


class Settings(Section):
    collectors: dict[str, CollectorSettings]
    datadog: DatadogSettings = DatadogSettings()
    github: GithubSettings = GithubSettings()
    http: HttpSettings = HttpSettings()
    aws: AwsSettings = AwsSettings()
    state_dir: Path
