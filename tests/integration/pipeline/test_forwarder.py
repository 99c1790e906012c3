"""From the outbox to the intake: the real store, real HTTP, and each answer that the intake may give."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, repeat
from math import log2
from typing import Any, cast

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from service.config.secrets import Secret
from service.datadog.intake import Intake
from service.demo.stage import serve
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Mode, Outcome, Run, new_run_id
from service.domain.samples import Kind, Metric, Sample
from service.pipeline import forwarder
from service.pipeline.forwarder import Forwarder, ForwarderState
from service.pipeline.series_limit import SeriesLimit
from service.store import Store
from service.store.outbox import Outbox
from tests.datadog import HANG_UP, LOSE_ANSWER, Received, Reply, ScriptedDatadog, refusal
from tests.unit.pipeline.stage import START, FakeClock, empty_store, open_store, without_threads

SOON = 10_000.0  # monotonic seconds: later than any test's clock comes
DOWN = refusal(503, "Down for maintenance")
PENDING, DELIVERED, UNKNOWN = DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.UNKNOWN
THROTTLED, REJECTED, EXPIRED = DeliveryStatus.THROTTLED, DeliveryStatus.REJECTED, DeliveryStatus.EXPIRED


class JumpingClock(FakeClock):
    """Sleep takes no time but moves the clock; ``slept`` are the seconds asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()
        self.move(seconds)
        await checkpoint()

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        if not event.is_set():
            await self.sleep(seconds)


@dataclass
class Here:
    """``bodies``: the metrics of each request that came, ``forwarder`` with the longest pauses that jitter allows."""

    clock: JumpingClock
    store: Store
    datadog: ScriptedDatadog
    forwarder: Forwarder
    logs: Sequence[Any]
    bodies: list[list[str]] = field(default_factory=list)

    async def add(self, *samples: Sample, mode: Mode = Mode.LIVE) -> Run:
        """A run that brought these samples."""
        now = self.clock.now()
        run = Run(new_run_id("ci", now), "ci", Cause.ONCE, now, mode=mode, ended=now, outcome=Outcome.COMPLETE)
        await self.store.runs.end(run, samples)
        return run

    async def statuses(self) -> dict[DeliveryStatus, int]:
        runs = [run.id for run in await self.store.runs.list(limit=1000)]
        return sum((Counter(each) for each in (await self.store.outbox.counts(runs)).values()), Counter())

    async def reasons(self, run: Run, status: DeliveryStatus) -> list[tuple[str, str]]:
        """Metric and reason of the run's samples that ended so."""
        found, _ = await self.store.outbox.samples(run.id, 0, 10_000)
        return [(each.point.metric, each.reason) for each in found if each.status is status]

    def answer(self, script: Callable[[list[str]], Reply | None]) -> None:
        """``script`` gives the reply to a request with these metrics."""

        def intercept(received: Received) -> Reply | None:
            metrics = [series["metric"] for series in received.json["series"]]
            self.bodies.append(metrics)
            return script(metrics)

        self.datadog.intercept = intercept

    def answer_first(self, *replies: Reply | None) -> None:
        """Then all is taken."""
        script: Iterator[Reply | None] = chain(replies, repeat(None))
        self.answer(lambda metrics: next(script))

    def events(self, begin: str) -> list[Any]:
        """The log's lines that begin so."""
        return [line for line in self.logs if line["event"].startswith(begin)]


@pytest.fixture
async def it() -> AsyncIterator[Here]:
    clock = JumpingClock()
    datadog = ScriptedDatadog(api_keys={"good"}, now=lambda: clock.now().timestamp())
    empty_store()
    with serve(datadog) as (url,), capture_logs() as logs, without_threads():
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            intake = Intake(url, Secret("Datadog API key", "set DD_API_KEY", "good"), client, clock.now)
            store = open_store(clock)
            historical = ["metta.history", "shadow.metta.history"]
            sender = Forwarder(store.outbox, intake, clock, historical=historical, jitter=lambda low, high: high)
            here = Here(clock, store, datadog, sender, logs)
            here.answer_first()
            yield here


