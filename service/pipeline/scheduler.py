"""Which slot starts when: Kubernetes' CronJob controller for the jobs of one process, and the runs under way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from anyio.abc import TaskGroup

from service.domain.runs import Actor, Cause, Mode, Pause, Run
from service.pipeline.clock import Clock
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.store import Store


class UnknownCollector(Exception):
    """No collector has this ``name``. ``known``: the names that there are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)


class AlreadyRunning(Exception):
    """Forbid: the run ``run_id`` of this collector is active."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is active and the concurrency policy is Forbid")
        self.run_id = run_id


class TooManyRuns(Exception):
    """So many runs of one collector are active that callers may start no other."""


class NotReady(Exception):
    """The collector can't run yet; the message says what it waits for."""


class Draining(Exception):
    """The daemon is ending: nothing new starts."""


class UnknownRun(Exception):
    """There is no run of this id."""


class RunEnded(Exception):
    """The run has ended already."""


@dataclass(frozen=True, slots=True)
class Triggered:
    """``is_new``: the run was started; else it was active already."""

    run_id: str
    collector: str
    is_new: bool


class Scheduler:
    """Starts runs by policy and owns those that are active. ``tasks``: where the runs live.

    ``mode``: in which slots are claimed; to be set before ``set_jobs``. ``beat``: monotonic time of the last sign of life.
    """

    def __init__(self, runner: Runner, store: Store, clock: Clock, tasks: TaskGroup) -> None:
        self.mode = Mode.LIVE
        self.beat = clock.monotonic()
        raise NotImplementedError

    async def load(self) -> None:
        """Reads what must outlive a restart, last slots and pauses; from here on schedules count. Raises Unavailable."""

    async def set_jobs(self, jobs: Iterable[Job]) -> None:
        """The jobs from now on; active runs of the old ones go on. What is due starts."""

    @property
    def jobs(self) -> Mapping[str, Job]:
        raise NotImplementedError

    @property
    def pauses(self) -> Mapping[str, Pause]:
        """By the collector's name."""
        raise NotImplementedError

    async def run(self) -> None:
        """The timer, until cancelled."""

    def active(self, name: str | None = None) -> list[Run]:
        """The runs that are under way, oldest first."""
        raise NotImplementedError

    def next_run(self, name: str) -> datetime | None:
        """When the schedule starts the job next, None while it is paused or disabled, or where it never fires."""
        raise NotImplementedError

    def last_slot(self, name: str) -> datetime | None:
        """The last slot that the job ran in live mode: what CronJobs that take over again need not run."""
        raise NotImplementedError

    def waits_for(self, name: str) -> str | None:
        """What the collector waits for before it can run ("waiting for a first push"), None when it can."""
        raise NotImplementedError

    async def trigger(self, name: str, cause: Cause, actor: Actor) -> Run:
        """Starts a run that no schedule asked for.

        Raises UnknownCollector, AlreadyRunning, TooManyRuns, NotReady, Draining, Unavailable (the store).
        """
        raise NotImplementedError

    async def trigger_all(self, cause: Cause, actor: Actor) -> list[Triggered]:
        """Triggers every enabled collector that can run now. Raises Draining or Unavailable."""
        raise NotImplementedError

    async def trigger_after(self, name: str, cause: Cause, actor: Actor) -> Run:
        """As ``trigger``, but what Forbid lets not start now starts when the active run has ended.

        A run that waits so already is the one: it sees whatever this one would. Raises UnknownCollector, Draining.
        """
        raise NotImplementedError

    async def cancel(self, run_id: str, actor: Actor) -> None:
        """Asks the run to end as Cancelled; ``wait`` tells when it has. Raises UnknownRun, RunEnded, Unavailable."""

    async def pause(self, name: str, actor: Actor) -> None:
        """Suspends the schedule; active runs go on. Raises UnknownCollector, Unavailable."""

    async def resume(self, name: str, actor: Actor) -> None:
        """The schedule counts again; the latest missed slot starts. Raises UnknownCollector, Unavailable."""

    async def wait(self, run_id: str, seconds: float) -> Run | None:
        """The run once it has ended, None when it has not within ``seconds`` or is unknown. Raises Unavailable."""
        raise NotImplementedError

    async def drain(self, seconds: float) -> None:
        """Nothing new starts; active runs get ``seconds``, then they are cancelled and kept as Interrupted."""
