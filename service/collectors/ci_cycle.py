"""One cycle of one repository: what it may do, what it has found out so far, and what it could not."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from service.adapters.github_budget import Tally
from service.collectors.ci_ask import Failure
from service.collectors.ci_latest import LatestRuns
from service.collectors.ci_memory import Remembered
from service.collectors.ci_metrics import Finding
from service.collectors.ci_runs import Run
from service.collectors.ci_workflows import Workflow
from service.domain.errors import HealthError, Rejected, Unavailable
from service.domain.runs import Fault


@dataclass(frozen=True, slots=True)
class Filling:
    """What a cycle may do beyond its numbers.

    ``sweep``: seconds of the first sweep. For the week of jobs: ``cold`` requests in all at a cold start, where none is
    begun ``seconds`` after the cycle's start, and ``later`` requests in the cycles after it, until the week is whole.
    ``is_eager``: whether a steady cycle reads older runs before they are due, within its limits.
    """

    sweep: float = math.inf
    cold: int = 850
    later: int = 600
    seconds: float = 4.0
    is_eager: bool = True


@dataclass(slots=True)
class Cycle:
    """One collect. ``known`` is this cycle's copy of the memory; ``is_read``: the window's runs are in it.

    ``is_cold``: it began without all runs that matter. ``is_thin``: the least urgent questions must wait.
    ``latest``: the workflows' latest runs. ``verdicts``: whether runs failed at first, by id.
    ``ended``: earlier attempts that the list did not show. ``limits_trouble``: why jobs were not looked into.
    """

    now: datetime
    known: Remembered
    filling: Filling
    is_thin: bool
    spent: Tally
    is_cold: bool = False
    is_read: bool = False
    are_pulls_told: bool = False
    started: float = field(default_factory=anyio.current_time)
    listed: list[Workflow] | None = None
    latest: LatestRuns | None = None
    verdicts: dict[int, bool | Failure] = field(default_factory=dict)
    ended: list[Run] = field(default_factory=list)
    limits_trouble: Failure | None = None
    findings: list[Finding] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: list[HealthError] = field(default_factory=list)

    def miss(self, part: str, error: Failure) -> None:
        self.errors.append(error)
        self.faults.append(Fault(str(error), part))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What GitHub does not answer is missing, and the other parts go on."""
        try:
            yield
        except (Unavailable, Rejected) as error:
            self.miss(name, error)