@asynccontextmanager
async def running(forwarder: Forwarder) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forwarder.run)
        yield
        tasks.cancel_scope.cancel()


def samples(count: int, kind: Kind = Kind.GAUGE, at: datetime = START, name: str = "metta") -> list[Sample]:
    """``count`` series with one sample each: "metta.gauge0" and so on."""
    interval = 60 if kind is Kind.COUNT else None
    tags = {"env": "test", "condition": "< 5.0", "status": "pass"}
    return [
        Sample(Metric(f"{name}.{kind.value}{number}", kind), 1.0, at, tags, interval=interval)
        for number in range(count)
    ]


async def test_one_bad_series_of_thousands_is_found_in_few_requests_though_a_proxy_takes_no_large_ones(
    it: Here,
) -> None:
    bad, reason = "metta.distribution1234", "127.0.0.1 answered 400: Bad metric"
    page = Reply(413, b"<html>nginx</html>", {"content-type": "text/html"})

    def answer(metrics: list[str]) -> Reply | None:
        if len(metrics) > 600:
            return page
        return refusal(400, "Bad metric") if bad in metrics else None

    it.answer(answer)
    run = await it.add(*samples(2_000, Kind.DISTRIBUTION))
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {DELIVERED: 1_999, REJECTED: 1}
    assert len(it.bodies) <= 2 * log2(2_000) + 6
    assert it.datadog.accepted == 1_999
    assert it.forwarder.state.lost == {REJECTED: 1}
    (told,) = it.events("points are not sent")
    assert (told["points"], told["reasons"]) == (1, {f"{bad}: {reason}": 1})
    assert await it.reasons(run, REJECTED) == [(bad, reason)]


async def test_a_lost_answer_sends_gauges_again_and_distributions_never(it: Here) -> None:
    """Any other transient answer keeps every point."""
    await it.add(*samples(3), *samples(4, Kind.DISTRIBUTION))
    it.answer_first(DOWN, HANG_UP, None, DOWN, LOSE_ANSWER)
    assert await it.forwarder.flush(SOON)
    assert [len(metrics) for metrics in it.bodies] == [3, 3, 3, 4, 4]
    assert it.datadog.accepted == 7
    state = it.forwarder.state
    assert await it.statuses() == state.counts == {DELIVERED: 3, UNKNOWN: 4}
    assert (state.last_accepted_at, state.lost) == (START + timedelta(seconds=sum(it.clock.slept[:2])), {UNKNOWN: 4})
    assert (state.pending, state.trouble, state.next_try_at) == (0, None, None)


@pytest.mark.parametrize(("kind", "status"), [(Kind.GAUGE, PENDING), (Kind.DISTRIBUTION, UNKNOWN)])
async def test_cancelled_while_sending_a_gauge_is_pending_and_a_distribution_unknown(
    it: Here, kind: Kind, status: DeliveryStatus
) -> None:
    came = anyio.Event()

    class Slow:
        async def send(self, payload: object) -> None:
            came.set()
            await anyio.sleep_forever()

    await it.add(*samples(3, kind))
    it.forwarder._intake = cast("Any", Slow())
    async with running(it.forwarder):
        await came.wait()
    assert await it.statuses() == {status: 3}


async def test_a_refused_key_ends_a_flush_holds_everything_and_delivery_resumes_by_itself(it: Here) -> None:
    clock, states = it.clock, list[ForwarderState]()
    it.datadog.api_keys = {"another"}

    def accept_late() -> None:
        states.append(replace(it.forwarder.state))
        if len(clock.slept) == 7:
            it.datadog.api_keys = {"good"}

    await it.add(*samples(3), *samples(2, Kind.DISTRIBUTION))
    assert not await it.forwarder.flush(SOON)
    assert it.forwarder.state.next_try_at == START + timedelta(seconds=2)
    clock.on_sleep = accept_late
    settled = anyio.Event()
    it.forwarder.on_settled = lambda *_: settled.set() if it.forwarder.state.counts[DELIVERED] == 5 else None
    async with running(it.forwarder):
        with anyio.fail_after(30):
            await settled.wait()
    assert clock.slept == [4, 8, 16, 32, 64, 64, 64]
    assert {state.pending for state in states} == {5}
    assert all("the Datadog API key is refused" in (state.trouble or "") for state in states)
    assert it.forwarder.state.trouble is None
    begin, end = it.events("delivery")  # not at each try
    assert (begin["event"], end["event"]) == ("delivery does not work", "delivery works again")
    assert end["seconds"] == sum(clock.slept)


