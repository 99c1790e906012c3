"""From the outbox to the intake over real HTTP, with the outbox in memory and with the real store alike."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from math import log2
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from service.adapters.datadog import DatadogIntake
from service.adapters.secrets import Secret
from service.adapters.secrets_manager import SecretsManager
from service.demo.intake import IntakeLog, intake_app
from service.demo.serving import served
from service.domain.errors import Unavailable
from service.domain.points import Fate, Point
from service.domain.samples import Kind
from service.pipeline.deliver import PROBE, Delivery
from service.pipeline.ports import Outbox
from tests.integration.delivery_stage import START, Box, JumpingClock, MemoryOutbox, SqliteBox, Watch, samples
from tests.integration.scripted_intake import (
    HANG_UP,
    HOLD,
    HTML,
    Answer,
    Received,
    ScriptedIntake,
    datadog_says,
    scripted,
)

SOON = 10_000.0  # monotonic seconds: later than any test's clock comes
DOWN = datadog_says(503, "Down for maintenance")
FORBIDDEN = datadog_says(403, "Forbidden")
BEGINS, CHANGES = "delivery does not work", "delivery does not work for another reason"
ENDS = "delivery works again"


@pytest.fixture(params=["memory", "sqlite"])
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    opened: Box = MemoryOutbox()
    if request.param == "sqlite":
        opened = store = SqliteBox(tmp_path)
        await store.open()
    yield opened
    await opened.close()


@asynccontextmanager
async def delivering(
    outbox: Outbox, url: str, clock: JumpingClock | None = None, key: Secret | None = None, **options: Any
) -> AsyncIterator[Delivery]:
    """A delivery with the longest pauses that the jitter allows."""
    clock = clock or JumpingClock()
    intake = DatadogIntake(url, key or Secret("Datadog API key", "set DD_API_KEY", "good"), clock.now)
    options = {"jitter": lambda _, high: high, **options}
    try:
        yield Delivery(outbox, intake, clock, **options)
    finally:
        await intake.aclose()


@asynccontextmanager
async def running(delivery: Delivery) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: delivery.run(task_status=task_status))
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
def strict() -> Iterable[tuple[str, IntakeLog]]:
    app = intake_app(keys={"good"}, now=START.timestamp)
    with served(app) as (url,):
        yield url, app.state.log


def taken(server: ScriptedIntake) -> list[str]:
    """The metrics of the requests, in order of arrival."""
    return [metric for request in server.requests for metric in request.metrics]


async def test_what_was_stored_arrives_and_leaves(box: Box, strict: tuple[str, IntakeLog]) -> None:
    url, log = strict
    await box.add(samples(3) + samples(2, Kind.COUNT, name="metta.c{}") + samples(4, Kind.DISTRIBUTION, name="metta.d"))

    async with delivering(box.outbox, url) as delivery:
        assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 9}
    assert (log.accepted, log.dropped, log.refused, log.requests) == (9, 0, 0, 2)
    kinds = [each.kind for each in log.points]
    assert [kinds.count(kind) for kind in ("gauge", "count", "distribution")] == [3, 2, 4]
    assert {(each.at, each.value) for each in log.points} == {(int(START.timestamp()), 1.0)}
    assert set(log.points[0].tags) == {"condition:< 5.0", "status:pass", "env:test"}
    assert delivery.state.accepted == 9
    assert delivery.state.last_accepted_at == START
    assert (delivery.state.waiting, delivery.state.trouble, delivery.state.next_try_at) == (0, None, None)


async def test_more_than_one_request_can_hold_goes_in_several(box: Box, strict: tuple[str, IntakeLog]) -> None:
    url, log = strict
    await box.add(samples(25_000))

    async with delivering(box.outbox, url) as delivery:
        assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 25_000}
    assert (log.accepted, log.refused) == (25_000, 0)
    assert log.requests >= 3


async def test_points_are_still_kept_while_the_intake_reads_them() -> None:
    outbox = MemoryOutbox()
    await outbox.add(samples(1) + samples(1, Kind.DISTRIBUTION, name="metta.d"))
    seen = []

    def look(request: Received) -> Answer:
        seen.append((request.metrics, dict(outbox.fate)))
        return Answer()

    async with scripted(look) as server, delivering(outbox, server.url) as delivery:
        await delivery.flush(SOON)

    assert seen == [
        (["metta.m00000"], {1: Fate.WAITING, 2: Fate.WAITING}),
        (["metta.d"], {1: Fate.DELIVERED, 2: Fate.SENDING}),
    ]


class IdleOutbox(MemoryOutbox):
    """Says when the delivery has found nothing to send."""

    def __init__(self) -> None:
        super().__init__()
        self.was_empty = anyio.Event()

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        points = await super().waiting(limit, skip)
        if not points:
            self.was_empty.set()
        return points


async def test_collectors_that_end_within_two_seconds_share_a_request() -> None:
    outbox, clock, watch = IdleOutbox(), JumpingClock(), Watch()

    async with scripted(Answer()) as server, delivering(outbox, server.url, clock, observe=watch) as delivery:

        def another_ends(_: float) -> None:
            if len(clock.slept) == 1:
                outbox.add_now(samples(2, name="metta.training{}"))
                delivery.notify()

        clock.on_sleep = another_ends
        async with running(delivery):
            await outbox.was_empty.wait()
            await outbox.add(samples(2, name="metta.ci{}"))
            delivery.notify()
            await watch.reached(Fate.DELIVERED, 4)

    assert clock.slept == [2.0]
    assert [len(request.metrics) for request in server.requests] == [4]


async def test_what_an_earlier_process_left_goes_at_once(box: Box) -> None:
    await box.add(samples(2))
    clock, watch = JumpingClock(), Watch()

    async with (
        scripted(Answer()) as server,
        delivering(box.outbox, server.url, clock, observe=watch) as delivery,
        running(delivery),
    ):
        await watch.reached(Fate.DELIVERED, 2)

    assert clock.slept == []
    assert await box.fates() == {Fate.DELIVERED: 2}


def refusing(*bad: str) -> Callable[[Received], Answer]:
    return lambda request: datadog_says(400, "Bad metric") if set(bad) & set(request.metrics) else Answer()


@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
async def test_one_bad_series_of_thousands_is_found_in_few_requests(box: Box, kind: Kind) -> None:
    await box.add(samples(3_000, kind))
    bad = "metta.m01234"

    with capture_logs() as logs:
        async with scripted(refusing(bad)) as server, delivering(box.outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 2_999, Fate.REJECTED: 1}
    assert len(server.requests) <= 2 * log2(3_000) + 3
    accepted = [metric for request in server.requests if bad not in request.metrics for metric in request.metrics]
    assert len(accepted) == len(set(accepted)) == 2_999
    assert delivery.state.lost == {Fate.REJECTED: 1}
    (line,) = [entry for entry in logs if "refused" in entry["event"]]
    assert (line["points"], line["reasons"]) == (1, {f"{bad}: 127.0.0.1 answered 400: Bad metric": 1})


async def test_the_reason_of_a_refusal_is_kept_with_the_point() -> None:
    outbox = MemoryOutbox()
    await outbox.add(samples(3))

    async with scripted(refusing("metta.m00001")) as server, delivering(outbox, server.url) as delivery:
        await delivery.flush(SOON)

    assert [outbox.reason[number] for number, fate in outbox.fate.items() if fate is Fate.REJECTED] == [
        "127.0.0.1 answered 400: Bad metric"
    ]


async def test_several_bad_points_are_set_aside_with_one_line(box: Box) -> None:
    await box.add(samples(200))
    bad = [f"metta.m{number:05}" for number in (0, 57, 58, 199)]

    with capture_logs() as logs:
        async with scripted(refusing(*bad)) as server, delivering(box.outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 196, Fate.REJECTED: 4}
    assert [entry["points"] for entry in logs if "refused" in entry["event"]] == [4]


async def test_what_is_too_large_for_a_proxy_is_halved_until_it_passes(box: Box) -> None:
    await box.add(samples(1_000) + samples(1_000, Kind.DISTRIBUTION, name="metta.d{}"))

    def narrow(request: Received) -> Answer:
        return Answer(413, b"<html>nginx</html>", HTML) if len(request.metrics) > 300 else Answer()

    async with scripted(narrow) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 2_000}
    passed = [request for request in server.requests if len(request.metrics) <= 300]
    assert sum(len(request.metrics) for request in passed) == 2_000


async def test_a_point_that_is_too_large_alone_is_set_aside_and_the_others_go(box: Box) -> None:
    await box.add(samples(9))

    def too_wide(request: Received) -> Answer:
        return datadog_says(413) if "metta.m00003" in request.metrics else Answer()

    async with scripted(too_wide) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 8, Fate.REJECTED: 1}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_transient_answer_keeps_every_point_and_each_arrives_once_in_the_end(box: Box, status: int) -> None:
    await box.add(samples(5) + samples(5, Kind.DISTRIBUTION, name="metta.d{}"))
    fault = datadog_says(status)

    async with scripted(fault, Answer(), fault, Answer()) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.DELIVERED: 10}
    assert [len(request.metrics) for request in server.requests] == [5, 5, 5, 5]


async def test_a_lost_answer_sends_gauges_again_and_counts_distributions_as_uncertain(box: Box) -> None:
    await box.add(samples(3) + samples(4, Kind.DISTRIBUTION, name="metta.d{}"))

    answers = (HANG_UP, Answer(), HANG_UP, Answer())
    async with scripted(*answers) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    gauges, again, distributions = server.requests
    assert gauges.json == again.json
    assert len(distributions.metrics) == 4
    assert await box.fates() == {Fate.DELIVERED: 3, Fate.UNCERTAIN: 4}
    assert delivery.state.lost == {Fate.UNCERTAIN: 4}


class Crash(Exception):
    """The process ends here."""


class CrashingOutbox:
    """The outbox of a process that dies between the intake's answer and its own note of it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        return await self._outbox.waiting(limit, skip)

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        if fate is Fate.DELIVERED:
            raise Crash
        await self._outbox.settle(ids, fate, reason)

    async def expire(self, before: datetime, historical: Sequence[str] = ()) -> int:
        return await self._outbox.expire(before, historical)

    async def count_waiting(self) -> int:
        return await self._outbox.count_waiting()


