"""What GitHub's deliveries become, whose they are, when a run is due because of them, and what is counted."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from service.collectors.github_ci import deliveries
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.github_ci.models import Named, Run
from tests.unit.pipeline.stage import FakeClock, settle

REPO = "Metta-AI/metta"


def told(id: int = 1, repo: str = REPO, minute: int = 6) -> Run:
    ended = datetime(2026, 3, 4, 5, minute, tzinfo=UTC)
    return Run(id, 2, status="completed", conclusion="success", updated=ended, repository=Named(full_name=repo))


async def test_a_run_is_due_after_two_seconds_then_every_ten_while_news_comes() -> None:
    clock, due = FakeClock(), list[tuple[str, float]]()
    found = Deliveries(clock)
    found.expect({"ci": [REPO], "twin": [REPO], "other": ["o/r"]})

    async def listen() -> None:
        while True:
            due.append((await found.next_due(), clock.monotonic()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await settle()
        for id in range(1, 61):  # one each second
            found.add(told(id))
            await clock.advance(1)
            for name in ("ci", "twin") if due and due[-1][1] == clock.monotonic() else ():
                found.facts(name, REPO)
        assert [at for name, at in due if name == "ci"] == [2, 12, 22, 32, 42, 52]
        await clock.advance(100)
        found.add(told(61))
        for name in ("ci", "twin"):
            assert found.facts(name, REPO)[-1].id == 61  # a poll has used it meanwhile
        for minute in (6, 5):  # told again
            found.add(told(61, minute=minute))
        await clock.advance(100)
        assert (due[-1][1] < 160, found.summary().waiting) == (True, 0)
        found.add(told(62))
        await clock.advance(100)
        assert due[-2:] == [("ci", 262), ("twin", 262)]
        tasks.cancel_scope.cancel()


async def test_of_too_many_facts_the_oldest_of_the_busiest_repository_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_FACTS", 10)
    found = Deliveries(FakeClock())
    found.expect({"ci": [REPO, "o/r"]})
    found.add(told(repo="o/r"))
    for id in range(1, 21):
        found.add(told(id))
    assert [run.id for run in found.facts("ci", REPO)] == list(range(12, 21))
    assert len(found.facts("ci", "o/r")) == 1
    assert found.summary().dropped == 11


async def test_the_summary_counts_what_came_and_what_was_missed_today() -> None:
    clock = FakeClock()
    found = Deliveries(clock)
    found.expect({"ci": [REPO], "twin": [REPO]})
    for event, result in [("ping", "ping"), ("workflow_run", "taken"), ("push", "ignored"), ("x" * 99, "unsigned")]:
        found.count(event, result)
    found.add(told())
    came = clock.now()
    await clock.advance(3600)
    found.add(told(2))
    for name in (REPO, REPO.lower(), "o/r"):
        found.report_missed(name, [Run(7, 1, attempt, updated=came) for attempt in (1, 2)])
        found.report_missed(name, [Run(8, 1, updated=at) for at in (came - timedelta(1), clock.now())])
    summary = found.summary()
    assert (summary.last_at, summary.today, summary.missed_today, summary.missed) == (came, 3, 2, 2)
    assert summary.by_result["other", "unsigned"] == summary.by_result["other", "ignored"] == 1
    clock.step((datetime(2025, 1, 16, tzinfo=UTC) - clock.now()).total_seconds())
    summary = found.summary()
    assert (summary.last_at, summary.today, summary.missed_today, summary.missed) == (came, 0, 0, 2)
