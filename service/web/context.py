"""What the daemon hands to the web."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from service.config.logging import LogBuffer
from service.config.secrets import Secret
from service.config.settings import Settings
from service.datadog.intake import Intake
from service.github.client import Github
from service.pipeline.clock import Clock
from service.pipeline.forwarder import Forwarder
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.overview import OverviewReader
from service.web.prometheus import Telemetry
from service.web.schemas import Info

MAX_WAITING = 16  # each waiting caller holds a connection; beyond these a caller is told to come back
MAX_PUSHING = 2  # each may take the memory of a large snapshot


@dataclass
class AppContext:
    """The daemon as the web sees and changes it. A reload replaces ``settings`` (and ``reload_error``) in place.

    ``token``, ``read_token``: of the write and the read calls; they may be set to nothing, and may change.
    ``secrets``: all whose trouble /readyz warns of. ``in_cluster``: KUBERNETES_SERVICE_HOST is set.
    ``reload_error``: why the last reload was refused, None when it was not.
    ``telemetry``: the counters of /metrics; the daemon feeds them (``run_ended``, ``points``).
    ``closing`` is set when the server ends: who waits for a run is answered then, not cut off.
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
    overview: OverviewReader = field(init=False)
    closing: anyio.Event = field(init=False, default_factory=anyio.Event)
    # One at a time: threads that compute take the loop's turns.
    threads: anyio.CapacityLimiter = field(init=False, default_factory=lambda: anyio.CapacityLimiter(1))
    waiting: anyio.CapacityLimiter = field(init=False, default_factory=lambda: anyio.CapacityLimiter(MAX_WAITING))
    pushing: anyio.CapacityLimiter = field(init=False, default_factory=lambda: anyio.CapacityLimiter(MAX_PUSHING))

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.info.version, self.info.commit)
        self.overview = OverviewReader(self)
