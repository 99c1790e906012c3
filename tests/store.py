"""Runs, samples and stores for the tests of the store. ``from tests.store import ...``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.config.settings import StoreSettings
from service.domain.checks import Check, CheckKey, Past
from service.domain.delivery import Chunk, DeliveryStatus
from service.domain.runs import Cause, Outcome, PartialFailure, Run
from service.domain.samples import Evidence, Kind, Metric, Sample, Status
from service.store import Busy, Claim, Store

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY: CheckKey = (("workflow_category", "training"), ("workflow_name", "flaky"), ("task", "t"), ("check", "loss"))
EVIDENCE = (Evidence("run 7", "https://example.org/7", NOW, "failure", "nightly"),)


@asynccontextmanager
async def opened(directory: Path, now: datetime = NOW, *, url: str = "") -> AsyncIterator[Store]:
    store = await Store.open(directory, StoreSettings.model_validate({"url": url or None}), lambda: now)
    try:
        yield store
    finally:
        await store.close()


def samples(count: int, kind: Kind = Kind.GAUGE, at: datetime = NOW) -> list[Sample]:
    metric = Metric(f"metta.infra.cron.ci.workflow.{kind}", kind)
    return [Sample(metric, index + 0.5, at, {"index": f"{index:05}"}) for index in range(count)]


def started(number: int = 0, collector: str = "ci", **facts: Any) -> Run:
    """The collector's run number ``number``, one a minute."""
    start = NOW + timedelta(minutes=number)
    return Run(f"{collector}-{start:%Y%m%dT%H%M%S}-{number:06x}", collector, Cause.SCHEDULE, start, start, **facts)


def ended(run: Run, outcome: Outcome = Outcome.COMPLETE, count: int = 0) -> Run:
    errors = () if outcome is Outcome.COMPLETE else (PartialFailure("the source is away", "pull requests"),)
    end = run.started + timedelta(seconds=9)
    return replace(run, ended=end, attempts=2, outcome=outcome, errors=errors, samples=count)


async def keep(
    store: Store, run: Run, brought: Sequence[Sample] = (), outcome: Outcome = Outcome.COMPLETE, **facts: Any
) -> Run:
    """A whole run: begun, and ended with what it brought."""
    await store.runs.begin(run, forbids=False)
    done = ended(run, outcome, len(brought))
    await store.runs.end(done, brought, **facts)
    return done


async def claim(store: Store) -> list[Chunk]:
    return await store.outbox.claim(NOW, 4_000_000, 10_000)


async def claim_slot(store: Store, run: Run, known: datetime | None = None, *, forbids: bool = True) -> bool:
    (won,) = await store.runs.claim_slots([Claim(run, known, forbids)])
    assert not isinstance(won, Busy)
    return won


async def deliver(store: Store, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> int:
    """Settles all that is due; how many samples."""
    count = 0
    while chunks := await claim(store):
        await store.outbox.settle(chunks, status, "" if status is DeliveryStatus.DELIVERED else "a reason")
        count += sum(len(chunk.points) for chunk in chunks)
    return count


def check(status: Status = Status.PASS, value: float | None = 1.0, at: datetime = NOW) -> Check:
    past = Past(((at - timedelta(hours=1), 4.5), (at, value)), "< 5", 1) if value is not None else None
    return Check(KEY, status, "< 1x", at, value, at if value is not None else None, "metta.loss", EVIDENCE, past=past)
