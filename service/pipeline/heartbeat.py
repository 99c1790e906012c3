"""The heartbeat: the checks' stable series again between runs, so boards have no holes and silence means death."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import anyio.to_thread
import structlog

from service.domain import checks
from service.domain.errors import Unavailable
from service.pipeline.faults import Faults, News
from service.pipeline.job import SUCCESS_AGE, Job
from service.pipeline.ports import Clock, Runs

log = structlog.get_logger(__name__)

# A transaction; smaller ones would write each page of the table of series many times over.
_CHECKS_AT_ONCE = 20_000


async def beat(job: Job, store: Runs, clock: Clock) -> None:
    """Stores what is known of the job's checks, as of now."""
    now = clock.now()
    known = await store.checks(job.name)
    own = job.reported(now)
    if last := await store.last_success(job.name):
        own.append(job.own_sample(SUCCESS_AGE, max(0.0, (now - last).total_seconds()), now))
    if len(known) <= checks.FEW:
        own += checks.to_samples(known, now, job.max_age, job.check_tags)
    else:
        await put_states(job, known, store, now)
    if own:
        await store.put(job.name, own)


async def put_states(job: Job, known: Sequence[checks.Check], store: Runs, now: datetime) -> None:
    """Stores the stable series of many checks."""
    for first in range(0, len(known), _CHECKS_AT_ONCE):
        some = known[first : first + _CHECKS_AT_ONCE]
        samples = await anyio.to_thread.run_sync(checks.to_samples, some, now, job.max_age, job.check_tags)
        await store.put(job.name, samples)


async def keep_beating(
    jobs: Callable[[], Iterable[Job]], store: Runs, clock: Clock, interval: timedelta, stored: Callable[[], None]
) -> None:
    """Every ``interval`` until cancelled; ``stored`` is told when there is something to send."""
    faults = Faults()
    while True:
        await clock.sleep(interval.total_seconds())
        try:
            for job in jobs():
                await beat(job, store, clock)
        except Unavailable as error:
            if faults.meet("store", str(error), clock.now()) is not News.SAME:
                log.error("no heartbeat: the store is lost", reason=str(error))  # noqa: TRY400 - the reason says it all
        else:
            if ended := faults.end("store"):
                log.info("the heartbeat is back", reason=ended.reason, since=ended.since.isoformat())
        stored()
