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

    @property
    def outages(self) -> list[str]:
        return [line["event"] for line in self.logs if line["event"].startswith("delivery")]

    @property
    def told(self) -> list[Any]:
        """Lines about points that are not sent."""
        return [line for line in self.logs if line["event"] == "points are not sent"]


@asynccontextmanager
async def forwarding(*, key: str | None = "good", **options: Any) -> AsyncIterator[Here]:
    clock = JumpingClock()
    datadog = ScriptedDatadog(api_keys={"good"}, now=lambda: clock.now().timestamp())
    empty_store()
    with serve(datadog) as (url,), capture_logs() as logs, without_threads():
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            intake = Intake(url, Secret("Datadog API key", "set DD_API_KEY", key), client, clock.now)
            store = open_store(clock)
            sender = Forwarder(store.outbox, intake, clock, jitter=lambda low, high: high, **options)
            here = Here(clock, store, datadog, sender, logs)
            here.answer_first()
            yield here


@pytest.fixture(name="it")
async def usual() -> AsyncIterator[Here]:
    async with forwarding() as here:
        yield here


@asynccontextmanager
async def running(forwarder: Forwarder) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forwarder.run)
        yield
        tasks.cancel_scope.cancel()


def samples(
    count: int, kind: Kind = Kind.GAUGE, at: datetime = START, name: str = "metta.m{:05}", value: float = 1.0
) -> list[Sample]:
    """``count`` series with one sample each; a number goes into ``name``."""
    interval = 60 if kind is Kind.COUNT else None
    tags = {"env": "test", "condition": "< 5.0", "status": "pass"}
    return [Sample(Metric(name.format(number), kind), value, at, tags, interval=interval) for number in range(count)]


def distributions(count: int) -> list[Sample]:
    return samples(count, Kind.DISTRIBUTION, name="metta.d{}")


@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
async def test_one_bad_series_of_thousands_is_found_in_few_requests(it: Here, kind: Kind) -> None:
    bad, reason = "metta.m01234", "127.0.0.1 answered 400: Bad metric"
    run = await it.add(*samples(2_000, kind))
    it.answer(lambda metrics: refusal(400, "Bad metric") if bad in metrics else None)
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {DELIVERED: 1_999, REJECTED: 1}
    assert len(it.bodies) <= 2 * log2(2_000) + 3
    taken = [metric for metrics in it.bodies if bad not in metrics for metric in metrics]
    assert len(taken) == len(set(taken)) == 1_999
    assert it.forwarder.state.lost == {REJECTED: 1}
    assert [(line["points"], line["reasons"]) for line in it.told] == [(1, {f"{bad}: {reason}": 1})]
    assert await it.reasons(run, REJECTED) == [(bad, reason)]


async def test_what_is_too_large_for_a_proxy_is_halved_until_it_passes(it: Here) -> None:
    await it.add(*samples(1_000), *distributions(1_000))
    page = Reply(413, b"<html>nginx</html>", {"content-type": "text/html"})
    it.answer(lambda metrics: page if len(metrics) > 300 else None)
    assert await it.forwarder.flush(SOON)
    assert it.datadog.accepted == 2_000


async def test_a_lost_answer_sends_gauges_again_and_distributions_never(it: Here) -> None:
    """Any other transient answer keeps every point."""
    await it.add(*samples(3), *distributions(4))
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


async def test_a_missing_key_ends_a_flush_at_once_and_keeps_everything() -> None:
    async with forwarding(key=None) as it:
        await it.add(*samples(3))
        assert not await it.forwarder.flush(SOON)
        assert it.forwarder.state.trouble == "no Datadog API key: set DD_API_KEY"
        assert (it.clock.slept, it.bodies, await it.statuses()) == ([], [], {PENDING: 3})


