"""The application: what the daemon hands to the web, put together with guard, routes and pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import FastAPI

from service.config.logging import LogBuffer
from service.config.secrets import Secret
from service.config.settings import Settings
from service.datadog.intake import Intake
from service.github.client import Github
from service.pipeline.clock import Clock
from service.pipeline.forwarder import Forwarder
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.prometheus import Telemetry
from service.web.schemas import Info


@dataclass
class AppContext:
    """The daemon as the web sees and changes it. A reload replaces ``settings`` (and ``reload_error``) in place.

    ``token``, ``read_token``: of the write and the read calls; they may be set to nothing, and may change.
    ``secrets``: all whose trouble /readyz warns of. ``in_cluster``: KUBERNETES_SERVICE_HOST is set.
    ``reload_error``: why the last reload was refused, None when it was not.
    ``telemetry``: the counters of /metrics; the daemon feeds them (``run_ended``, ``points``).
    """

    info: Info
    settings: Settings
    clock: Clock
    store: Store
    scheduler: Scheduler
    forwarder: Forwarder
    intake: Intake
    github: Github
    log: LogBuffer
    token: Secret
    read_token: Secret
    secrets: Sequence[Secret] = ()
    in_cluster: bool = False
    reload_error: str | None = None
    telemetry: Telemetry = field(init=False)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.info.version, self.info.commit)


def create_app(context: AppContext) -> FastAPI:
    """Everything that is served."""
    raise NotImplementedError
