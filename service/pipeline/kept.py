"""What the store could not take: runs and samples in memory, and the fate of each point of theirs."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime

from service.domain import naming
from service.domain.checks import Check
from service.domain.points import Fate, Point, is_historical
from service.domain.runs import Run
from service.domain.samples import Sample

_DUE = (Fate.WAITING, Fate.SENDING)


@dataclass(eq=False, slots=True)
class Kept:
    """What one ``end`` or ``put`` should have written. ``fates``: of its samples by their place; missing ones wait."""

    job: str
    run: Run | None
    samples: Sequence[Sample]
    checks: Sequence[Check]
    remember: Mapping[str, bytes | None]
    fates: dict[int, Fate] = field(default_factory=dict)
    first_id: int = 0  # the points' ids count down from here, below zero: none of the store's

    @property
    def waiting(self) -> int:
        """Points that are still due."""
        return len(self.samples) - sum(fate not in _DUE for fate in self.fates.values())

    def holds(self, number: int) -> bool:
        """Whether the point of this id is one of these."""
        return 0 <= self.first_id - number < len(self.samples)

    def refuse_nameless(self) -> int:
        """Rejects what no name of a metric can be made of; how many points that is."""
        nameless = [
            place for place, sample in enumerate(self.samples) if naming.metric_name(sample.metric.name) is None
        ]
        self.fates.update(dict.fromkeys(nameless, Fate.REJECTED))
        return len(nameless)

    def points(self, limit: int, skip: Set[int]) -> list[Point]:
        """The first ``limit`` that wait, but those whose id is in ``skip``."""
        points: list[Point] = []
        for place, sample in enumerate(self.samples):
            number = self.first_id - place
            if place in self.fates or number in skip:
                continue
            if len(points) == limit:
                break
            name = naming.metric_name(sample.metric.name) or ""
            tags = naming.encode_tags(sample.tags)
            at, value = int(sample.at.timestamp()), float(sample.value)
            points.append(Point(number, name, sample.metric.kind, sample.interval or 0, tags, at, value))
        return points

    def settle(self, number: int, fate: Fate) -> None:
        """Moves the point of this id to ``fate``."""
        if fate is Fate.WAITING:
            self.fates.pop(self.first_id - number, None)
        else:
            self.fates[self.first_id - number] = fate

    def expire(self, before: datetime, historical: Sequence[str]) -> int:
        """Moves waiting points older than ``before`` to EXPIRED, but for those that may be of any age; how many."""
        gone = 0
        for place, sample in enumerate(self.samples):
            metric = sample.metric
            if place in self.fates or sample.at >= before:
                continue
            if not is_historical(metric.kind, metric.name, historical):
                self.fates[place] = Fate.EXPIRED
                gone += 1
        return gone

    def discard(self) -> int:
        """Lets go of the points; how many of them were due. The run stays."""
        due = self.waiting
        self.samples, self.fates = (), {}
        return due