async def test_a_refused_key_holds_everything_and_delivery_resumes_by_itself(it: Here) -> None:
    clock, states = it.clock, list[ForwarderState]()
    it.datadog.api_keys = {"another"}

    def accept_late() -> None:
        states.append(replace(it.forwarder.state))
        if len(clock.slept) == 8:
            it.datadog.api_keys = {"good"}

    await it.add(*samples(3), *distributions(2))
    clock.on_sleep = accept_late
    settled = anyio.Event()
    it.forwarder.on_settled = lambda *_: settled.set() if it.forwarder.state.counts[DELIVERED] == 5 else None
    async with running(it.forwarder):
        with anyio.fail_after(30):
            await settled.wait()
    assert clock.slept == [2, 4, 8, 16, 32, 64, 64, 64]
    assert {state.pending for state in states} == {5}
    assert all("the Datadog API key is refused" in (state.trouble or "") for state in states)
    assert states[0].next_try_at == START + timedelta(seconds=2)
    assert it.forwarder.state.trouble is None
    assert it.outages == ["delivery does not work", "delivery works again"]  # not at each try
    (end,) = [line for line in it.logs if line["event"] == it.outages[1]]
    assert end["seconds"] == sum(clock.slept)


async def test_a_flush_gives_up_at_its_deadline_and_pauses_start_anew_after_a_success(it: Here) -> None:
    await it.add(*samples(3))
    it.answer(lambda metrics: DOWN)
    assert not await it.forwarder.flush(30)
    assert it.clock.slept == [2, 4, 8]
    state = it.forwarder.state
    assert (state.pending, state.trouble) == (3, "127.0.0.1 answered 503: Down for maintenance")
    assert state.next_try_at == it.clock.now() + timedelta(seconds=16)
    it.answer_first(HANG_UP)
    assert await it.forwarder.flush(SOON)
    assert it.outages == ["delivery does not work", "delivery does not work", "delivery works again"]
    it.clock.slept.clear()
    it.answer(lambda metrics: DOWN)
    await it.add(*samples(1, at=it.clock.now()))
    assert not await it.forwarder.flush(it.clock.monotonic() + 5)
    assert it.clock.slept == [2]


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


async def test_while_the_intake_is_down_only_one_chunk_at_a_time_is_tried(it: Here) -> None:
    await it.add(*samples(3_000))
    it.answer_first(DOWN, DOWN)
    assert await it.forwarder.flush(SOON)
    assert [len(metrics) for metrics in it.bodies] == [3_000, 1_000, 1_000, 2_000]


@pytest.mark.parametrize(
    ("age", "kind", "name", "status"),
    [
        (54, Kind.GAUGE, "metta.m", DELIVERED),
        (56, Kind.GAUGE, "metta.m", EXPIRED),
        (70, Kind.DISTRIBUTION, "metta.history.m", EXPIRED),
        (30 * 60, Kind.COUNT, "metta.history.m", DELIVERED),  # Historical Metrics are on
        (-10, Kind.GAUGE, "metta.m", DELIVERED),
        (-11, Kind.GAUGE, "metta.m", REJECTED),  # of a clock that stepped back
    ],
)
async def test_only_points_of_an_age_that_the_intake_takes_are_sent(
    age: int, kind: Kind, name: str, status: DeliveryStatus
) -> None:
    async with forwarding(historical=["metta.history"]) as it:
        await it.add(*samples(2, kind, START - timedelta(minutes=age), name + "{}"), *samples(3))
        assert await it.forwarder.flush(SOON)
        expected = {DELIVERED: 5} if status is DELIVERED else {DELIVERED: 3, status: 2}
        assert await it.statuses() == it.forwarder.state.counts == expected
        assert [line["points"] for line in it.told] == ([] if status is DELIVERED else [2])


async def test_in_shadow_mode_it_is_the_name_that_is_sent_which_may_be_of_any_age() -> None:
    async with forwarding(historical=["metta.history", "shadow.metta.mine"]) as it:
        it.forwarder.set_shadow("shadow.", is_withheld=False)
        for name in ("metta.history{}", "metta.mine{}"):
            await it.add(*samples(1, Kind.GAUGE, START - timedelta(hours=9), name), mode=Mode.SHADOW)
        it.answer_first()
        assert await it.forwarder.flush(SOON)
        assert it.bodies == [["shadow.metta.mine0"]]