@pytest.mark.parametrize(
    ("kind", "requests", "fate"), [(Kind.GAUGE, 2, Fate.DELIVERED), (Kind.DISTRIBUTION, 1, Fate.UNCERTAIN)]
)
async def test_after_a_crash_behind_the_answer_gauges_go_twice_alike_and_distributions_never(
    box: Box, kind: Kind, requests: int, fate: Fate
) -> None:
    await box.add(samples(3, kind))

    async with scripted(Answer()) as server:
        async with delivering(CrashingOutbox(box.outbox), server.url) as delivery:
            with pytest.raises(Crash):
                await delivery.flush(SOON)
        await box.restart()
        async with delivering(box.outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert await box.fates() == {fate: 3}
    assert len(server.requests) == requests
    assert all(request.json == server.requests[0].json for request in server.requests)


@pytest.mark.parametrize(("kind", "fate"), [(Kind.GAUGE, Fate.WAITING), (Kind.DISTRIBUTION, Fate.UNCERTAIN)])
async def test_cancelled_while_sending_a_gauge_waits_and_a_distribution_is_uncertain(
    box: Box, kind: Kind, fate: Fate
) -> None:
    await box.add(samples(3, kind))

    async with scripted(HOLD) as server, delivering(box.outbox, server.url) as delivery, running(delivery):
        await server.arrived(1)
    await box.restart()

    assert await box.fates() == {fate: 3}


@pytest.mark.parametrize(("kind", "fate"), [(Kind.GAUGE, Fate.WAITING), (Kind.DISTRIBUTION, Fate.UNCERTAIN)])
async def test_an_end_without_time_does_not_wait_for_an_intake_that_hangs(box: Box, kind: Kind, fate: Fate) -> None:
    await box.add(samples(3, kind))

    async with scripted(HOLD) as server, delivering(box.outbox, server.url) as delivery, running(delivery):
        await server.arrived(1)
        async with delivery.paused(break_off=True):
            assert delivery.state.trouble is None  # not even the time-out was waited for
    await box.restart()

    assert await box.fates() == {fate: 3}


class SlowOutbox(MemoryOutbox):
    """Writes DELIVERED only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = anyio.Event(), anyio.Event()

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        if fate is Fate.DELIVERED:
            self.asked.set()
            await self.let.wait()
        await super().settle(ids, fate, reason)


async def test_cancellation_does_not_lose_an_answer_that_came() -> None:
    outbox = SlowOutbox()
    await outbox.add(samples(3, Kind.DISTRIBUTION))

    async with (
        scripted(Answer()) as server,
        delivering(outbox, server.url) as delivery,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(delivery.run)
        await outbox.asked.wait()
        tasks.cancel_scope.cancel()
        outbox.let.set()

    assert await outbox.fates() == {Fate.DELIVERED: 3}


class Rotating(SecretsManager):
    key = "old"

    async def read(self, name: str) -> str:
        return self.key


async def test_a_refused_key_holds_everything_and_delivery_resumes_by_itself_with_the_new_key(box: Box) -> None:
    await box.add(samples(3) + samples(2, Kind.DISTRIBUTION, name="metta.d{}"))
    clock, watch, manager = JumpingClock(), Watch(), Rotating()
    key = Secret("Datadog API key", "set DD_API_KEY", manager=manager, name="datadog/api-key")
    states = []

    def rotate_late(_: float) -> None:
        states.append(delivery.state)
        if len(clock.slept) == 8:
            manager.key = "new"

    def only_new(request: Received) -> Answer:
        return Answer() if request.headers["dd-api-key"] == "new" else FORBIDDEN

    clock.on_sleep = rotate_late
    with capture_logs() as logs:
        async with scripted(only_new) as server, delivering(box.outbox, server.url, clock, key, observe=watch) as it:
            delivery = it
            async with running(delivery):
                await watch.reached(Fate.DELIVERED, 5)

    assert clock.slept == [10, 20, 40, 80, 160, 300, 300, 300]
    assert {state.waiting for state in states} == {5}
    assert all("the Datadog API key is refused" in (state.trouble or "") for state in states)
    assert states[0].next_try_at == START + timedelta(seconds=10)
    assert await box.fates() == {Fate.DELIVERED: 5}
    assert delivery.state.trouble is None
    assert [entry["event"] for entry in logs if entry["event"] in (BEGINS, CHANGES, ENDS)] == [BEGINS, ENDS]
    (end,) = [entry for entry in logs if entry["event"] == ENDS]
    assert (end["seconds"], end["points"]) == (sum(clock.slept), 5)


async def test_a_missing_key_ends_a_flush_at_once_and_keeps_everything(box: Box) -> None:
    await box.add(samples(3))
    clock = JumpingClock()
    key = Secret("Datadog API key", "set DD_API_KEY")

    async with scripted(Answer()) as server, delivering(box.outbox, server.url, clock, key) as delivery:
        assert not await delivery.flush(SOON)

    assert delivery.state.trouble == "no Datadog API key: set DD_API_KEY"
    assert (clock.slept, server.requests) == ([], [])
    assert await box.fates() == {Fate.WAITING: 3}


async def test_pauses_double_from_two_seconds_to_sixty_four_and_start_anew_after_a_success(box: Box) -> None:
    await box.add(samples(1))
    clock = JumpingClock()

    async with scripted(*[DOWN] * 8, Answer()) as server, delivering(box.outbox, server.url, clock) as delivery:
        assert await delivery.flush(SOON)
        assert clock.slept == [2, 4, 8, 16, 32, 64, 64, 64]

        clock.slept.clear()
        server.script = lambda _: DOWN
        await box.add(samples(1, at=clock.now()))
        assert not await delivery.flush(clock.monotonic() + 5)
        assert clock.slept == [2]


@pytest.mark.parametrize(("asked", "slept"), [("17", 17), ("1", 2), ("99999", 600)])
async def test_the_pause_that_the_intake_asks_for_is_obeyed_up_to_ten_minutes(asked: str, slept: float) -> None:
    outbox, clock = MemoryOutbox(), JumpingClock()
    await outbox.add(samples(1))
    limited = datadog_says(429, X_RateLimit_Reset=asked)

    async with scripted(limited, Answer()) as server, delivering(outbox, server.url, clock) as delivery:
        assert await delivery.flush(SOON)

    assert clock.slept == [slept]


async def test_a_drain_obeys_the_pause_that_the_intake_asked_for() -> None:
    outbox, clock = MemoryOutbox(), JumpingClock()
    await outbox.add(samples(1))

    limited = datadog_says(429, X_RateLimit_Reset="60")
    async with scripted(limited, Answer()) as server, delivering(outbox, server.url, clock) as delivery:
        assert not await delivery.flush(clock.monotonic() + 10)
        assert not await delivery.flush(clock.monotonic() + 10)
        assert len(server.requests) == 1
        clock.jump(60)
        assert await delivery.flush(clock.monotonic() + 10)


async def test_while_the_intake_is_down_only_a_small_probe_is_sent(box: Box) -> None:
    await box.add(samples(2_000))

    async with scripted(DOWN, DOWN, Answer()) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    assert [len(request.metrics) for request in server.requests] == [2_000, PROBE, PROBE, 1_900]


async def test_a_fault_is_logged_when_it_begins_changes_and_ends_and_not_at_each_try(box: Box) -> None:
    await box.add(samples(1))
    answers = [DOWN, DOWN, DOWN, HANG_UP, HANG_UP, Answer()]

    with capture_logs() as logs:
        async with scripted(*answers) as server, delivering(box.outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert [entry["event"] for entry in logs] == [BEGINS, CHANGES, ENDS]


async def test_points_that_grew_too_old_expire_with_one_line_and_the_others_go(box: Box) -> None:
    oldest = START - timedelta(minutes=70)
    await box.add(samples(2, at=START - timedelta(minutes=56), name="metta.late{}"))
    await box.add(samples(1, Kind.DISTRIBUTION, at=oldest, name="metta.later"))
    await box.add(samples(3, at=START - timedelta(minutes=54)))
    watch = Watch()

    with capture_logs() as logs:
        async with scripted(Answer()) as server, delivering(box.outbox, server.url, observe=watch) as delivery:
            assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.EXPIRED: 3, Fate.DELIVERED: 3}
    assert taken(server) == ["metta.m00000", "metta.m00001", "metta.m00002"]
    assert watch.fates == {Fate.EXPIRED: 3, Fate.DELIVERED: 3}
    assert [(entry["points"], entry["oldest"]) for entry in logs] == [(3, oldest.isoformat())]


async def test_a_point_of_a_year_that_no_calendar_has_expires_like_others(box: Box) -> None:
    """Such a second, once stored, would end each daemon that starts on the same state."""
    never = datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))
    await box.add(samples(1, at=never, name="metta.never"))
    await box.add(samples(1))
    async with scripted(Answer()) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)
    assert await box.fates() == {Fate.EXPIRED: 1, Fate.DELIVERED: 1}


async def test_points_of_a_clock_that_stepped_back_are_set_aside_and_not_sent_to_be_dropped(box: Box) -> None:
    await box.add(samples(2, at=START + timedelta(minutes=11), name="metta.early{}"))
    await box.add(samples(3, at=START + timedelta(minutes=10)))

    with capture_logs() as logs:
        async with scripted(Answer()) as server, delivering(box.outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert await box.fates() == {Fate.REJECTED: 2, Fate.DELIVERED: 3}
    assert taken(server) == ["metta.m00000", "metta.m00001", "metta.m00002"]
    (refused,) = [entry for entry in logs if entry["event"] == "points were refused and set aside"]
    assert refused["reasons"] == {f"metta.early{n}: the time is more than 10 minutes in the future": 1 for n in (0, 1)}


async def test_an_outage_longer_than_the_intake_looks_back_loses_only_what_grew_old(box: Box) -> None:
    await box.add(samples(2, name="metta.early{}"))
    clock = JumpingClock()

    async with scripted(*[DOWN] * 5, Answer()) as server, delivering(box.outbox, server.url, clock) as delivery:
        assert not await delivery.flush(clock.monotonic() + 20)
        clock.jump(3600)
        await box.add(samples(3, at=clock.now(), name="metta.fresh{}"))
        assert await delivery.flush(clock.monotonic() + 100)

    assert await box.fates() == {Fate.EXPIRED: 2, Fate.DELIVERED: 3}
    assert delivery.state.lost == {Fate.EXPIRED: 2}


async def test_a_flush_gives_up_at_its_deadline_and_keeps_everything(box: Box) -> None:
    await box.add(samples(3))
    clock = JumpingClock()

    async with scripted(DOWN) as server, delivering(box.outbox, server.url, clock) as delivery:
        assert not await delivery.flush(30)

    assert clock.monotonic() <= 30
    assert len(server.requests) == len(clock.slept) + 1 > 2
    assert "answered 503" in (delivery.state.trouble or "")
    assert await box.fates() == {Fate.WAITING: 3}


async def test_a_flush_of_nothing_is_done(box: Box) -> None:
    async with scripted(Answer()) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)

    assert server.requests == []


async def test_a_flush_beside_the_running_delivery_sends_nothing_twice(box: Box) -> None:
    await box.add(samples(500))

    async with scripted(Answer()) as server, delivering(box.outbox, server.url) as delivery, running(delivery):
        assert await delivery.flush(SOON)
        await box.add(samples(500, name="metta.n{}"))
        delivery.notify()
        assert await delivery.flush(SOON)

    assert len(taken(server)) == len(set(taken(server))) == 1_000
    assert await box.fates() == {Fate.DELIVERED: 1_000}


class FailingOutbox(MemoryOutbox):
    """A store that is away for a while: ``failures`` calls of ``method`` raise."""

    def __init__(self, method: str, failures: int) -> None:
        super().__init__()
        self._method, self._failures = method, failures

    def _fail(self, method: str) -> None:
        if method == self._method and self._failures:
            self._failures -= 1
            raise Unavailable("the store: disk is full")

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        self._fail("waiting")
        return await super().waiting(limit, skip)

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        self._fail("settle")
        await super().settle(ids, fate, reason)


@pytest.mark.parametrize("method", ["waiting", "settle"])
@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
async def test_a_store_that_is_away_is_waited_for_and_nothing_is_sent_twice(method: str, kind: Kind) -> None:
    outbox = FailingOutbox(method, 3)
    await outbox.add(samples(4, kind))

    with capture_logs() as logs:
        async with scripted(Answer()) as server, delivering(outbox, server.url) as delivery:
            assert await delivery.flush(SOON)

    assert await outbox.fates() == {Fate.DELIVERED: 4}
    assert len(server.requests) == 1
    assert [entry["reason"] for entry in logs if entry["event"] == BEGINS] == ["the store: disk is full"]


async def test_state_while_the_intake_is_down_says_why_and_when_it_is_tried_again(box: Box) -> None:
    await box.add(samples(7))

    async with scripted(DOWN) as server, delivering(box.outbox, server.url) as delivery:
        await delivery.flush(1)
        state = delivery.state

    assert (state.waiting, state.accepted, state.lost, state.last_accepted_at) == (7, 0, {}, None)
    assert state.trouble == "127.0.0.1 answered 503: Down for maintenance"
    assert state.next_try_at == START + timedelta(seconds=2)
    assert json.dumps(state.lost) == "{}"


async def test_a_point_that_is_answered_with_5xx_each_time_holds_up_no_other(box: Box) -> None:
    """Alone it goes on waiting, and expires; its neighbours and what comes later arrive."""
    poison = "metta.m00042"
    await box.add(samples(300))
    clock, watch = JumpingClock(), Watch()

    def answer(request: Received) -> Answer:
        return DOWN if poison in request.metrics else Answer()

    async with scripted(answer) as server, delivering(box.outbox, server.url, clock, observe=watch) as delivery:
        assert not await delivery.flush(20 * 60)
        assert await box.fates() == {Fate.DELIVERED: 299, Fate.WAITING: 1}
        assert delivery.state.trouble == "127.0.0.1 answered 503: Down for maintenance; 1 points wait apart"
        assert len(server.requests) < 60
        await box.add(samples(5, at=clock.now(), name="metta.later{}"))
        clock.slept.clear()
        assert not await delivery.flush(clock.monotonic() + 60)
        assert await box.fates() == {Fate.DELIVERED: 304, Fate.WAITING: 1}
        assert await delivery.flush(SOON)
    assert await box.fates() == {Fate.DELIVERED: 304, Fate.EXPIRED: 1}
    assert clock.now() - START < timedelta(minutes=60)
    ended = delivery.state
    assert ended.trouble is None


async def test_an_outage_is_no_fault_of_the_points(box: Box) -> None:
    """What was set apart while nothing was taken goes out whole when the intake is back."""
    await box.add(samples(1_000))

    async with scripted(*[DOWN] * 12, Answer()) as server, delivering(box.outbox, server.url) as delivery:
        assert await delivery.flush(SOON)
        assert await box.fates() == {Fate.DELIVERED: 1_000}
        assert len(server.requests) <= 12 + 6


async def test_the_search_for_many_bad_points_is_spread_in_time_and_over_all_parts() -> None:
    outbox, clock = MemoryOutbox(), JumpingClock()
    await outbox.add(samples(2_000, name="metta.bad{}"))
    await outbox.add(samples(10))
    taken: list[int] = []

    def answer(request: Received) -> Answer:
        if any(name.startswith("metta.bad") for name in request.metrics):
            return datadog_says(400, "bad series")
        taken.append(len(clock.slept))
        return Answer()

    async with scripted(answer) as server, delivering(outbox, server.url, clock) as delivery:
        assert await delivery.flush(SOON)
        assert await outbox.fates() == {Fate.REJECTED: 2_000, Fate.DELIVERED: 10}
        assert set(clock.slept) == {10}
        assert len(server.requests) / (len(clock.slept) + 1) <= 220
        assert min(taken) <= 2


async def test_points_of_historical_metrics_are_sent_at_any_age(box: Box) -> None:
    old = START - timedelta(hours=30)
    await box.add(samples(2, at=old, name="metta.history.m{}") + samples(2, at=old))
    await box.add(samples(2, Kind.DISTRIBUTION, at=old, name="metta.history.d{}"))

    async with scripted(Answer()) as server, delivering(box.outbox, server.url, historical=["metta.history"]) as it:
        assert await it.flush(SOON)
        assert [request.metrics for request in server.requests] == [["metta.history.m0", "metta.history.m1"]]
    assert await box.fates() == {Fate.DELIVERED: 2, Fate.EXPIRED: 4}