async def test_while_the_intake_is_down_one_chunk_is_tried_less_and_less_often_until_the_deadline(it: Here) -> None:
    await it.add(*samples(3_000))
    it.answer(lambda metrics: DOWN)
    assert not await it.forwarder.flush(10)
    state = it.forwarder.state
    assert (state.pending, state.trouble) == (3_000, "127.0.0.1 answered 503: Down for maintenance")
    assert state.next_try_at == it.clock.now() + timedelta(seconds=8)
    it.answer_first()
    assert await it.forwarder.flush(SOON)
    assert [len(metrics) for metrics in it.bodies] == [3_000, 1_000, 1_000, 1_000, 2_000]
    it.answer(lambda metrics: DOWN)
    await it.add(*samples(1, at=it.clock.now()))
    assert not await it.forwarder.flush(it.clock.monotonic() + 5)
    assert it.clock.slept == [2, 4, 2], "pauses start anew after a success"


@pytest.mark.parametrize(("asked", "slept"), [("17", 17), ("1", 2), ("99999", 600)])
async def test_the_pause_that_the_intake_asks_for_is_obeyed_up_to_ten_minutes(
    it: Here, asked: str, slept: float
) -> None:
    await it.add(*samples(1))
    it.datadog.script.append(refusal(429, "slow down", X_RateLimit_Reset=asked))
    assert not await it.forwarder.flush(it.clock.monotonic() + 1)
    assert not await it.forwarder.flush(it.clock.monotonic() + 0.5)  # the daemon ends meanwhile: nothing is sent
    assert (len(it.bodies), it.clock.slept) == (0, [])
    assert await it.forwarder.flush(SOON)
    assert it.clock.slept == [float(asked) if asked == "1" else slept]


@pytest.mark.parametrize(
    ("age", "kind", "name", "status"),
    [
        (54, Kind.GAUGE, "metta", DELIVERED),
        (56, Kind.GAUGE, "metta", EXPIRED),
        (70, Kind.DISTRIBUTION, "metta.history", EXPIRED),
        (30 * 60, Kind.COUNT, "metta.history", DELIVERED),  # Historical Metrics are on
        (-11, Kind.GAUGE, "metta", REJECTED),  # of a clock that stepped back
    ],
)
async def test_only_points_of_an_age_that_the_intake_takes_are_sent(
    it: Here, age: int, kind: Kind, name: str, status: DeliveryStatus
) -> None:
    await it.add(*samples(2, kind, START - timedelta(minutes=age), name), *samples(3))
    assert await it.forwarder.flush(SOON)
    expected = {DELIVERED: 5} if status is DELIVERED else {DELIVERED: 3, status: 2}
    assert await it.statuses() == it.forwarder.state.counts == expected


