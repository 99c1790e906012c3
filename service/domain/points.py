"""Points: samples on their way out, and where each one is on that way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from service.domain.samples import Evidence, Kind


class Fate(IntEnum):
    """Where a stored point is on its way."""

    WAITING = 0
    SENDING = 1  # a distribution that was handed to the intake: an answer is due
    DELIVERED = 2
    REJECTED = 3  # the intake refused it for good
    EXPIRED = 4  # too old for the intake to take
    UNCERTAIN = 5  # a distribution that was sent without an answer: sending it again could count it twice
    DISCARDED = 6  # the outbox was full
    HELD_BACK = 7  # of a series beyond ten times ``max_series``
    WITHHELD = 8  # collected in shadow mode, in which nothing is sent: no loss


# Earlier instants are slips of a collector; those of year 1 can't even be told in every zone.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Datadog drops without a word what is further ahead of its clock than this.
AHEAD = timedelta(minutes=10)
TOO_EARLY = "the time is more than 10 minutes in the future"

LOST = (Fate.REJECTED, Fate.EXPIRED, Fate.UNCERTAIN, Fate.DISCARDED, Fate.HELD_BACK)


class Point(NamedTuple):
    """A stored sample on its way out; a tuple, because frozen dataclasses take three times as long to make.

    ``tags``: a JSON list of "name:value" as the intake takes it; kept encoded, since most points are only passed on.
    ``at``: whole seconds since the epoch.
    """

    id: int
    metric: str
    kind: Kind
    interval: int
    tags: str
    at: int
    value: float


def is_historical(kind: Kind, metric: str, historical: Sequence[str]) -> bool:
    """Whether the intake takes this metric at any age: Historical Metrics can be on for gauges and counts.

    ``historical``: how the names of the metrics begin for which it is.
    """
    return kind is not Kind.DISTRIBUTION and metric.startswith(tuple(historical))


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample of a past run and what came of it; ``reason`` says why, where it was lost."""

    metric: str
    kind: Kind
    value: float
    at: datetime
    tags: Mapping[str, str]
    fate: Fate
    reason: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenSeries:
    """A series that runs brought points of. ``last``: the newest one's second."""

    job: str
    metric: str
    kind: Kind
    tags: Mapping[str, str]
    last: datetime


@dataclass(frozen=True, slots=True)
class Payload:
    """Points as one request body. ``size`` is the body's length before compression, in bytes."""

    points: Sequence[Point]
    kind: Kind
    body: bytes
    size: int
