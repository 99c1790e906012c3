"""When collectors that watch their source look at it: never more often than they may, seldom after errors."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from service.collectors.github_ci.deliveries import Deliveries
from service.daemon.webhook_runs import WebhookRuns
from service.domain.errors import Unavailable
from service.domain.runs import CollectResult
from service.domain.samples import Metric
from tests.unit.pipeline.stage import FakeClock, make_job, settle


@dataclass
class Watching:
    """``errors``: what its looks raise, one after the other."""

    clock: FakeClock
    errors: list[Exception] = field(default_factory=list)
    watch: timedelta | None = timedelta(seconds=20)
    repositories: Sequence[str] = ("o/r",)
    metrics: tuple[Metric, ...] = ()
    looks: list[float] = field(default_factory=list)

    async def look(self) -> None:
        self.looks.append(self.clock.monotonic())
        if self.errors:
            raise self.errors.pop(0)

    async def collect(self, now: datetime) -> CollectResult:
        raise NotImplementedError

    has_changes = collect_changes = collect


@asynccontextmanager
async def running(clock: FakeClock, *collectors: Any) -> AsyncIterator[tuple[WebhookRuns, dict[str, Any]]]:
    pauses: dict[str, Any] = {}
    scheduler = cast("Any", SimpleNamespace(pauses=pauses, start_changes=None))
    changes = WebhookRuns(Deliveries(clock), scheduler, clock)
    changes.set_jobs([make_job(each, name=f"ci{place}") for place, each in enumerate(collectors)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(changes.run)
        await settle()
        yield changes, pauses
        tasks.cancel_scope.cancel()


async def test_it_looks_at_its_interval_and_after_errors_more_and_more_seldom() -> None:
    clock = FakeClock()
    held_up = Watching(clock, [Unavailable("away"), ValueError("odd"), Unavailable("limit", retry_after=300)])
    fine, silent = Watching(clock), Watching(clock, watch=None)
    async with running(clock, held_up, fine, silent):
        await clock.advance(480)
    assert held_up.looks == [20, 60, 140, 440, 460, 480]
    assert fine.looks == list(range(20, 481, 20))
    assert silent.looks == []


@pytest.mark.parametrize("is_paused", [True, False])
async def test_paused_and_removed_collectors_look_for_nothing(is_paused: bool) -> None:
    clock = FakeClock()
    watching = Watching(clock)
    async with running(clock, watching) as (changes, pauses):
        await clock.advance(30)
        if is_paused:
            pauses["ci0"] = object()
        else:
            changes.set_jobs([])
        await clock.advance(100)
        assert watching.looks == [20]
        pauses.clear()
        changes.set_jobs([make_job(watching, name="ci0")])
        await clock.advance(25)
        assert watching.looks == [20, 150]
