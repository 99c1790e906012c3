"""What GitHub's webhooks told and no run has used yet. In memory alone: what is lost with it, the next poll finds.

A delivery is the datum, not only a bell: ``workflow_run`` has the shape of REST's run.
https://docs.github.com/webhooks/webhook-events-and-payloads#workflow_run
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from service.collectors.github_ci.models import Run
from service.github.rate_limit import Clock


class InvalidDelivery(Exception):
    """The body is not of the event's shape; the message names the field."""


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """What page, ``status`` and /metrics show. ``today`` is the UTC day.

    ``by_result``: since the start, by event and result (``taken``, ``ping``, ``ignored``, ``invalid``, ``unsigned``).
    ``missed``: ended runs that a poll found first, more than two minutes after their end; since the start.
    ``dropped``: facts that gave way to newer ones, because 10,000 were waiting.
    """

    last_at: datetime | None
    today: int
    missed_today: int
    by_result: Mapping[tuple[str, str], int]
    missed: int
    dropped: int
    waiting: int


class _Delivery(msgspec.Struct):
    action: str
    workflow_run: Run


_DELIVERY = msgspec.json.Decoder(_Delivery)


class Deliveries:
    """Queues of completed runs, one a repository; the oldest go when there are more than 10,000.

    Built once in ``daemon.wiring`` and handed to the collectors in their ``Context`` and to the web in its
    ``AppContext``. All of it is called on the loop, but for ``read_run``.
    """

    def __init__(self, clock: Clock) -> None: ...

    def count(self, event: str, result: str) -> None:
        """One delivery of ``event`` was answered with ``result``."""

    def add(self, run: Run) -> bool:
        """Takes a completed run; False when no collector is configured for its repository. The run's collectors are
        due 2 s later, or 10 s after their last run by webhook."""
        return False

    def expect(self, repositories: Mapping[str, Collection[str]]) -> None:
        """The repositories (any case) of each collector, by collector name; at the start and at each reload."""

    def take(self, repo: str) -> list[Run]:
        """All that wait for ``repo``, the oldest first; they are the caller's, who puts back what it could not use."""
        return []

    def put_back(self, runs: Iterable[Run]) -> None:
        """A run that failed could not use them."""

    def report_missed(self, count: int) -> None:
        """So many ended runs were found by a poll though a delivery should have told of them."""

    def summary(self) -> DeliverySummary:
        return DeliverySummary(None, 0, 0, {}, 0, 0, 0)

    async def next_due(self) -> str:
        """Waits for a collector that is to be run because of deliveries, and returns its name."""
        raise NotImplementedError


def read_run(body: bytes) -> Run | None:
    """The completed run of a ``workflow_run`` delivery, None where it is of no concern (another action, no
    conclusion). ``repository.full_name`` of the run says whose it is. CPU work: in a thread for a large body.

    Raises InvalidDelivery.
    """
    try:
        delivery = _DELIVERY.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidDelivery(str(error)) from error
    run = delivery.workflow_run
    return run if delivery.action == "completed" and run.has_ended else None
