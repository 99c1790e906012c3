"""What is read of the store: the outbox, runs and samples, checks and their history, the record of actions.

Reads have a connection of their own, so they wait for no write and nothing waits on the event loop. Every method raises
Unavailable when the store is lost.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime

from service.adapters import store_history as history
from service.adapters import store_logs as logs
from service.adapters import store_reads as reads
from service.adapters.store_lane import Lane
from service.adapters.store_series import RecentSeries
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.history import CheckHistory, Cycle
from service.domain.logged import Logged
from service.domain.points import Fate, Point, SeenSeries, StoredSample
from service.domain.runs import Run


class StoreReading:
    """The half of ``SqliteStore`` that needs the reader alone. ``recent``: the series as the writer knows them."""

    def __init__(self, reader: Lane, recent: RecentSeries) -> None:
        self._reader = reader
        self._recent = recent

    # The outbox

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        """The oldest waiting points but those whose id is in ``skip``, at most ``limit`` and about 5 MB of text."""
        return await self._reader.run(reads.waiting, limit, skip, self._recent)

    async def count_waiting(self) -> int:
        return await self._reader.run(reads.count_waiting)

    async def oldest_waiting(self) -> datetime | None:
        return await self._reader.run(reads.oldest_waiting)

    # Runs

    async def last_slots(self) -> Mapping[str, datetime]:
        return await self._reader.run(reads.last_slots)

    async def shadow_slots(self) -> Mapping[str, datetime]:
        """The last slots that were run in shadow mode; ``last_slots`` has the live ones."""
        return await self._reader.run(reads.shadow_slots)

    async def paused(self) -> frozenset[str]:
        return await self._reader.run(reads.paused)

    async def run_log(self, run_id: str) -> list[Logged]:
        """The lines of an ended run, empty where none are kept."""
        return await self._reader.run(logs.read, run_id)

    async def checks(self, job: str) -> list[Check]:
        return await self._reader.run(reads.checks, job)

    async def recall(self, job: str, key: str) -> bytes | None:
        """What the job's collector remembered under ``key``."""
        return await self._reader.run(reads.recall, job, key)

    async def last_success(self, job: str) -> datetime | None:
        """When the last run that succeeded ended."""
        return await self._reader.run(reads.last_success, job)

    async def last_successes(self) -> dict[str, datetime]:
        """The same for every job that had one."""
        return await self._reader.run(reads.last_successes)

    async def last_failures(self) -> dict[str, Run]:
        """The last run of each job that ended without success."""
        return await self._reader.run(reads.last_failures)

    async def lost(self, job: str | None, since: datetime) -> dict[Fate, int]:
        """Points lost since then, by fate; of all jobs where ``job`` is None."""
        return await self._reader.run(reads.lost, job, since)

    # The record

    async def run(self, run_id: str) -> Run | None:
        return await self._reader.run(reads.run, run_id)

    async def runs(self, job: str | None = None, limit: int = 50, before: str | None = None) -> list[Run]:
        """Newest first, older than the run ``before`` (the last one of the page before)."""
        return await self._reader.run(reads.runs, job, limit, before)

    async def latest_runs(self) -> dict[str, Run]:
        """The last run of each job, active or ended."""
        return await self._reader.run(reads.latest_runs)

    async def samples(self, run_id: str, offset: int = 0, limit: int = 100) -> tuple[list[StoredSample], int]:
        """A page of a run's samples in the order in which they were collected, and how many are stored in all."""
        return await self._reader.run(reads.samples, run_id, offset, limit)

    async def seen(self, jobs: Iterable[str], since: datetime) -> list[SeenSeries]:
        """The series that runs of ``jobs`` brought points of since then. Walks over all stored points."""
        return await self._reader.run(reads.seen, list(jobs), since)

    async def fates(self, run_id: str) -> dict[Fate, int]:
        """What came of a run's points, those whose rows were pruned included."""
        return (await self.fates_of([run_id]))[run_id]

    async def fates_of(self, run_ids: Iterable[str]) -> dict[str, dict[Fate, int]]:
        return await self._reader.run(reads.fates_of, list(run_ids))

    async def last_cycles(self, jobs: Sequence[str]) -> dict[str, int]:
        """The number of each job's last ended run; it rises with every run."""
        return await self._reader.run(history.last_cycles, jobs)

    async def cycles(self, after: Mapping[str, int], most: int) -> dict[str, list[Cycle]]:
        """The last ``most`` cycles (100 are kept) of each job, newer than the number given for it, oldest first."""
        return await self._reader.run(history.cycles, after, most)

    async def cycle(self, run_id: str) -> tuple[str, Cycle] | None:
        """The job and the cycle of a run, whether its record is kept or not."""
        return await self._reader.run(history.cycle, run_id)

    async def checks_of(self, jobs: Sequence[str]) -> dict[str, list[Check]]:
        return await self._reader.run(history.checks_of, jobs)

    async def check_histories(
        self, ids: Collection[int], numbers: Sequence[int], since: datetime
    ) -> dict[int, CheckHistory]:
        """What is known of these checks in the cycles of these numbers, and their hours from ``since`` on."""
        return await self._reader.run(history.check_histories, ids, numbers, since)

    async def actions(self, limit: int = 100) -> list[Action]:
        """Newest first."""
        return await self._reader.run(reads.actions, limit)

    async def size(self) -> int:
        """Bytes in use."""
        return await self._reader.run(reads.size)
