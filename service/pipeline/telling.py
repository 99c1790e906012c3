"""What runs say in the log: two lines when all is well, and a lasting fault when it begins, changes and ends."""

from collections.abc import Mapping

import structlog

from service.domain.runs import Outcome, Run
from service.pipeline.faults import Faults, News
from service.pipeline.ports import Clock

log = structlog.get_logger(__name__)

# What ends a run from outside says nothing about its collector.
_EARLY = (Outcome.INTERRUPTED, Outcome.REPLACED)


class Telling:
    """Remembers which faults stand, so that each is news only once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._faults = Faults()

    def started(self, run: Run) -> None:
        source = {"source": run.slot.source} if run.slot.source else {}
        log.info("run started", cause=run.slot.cause.value, **source)

    def attempt_failed(self, run: Run, reason: str, pause: float) -> None:
        # A fault that is known already is not told by each attempt of each run; the run's own log has them all.
        tell = log.debug if self._faults.compare(run.job, reason) is News.SAME else log.warning
        tell("attempt failed", attempt=run.attempts, reason=reason, next_in_seconds=pause)

    def ended(self, run: Run, collected: int) -> None:
        """The run's second line. ``samples`` are all that it sends, ``collected`` those of the collector itself."""
        facts = {
            "outcome": run.outcome,
            "seconds": round(run.seconds or 0.0, 3),
            "collected": collected,
            "samples": run.samples,
        }
        if run.attempts != 1:
            facts["attempts"] = run.attempts
        if run.outcome in _EARLY:
            log.warning("run ended early", **facts, reason=run.error)
        elif run.outcome is Outcome.COMPLETE:
            log.info("run ended", **facts)
            if ended := self._faults.end(run.job):
                since = ended.since.isoformat(timespec="seconds")
                log.info("the collector works again", after=ended.reason, since=since, runs=ended.times)
        else:
            self._fault(run, facts)

    def _fault(self, run: Run, facts: Mapping[str, object]) -> None:
        before = self._faults.of(run.job)
        more = {"reason": run.error}
        if before:
            since, reason_before = before.since.isoformat(timespec="seconds"), before.reason
            if self._faults.meet(run.job, run.error or "", self._clock.now()) is News.SAME:
                log.debug("the fault lasts", **more)
                log.info("run ended", **facts, failing_since=since)
                return
            more["reason_before"] = reason_before
        else:
            self._faults.meet(run.job, run.error or "", self._clock.now())
        if run.outcome is Outcome.PARTIAL:
            log.warning("run ended, some parts are missing", **facts, **more)
        else:
            log.error("run failed", **facts, **more)

    def store_lost(self, what: str, reason: str) -> None:
        if self._faults.meet(("store", what), reason, self._clock.now()) is not News.SAME:
            log.error("the store is lost", what=what, reason=reason)

    def store_works(self, what: str) -> None:
        if ended := self._faults.end(("store", what)):
            log.info("the store is back", what=what, reason=ended.reason, since=ended.since.isoformat())