async def test_a_flush_beside_the_running_forwarder_sends_nothing_twice(it: Here) -> None:
    async with running(it.forwarder):
        for name in ("metta.m{}", "metta.n{}"):
            await it.add(*samples(500, name=name))
            it.forwarder.notify()
            assert await it.forwarder.flush(SOON)
    sent = [metric for metrics in it.bodies for metric in metrics]
    assert len(sent) == len(set(sent)) == 1_000


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
    await it.add(*samples(60))
    it.answer(lambda metrics: DOWN if "metta.m00042" in metrics else None)
    assert not await it.forwarder.flush(30 * 60)
    assert await it.statuses() == {DELIVERED: 59, PENDING: 1}
    assert len(it.bodies) < 100
    await it.add(*samples(5, at=it.clock.now(), name="metta.later{}"))
    assert not await it.forwarder.flush(it.clock.monotonic() + 120)
    assert await it.statuses() == {DELIVERED: 64, PENDING: 1}
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {DELIVERED: 64, EXPIRED: 1}
    assert it.clock.now() - START < timedelta(minutes=60)
    assert it.forwarder.state.trouble is None


async def test_the_search_for_many_bad_points_is_spread_in_time_and_good_ones_do_not_wait_for_it(
    it: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder, "_MAX_REFUSED", 20)
    taken: list[int] = []

    def answer(metrics: list[str]) -> Reply | None:
        if any(name.startswith("metta.bad") for name in metrics):
            return refusal(400, "bad series")
        taken.append(len(it.clock.slept))
        return None

    await it.add(*samples(12, name="metta.bad{}"))
    await it.add(*samples(10))
    it.answer(answer)
    assert await it.forwarder.flush(SOON)
    assert await it.statuses() == {REJECTED: 12, DELIVERED: 10}
    assert set(it.clock.slept) == {10}
    assert len(it.bodies) / (len(it.clock.slept) + 1) <= 25
    assert min(taken) <= 1


async def test_series_beyond_the_limit_are_held_back_and_known_ones_go_on() -> None:
    async with forwarding(max_series=10) as it:
        await it.add(*samples(8))
        assert await it.forwarder.flush(SOON)
        run = await it.add(*samples(12), *samples(3, name="metta.m{:05}"))
        assert await it.forwarder.flush(SOON)
        assert await it.statuses() == {DELIVERED: 8 + 10 + 3, THROTTLED: 2}
        assert it.forwarder.state.lost == {THROTTLED: 2}
        assert [len(line["reasons"]) for line in it.told] == [2]
        reasons = {reason for _, reason in await it.reasons(run, THROTTLED)}
        assert reasons == {"more than 10 series within an hour"}
        it.clock.move(3601)
        await it.add(*samples(10, at=it.clock.now(), name="metta.other{}"))
        assert await it.forwarder.flush(SOON)
        assert (await it.statuses())[THROTTLED] == 2


@pytest.mark.parametrize("prefix", ["shadow.", None])
async def test_what_a_shadow_collects_has_a_name_of_its_own_or_is_withheld_and_no_loss(
    it: Here, prefix: str | None
) -> None:
    it.forwarder.set_shadow(prefix, is_withheld=prefix is None)
    run = await it.add(*samples(1), mode=Mode.SHADOW)
    await it.add(*samples(1))  # of before, in live mode
    assert await it.forwarder.flush(SOON)
    names = sorted(point.metric for point in it.datadog.points)
    assert names == (["metta.m00000", "shadow.metta.m00000"] if prefix else ["metta.m00000"])
    status, reason = (DELIVERED, "") if prefix else (THROTTLED, "shadow mode: nothing is sent")
    assert await it.reasons(run, status) == [("metta.m00000", reason)]
    assert (it.forwarder.state.lost, it.forwarder.state.is_withheld) == ({}, prefix is None)
