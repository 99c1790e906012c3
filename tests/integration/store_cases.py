"""Runs and samples for the store's tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.adapters.store import SqliteStore
from service.domain.points import Fate
from service.domain.runs import Cause, Fault, Outcome, Run, Slot
from service.domain.samples import Kind, Metric, Sample

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
GAUGE = Metric("metta.infra.cron.ci.workflow.cancelled")
DISTRIBUTION = Metric("metta.infra.cron.ci.workflow.duration", Kind.DISTRIBUTION)


@asynccontextmanager
async def opened(directory: Path, now: datetime = NOW, **limits: Any) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(directory, now=now, clock=lambda: now, **limits)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def reading(directory: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open_reading(directory)
    try:
        yield store
    finally:
        await store.close()


def samples(count: int, metric: Metric = GAUGE, at: datetime = NOW, **tags: str) -> list[Sample]:
    return [Sample(metric, index + 0.1, at, {"index": str(index), **tags}) for index in range(count)]


def started(number: int, job: str = "ci", now: datetime = NOW) -> Run:
    """The job's run number ``number``, one a minute."""
    start = now + timedelta(minutes=number)
    return Run(f"{job}-{start:%Y%m%dT%H%M%S}-{number:06x}", Slot(job, start, Cause.SCHEDULE, "timer"), start)


def over(run: Run, outcome: Outcome = Outcome.COMPLETE, count: int = 0) -> Run:
    faults = () if outcome is Outcome.COMPLETE else (Fault("the source is away", "pull requests"),)
    return replace(
        run, ended=run.started + timedelta(seconds=9), attempts=2, outcome=outcome, faults=faults, samples=count
    )


async def keep(store: SqliteStore, run: Run, brought: list[Sample], outcome: Outcome = Outcome.COMPLETE) -> Run:
    """A whole run: begun, and ended with what it brought."""
    await store.begin(run)
    ended = over(run, outcome, len(brought))
    await store.end(ended, brought, [], {})
    return ended


async def deliver(store: SqliteStore, fate: Fate = Fate.DELIVERED, limit: int = 10_000) -> list[int]:
    """Settles the oldest waiting points; their ids."""
    ids = [point.id for point in await store.waiting(limit)]
    await store.settle(ids, fate)
    return ids
