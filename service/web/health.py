"""Health and state of the daemon: the answers of the probes, /api/v1/state, and what stands at the top of each page."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, computed_field

from service.domain.delivery import LOST
from service.domain.errors import Unavailable
from service.domain.runs import Mode
from service.github.rate_limit import Quota
from service.web.context import AppContext
from service.web.schemas import Counts, Instant, View

HealthStatus = Literal["ok", "warn", "fail"]

_BEAT_LOST = 15.0  # seconds without a sign of life of the scheduler, which gives one every second
_SILENCE = timedelta(days=1)  # of GitHub's webhook


class HealthCheck(View):
    name: str
    status: HealthStatus
    detail: str = ""


class Health(View):
    """``ok`` decides the probe's answer; a check may warn or fail beside it without turning the probe."""

    ok: bool
    checks: tuple[HealthCheck, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # see RunView.duration
    @property
    def status(self) -> HealthStatus:
        if not self.ok:
            return "fail"
        return "ok" if all(check.status == "ok" for check in self.checks) else "warn"


class DeliveryView(View):
    """The way to Datadog. ``last_accepted``: the last 202; ``trouble``: why points wait, None when all is well.

    ``lost``: points that will not arrive, by reason.
    """

    state: Literal["ok", "pending", "trouble"]
    last_accepted: Instant | None = None
    pending: int = 0
    lost: Counts
    trouble: str | None = None
    next_try: Instant | None = None


class QuotaView(View):
    """GitHub's primary limit of one resource. ``left_at_reset`` and ``empty_at``: if it is spent on as it was."""

    resource: str
    limit: int
    remaining: int
    reset_at: Instant
    left_at_reset: int
    empty_at: Instant | None = None


class WebhookView(View):
    """GitHub's deliveries. ``last``: when the last came that GitHub had signed; ``today``, ``missed_today``: of the UTC
    day; a run is missed that a poll found first. ``hint``: what may be wrong, None when all is well.
    """

    last: Instant | None
    today: int
    missed_today: int
    hint: str | None = None


class ReplicaView(View):
    """One of the processes that share a store. ``beat``: when it last showed that it lives; ``active``: its runs;
    ``pending``: points that it is to send.
    """

    id: str
    name: str
    version: str
    started: Instant
    beat: Instant = Field(validation_alias="seen")
    active: int
    pending: int


class CollectorCounts(View):
    total: int
    failing: int
    running: int
    paused: int


class CheckCounts(View):
    passing: int = 0
    failing: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        return self.passing + self.failing + self.unknown


class NextRun(View):
    collector: str
    at: Instant


class State(View):
    """The daemon at a glance. ``revision`` changes when anything does that the pages show; ``active``: runs under way
    (the first twenty); ``warnings``: what /readyz warns of; ``webhooks``: None while there is no secret for them;
    ``replicas``: those of a shared store, none where the store is the daemon's own.
    """

    now: Instant
    mode: str
    revision: str = ""
    collectors: CollectorCounts
    checks: CheckCounts
    active: Sequence[str]
    next_run: NextRun | None
    delivery: DeliveryView
    quota: Sequence[QuotaView]
    webhooks: WebhookView | None = None
    replicas: Sequence[ReplicaView] = ()
    warnings: Sequence[HealthCheck]


def check_life(context: AppContext) -> Health:
    """Whether the event loop and the scheduler beat. No thread, no store, no network: it answers under any load."""
    silence = context.clock.monotonic() - context.scheduler.beat
    detail = f"the scheduler has not beaten for {silence:.0f} s" if silence >= _BEAT_LOST else ""
    return Health(
        ok=not detail, checks=(HealthCheck(name="scheduler", status="fail" if detail else "ok", detail=detail),)
    )


async def check_readiness(context: AppContext) -> Health:
    """Not ok while the store is lost, which nothing can do without; what time or an operator mends is a warning."""
    try:
        await context.store.check()
        lost = None
    except Unavailable as error:
        lost = str(error)
    refused, forwarder, github = context.reload_error, context.forwarder.state, context.github
    troubles = {
        "configuration": refused and f"the last reload was refused, what held before it holds: {refused}",
        "datadog": forwarder.trouble,
        "github": github.trouble or github.shortage,
        "aws": "; ".join(filter(None, (secret.trouble for secret in context.secrets))),
    }
    if context.scheduler.mode is Mode.SHADOW:
        what = "nothing is sent" if forwarder.is_withheld else "metrics have names of their own"
        troubles["mode"] = f"shadow: {what}"
    warnings = [
        HealthCheck(name=name, status="warn" if trouble else "ok", detail=trouble or "")
        for name, trouble in troubles.items()
    ]
    # A server that is away must not take all replicas' pages with it.
    is_bearable = context.store.replicas is not None and context.store.is_prepared
    status = "ok" if lost is None else "warn" if is_bearable else "fail"
    store = HealthCheck(name="store", status=status, detail=lost or "")
    return Health(ok=status != "fail", checks=(store, *warnings))


def view_delivery(context: AppContext) -> DeliveryView:
    forwarder = context.forwarder.state
    return DeliveryView(
        state="trouble" if forwarder.trouble else "pending" if forwarder.pending else "ok",
        last_accepted=forwarder.last_accepted_at,
        pending=forwarder.pending,
        lost={status: forwarder.lost.get(status, 0) for status in LOST},
        trouble=forwarder.trouble,
        next_try=forwarder.next_try_at,
    )


def view_webhooks(context: AppContext) -> WebhookView | None:
    if not context.webhook_secret.is_set:
        return None
    summary, hint = context.deliveries.summary(), None
    silence = context.clock.now() - (summary.last_at or context.info.started)
    if summary.last_at is None and any(result == "unsigned" for _, result in summary.by_result):
        hint = "deliveries come, but are signed with another secret; does GITHUB_WEBHOOK_SECRET hold GitHub's?"
    elif silence >= _SILENCE:
        hint = "no delivery for a day; is the webhook active, and does GitHub reach this address (docs/webhooks.md)?"
    return WebhookView(last=summary.last_at, today=summary.today, missed_today=summary.missed_today, hint=hint)


def forecast(resource: str, quota: Quota, now: datetime) -> QuotaView:
    """One of GitHub's limits, and what becomes of it by its reset if it is spent on as it was."""
    ahead = (quota.reset_at - now).total_seconds()
    remaining = quota.remaining if ahead > 0 else quota.limit
    # https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
    window = 60.0 if resource in ("search", "code_search") else 3600.0
    # Spent in one go at the window's start, a cycle's requests are no rate: at least ten minutes are assumed.
    rate = (quota.limit - remaining) / max(window - ahead, min(600.0, window))
    left = remaining - rate * max(ahead, 0.0)
    is_short = left < 0 or not remaining
    return QuotaView(
        resource=resource,
        limit=quota.limit,
        remaining=remaining,
        reset_at=quota.reset_at,
        left_at_reset=max(0, int(left)),
        empty_at=now + timedelta(seconds=remaining / rate if remaining else 0) if is_short else None,
    )