async def test_a_flush_beside_the_running_forwarder_sends_nothing_twice(it: Here) -> None:
    async with running(it.forwarder):
        for name in ("metta", "metta.other"):
            await it.add(*samples(500, name=name))
            it.forwarder.notify()
            assert await it.forwarder.flush(SOON)
    assert it.datadog.accepted == len(set(chain(*it.bodies))) == 1_000


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize(
    ("method", "answer"), [("pending", None), ("claim", None), ("settle", None), ("refuse", 413), ("release", 429)]
)
async def test_a_store_that_goes_away_is_told_of_an_answer_later(
    it: Here, method: str, answer: int | None, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent twice, nothing is stuck. ``is_written``: it was the store's answer alone that got lost."""
    left, original = [1, 2], getattr(Outbox, method)

    async def fail(self: Outbox, *facts: object) -> object:
        if left and facts != ([],):
            left.pop()
            if is_written:
                await original(self, *facts)
            raise Unavailable("the server is away")
        return await original(self, *facts)

    monkeypatch.setattr(Outbox, method, fail)
    run = await it.add(*samples(10, Kind.DISTRIBUTION))
    it.answer_first(*[refusal(answer)] if answer else [])
    assert await it.forwarder.flush(SOON)
    assert (await it.statuses(), it.datadog.accepted) == ({DELIVERED: 10}, 10)
    assert (await it.store.outbox.samples(run.id))[1] == 10
    assert len(it.bodies) == {None: 1, 413: 3, 429: 2}[answer]


async def test_a_point_that_is_answered_with_5xx_each_time_holds_up_no_other(it: Here) -> None:
    """Alone it goes on, seldom, and expires; its neighbours and what comes later arrive."""
    it.forwarder._jitter = lambda low, high: high
    await it.add(*samples(60))
    it.answer(lambda metrics: DOWN if "metta.gauge42" in metrics else None)
    assert not await it.forwarder.flush(20 * 60)
    assert await it.statuses() == {DELIVERED: 59, PENDING: 1}
    assert len(it.bodies) < 100
    await it.add(*samples(5, at=it.clock.now(), name="metta.later"))
    assert not await it.forwarder.flush(it.clock.monotonic() + 120)
    assert await it.statuses() == {DELIVERED: 64, PENDING: 1}
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {DELIVERED: 64, EXPIRED: 1}
    assert it.clock.now() - START < timedelta(minutes=60)


async def test_the_search_for_many_bad_points_is_spread_in_time_and_good_ones_do_not_wait_for_it(
    it: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder, "_MAX_REFUSED", 20)
    it.answer(lambda metrics: refusal(400) if any(name.startswith("metta.bad") for name in metrics) else None)
    await it.add(*samples(24, name="metta.bad"))
    await it.add(*samples(10))
    assert not await it.forwarder.flush(15)
    assert (await it.statuses())[DELIVERED] == 10
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {REJECTED: 24, DELIVERED: 10}
    assert set(it.clock.slept) == {10}
    assert len(it.bodies) / (len(it.clock.slept) + 1) <= 25


async def test_series_beyond_the_limit_are_held_back_and_known_ones_go_on(it: Here) -> None:
    it.forwarder._limit = SeriesLimit(10, it.clock)
    await it.add(*samples(8))
    assert await it.forwarder.flush(SOON)
    run = await it.add(*samples(12))
    assert await it.forwarder.flush(SOON)
    assert it.forwarder.state.lost == {THROTTLED: 2}
    reasons = {reason for _, reason in await it.reasons(run, THROTTLED)}
    assert reasons == {"more than 10 series within an hour"}
    it.clock.move(3601)
    await it.add(*samples(10, at=it.clock.now(), name="metta.other"))
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {DELIVERED: 28, THROTTLED: 2}


@pytest.mark.parametrize("prefix", ["shadow.", None])
async def test_what_a_shadow_collects_has_a_name_of_its_own_or_is_withheld_and_no_loss(
    it: Here, prefix: str | None
) -> None:
    it.forwarder.set_shadow(prefix, is_withheld=prefix is None)
    old = samples(1, at=START - timedelta(hours=9), name="metta.history")  # by the name that is sent of any age
    run = await it.add(*old, mode=Mode.SHADOW)
    await it.add(*samples(1))  # of before, in live mode
    assert await it.forwarder.flush(SOON)
    assert sorted(chain(*it.bodies)) == ["metta.gauge0", *(["shadow.metta.history.gauge0"] if prefix else [])]
    status, reason = (DELIVERED, "") if prefix else (THROTTLED, "shadow mode: nothing is sent")
    assert await it.reasons(run, status) == [("metta.history.gauge0", reason)]
    assert (it.forwarder.state.lost, it.forwarder.state.is_withheld) == ({}, prefix is None)
