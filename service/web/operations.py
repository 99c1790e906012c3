"""What the web needs of the daemon: what it reads, what it does, and the errors that are raised.

OperationsError
├── UnknownCollector     404
├── AlreadyRunning       409, with the running run's address
├── TooManyRuns          429
├── TakesNoSnapshots     404: its collector reads something else
├── BadSnapshot          422, with the bad records
├── SnapshotTooLarge     413
└── Draining             503: the daemon takes no new runs
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from service.web.board import Board
from service.web.check_views import CheckView
from service.web.metrics import Snapshot
from service.web.views import CollectorView, DeliveryView, Health, Info, LogLine, RunView, SampleView, Triggered


class OperationsError(Exception):
    """The daemon can't do what it was asked to."""


class UnknownCollector(OperationsError):
    """No collector of this name is configured. ``known``: those that are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(f"there is no collector {name!r}; there are {', '.join(self.known) or 'none'}")


class AlreadyRunning(OperationsError):
    """The collector is running and its concurrency policy is Forbid."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} is active and the concurrency policy is Forbid")


class TooManyRuns(OperationsError):
    """The collector's policy lets runs overlap, and as many as may are active."""

    def __init__(self, name: str, active: int) -> None:
        super().__init__(f"{active} runs of {name} are active already; try again when one has ended")


class TakesNoSnapshots(OperationsError):
    """The collector's type reads something else than snapshots."""

    def __init__(self, name: str) -> None:
        super().__init__(f"collector {name} takes no snapshots")


class BadSnapshot(OperationsError):
    """The snapshot is refused. ``errors``: the bad records, as the answer lists them; ``count``: how many there are."""

    def __init__(self, message: str, errors: Iterable[dict[str, str]] = (), count: int = 0) -> None:
        super().__init__(message)
        self.errors = tuple(errors)
        self.count = count


class SnapshotTooLarge(OperationsError):
    """The snapshot is beyond the collector's bounds: 413."""


class Draining(OperationsError):
    """The daemon is shutting down and starts no runs."""

    def __init__(self) -> None:
        super().__init__("the daemon is shutting down and starts no runs")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a change. ``source``: the peer's address; the rest as it was given."""

    source: str
    actor: str | None = None
    reason: str | None = None


class Readings(Protocol):
    """The daemon as the web shows it. Where the store is needed and lost, ``Unavailable`` is raised."""

    @property
    def info(self) -> Info: ...

    @property
    def board(self) -> Board: ...

    def live(self) -> Health:
        """Whether the event loop and the scheduler beat. No thread, no store, no network: it answers under any load."""
        ...

    async def ready(self) -> Health:
        """Not ok before the configuration is read and the store is open, and when either is lost; the rest warns."""
        ...

    async def collectors(self) -> list[CollectorView]: ...

    async def collector(self, name: str) -> CollectorView:
        """Raises UnknownCollector."""
        ...

    async def runs(self, collector: str | None = None, limit: int = 50, before: str | None = None) -> list[RunView]:
        """Newest first, active ones included. ``before``: only those older than this run. Raises UnknownCollector."""
        ...

    async def run(self, run_id: str) -> RunView | None: ...

    async def samples(self, run_id: str, offset: int, limit: int) -> tuple[list[SampleView], int] | None:
        """One page of the run's samples and how many it has in all, None when there is no such run."""
        ...

    async def checks(self, name: str, metric: str | None = None) -> list[CheckView]:
        """What the collector's checks say now; ``metric``: only those that it names. Raises UnknownCollector."""
        ...

    async def run_log(self, run_id: str) -> list[LogLine]:
        """The run's log lines, oldest first; empty where none are kept (any more)."""
        ...

    def recent_log(self, limit: int) -> list[LogLine]:
        """The daemon's last log lines, oldest first, debug ones included."""
        ...

    def delivery(self) -> DeliveryView: ...

    async def metrics_snapshot(self) -> Snapshot:
        """What /metrics reads at scrape time. Leaves out what it can't know rather than raise."""
        ...


class Operations(Readings, Protocol):
    """The daemon as the web shows and changes it."""

    async def trigger(self, name: str, origin: Origin) -> Triggered:
        """Starts a run now. Raises UnknownCollector, AlreadyRunning, TooManyRuns or Draining."""
        ...

    async def trigger_all(self, origin: Origin) -> list[Triggered]:
        """Starts every enabled collector; those that are running already are listed as not started. Raises Draining."""
        ...

    async def push(self, name: str, body: bytes, key: str, origin: Origin) -> Triggered:
        """Keeps a snapshot and runs its collector, at once or after the run that is active.

        ``key``: the same when a push is repeated. Raises UnknownCollector, TakesNoSnapshots, BadSnapshot,
        SnapshotTooLarge or Draining.
        """
        ...

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        """The run once it has ended, None when it has not by then."""
        ...

    async def pause(self, name: str, origin: Origin) -> None:
        """Suspends the schedule; active runs go on. Raises UnknownCollector."""
        ...

    async def resume(self, name: str, origin: Origin) -> None:
        """Resumes the schedule. Raises UnknownCollector."""
        ...
