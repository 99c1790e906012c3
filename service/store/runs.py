"""Runs: claimed, begun and ended; and what is kept beside them: slots, pauses, logs, checks, the audit log."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from service.domain.checks import Check
from service.domain.delivery import DeliveryStatus
from service.domain.runs import AuditEntry, LogLine, Mode, Outcome, Pause, Run
from service.domain.samples import Sample


class Busy(Exception):
    """A run of the collector is active, and its policy allows no second one."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"{run_id} is active")
        self.run_id = run_id


class Runs:
    """A part of the Store. Writes are durable when they return."""

    async def slots(self, mode: Mode) -> dict[str, datetime]:
        """The last slot of each collector that was claimed in ``mode``."""
        raise NotImplementedError

    async def claim_slot(self, run: Run, known: datetime | None, *, forbids: bool) -> bool:
        """Whether ``run.slot`` is this run's: the slot on record is still ``known`` and rises; then the run is begun.

        ``forbids``: no other run of the collector may be active that forbids as well. False: somebody else had the
        slot. A repeat with the same run is a win. Raises Busy; the slot is not taken then.
        """
        raise NotImplementedError

    async def begin(self, run: Run, *, forbids: bool) -> None:
        """Keeps a run that no slot asked for. Raises Busy."""
        raise NotImplementedError

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample] = (),
        checks: Sequence[Check] | None = None,
        state: Mapping[str, bytes | None] = {},  # noqa: B006 - only read
        revisions: Mapping[str, int] = {},  # noqa: B006 - only read
    ) -> None:
        """Keeps an ended run, its samples (pending), the collector's checks and state, in one transaction.

        ``checks``: all of the collector's from now on; None leaves them. ``state``: written where its revision is the
        one in ``revisions`` (missing: 0, as of a key that has never been written). A run that is not on record is kept
        as well; one that has ended on record stays as it is, so that a repeat changes nothing.
        """
        raise NotImplementedError

    async def request_cancel(self, run_id: str, outcome: Outcome) -> None:
        """Asks the run's owner to end it so."""
        raise NotImplementedError

    async def run(self, run_id: str) -> Run | None:
        raise NotImplementedError

    async def list(
        self,
        collector: str | None = None,
        *,
        outcome: Outcome | None = None,
        since: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Run]:
        """Newest first. ``since``: started then or later. ``before``: older than this run, the last of a page."""
        raise NotImplementedError

    async def active(self) -> list[Run]:
        raise NotImplementedError

    async def latest(self) -> dict[str, Run]:
        """The last run of each collector, active or ended."""
        raise NotImplementedError

    async def last_successes(self) -> dict[str, datetime]:
        """When the last run of each collector that succeeded ended."""
        raise NotImplementedError

    async def last_failures(self) -> dict[str, Run]:
        """The last run of each collector that ended without success."""
        raise NotImplementedError

    async def first_failures(self) -> dict[str, Run]:
        """The first of the failed runs in a row with which each collector's history ends; none where it succeeded."""
        raise NotImplementedError

    async def lost(self, collector: str, since: datetime) -> dict[DeliveryStatus, int]:
        """How many samples of the collector were lost since then, by the status that says how."""
        raise NotImplementedError

    async def checks(self, collector: str) -> list[Check]:
        raise NotImplementedError

    async def checks_of(self, collectors: Sequence[str]) -> dict[str, list[Check]]:
        raise NotImplementedError

    async def pauses(self) -> dict[str, Pause]:
        raise NotImplementedError

    async def pause(self, pause: Pause) -> None:
        raise NotImplementedError

    async def resume(self, collector: str) -> None:
        raise NotImplementedError

    async def save_log(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keeps a run's log lines in place of those before; of more than 32 KB the middle is left out."""
        raise NotImplementedError

    async def log(self, run_id: str) -> list[LogLine]:
        raise NotImplementedError

    async def audit(self, entry: AuditEntry) -> None:
        raise NotImplementedError

    async def audit_entries(self, limit: int = 100) -> list[AuditEntry]:
        """Newest first."""
        raise NotImplementedError
