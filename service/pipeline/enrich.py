"""What a run's samples become before they are stored: required tags, checks with their stable series, own metrics.

Pure and without a clock, so that the work on many samples can be done in a thread.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.domain.checks import Check
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric, Sample
from service.pipeline.job import Job

# Of more checks than this the series follow in transactions of their own, right after the run.
MANY_CHECKS = 1_000


@dataclass(frozen=True, slots=True)
class Enriched:
    """``samples``: the collected ones, ``series``: those of the checks. ``errors``: metrics with samples left out."""

    samples: list[Sample]
    series: list[Sample]
    checks: list[Check]
    errors: list[PartialFailure]


def enrich(job: Job, result: CollectResult, known_checks: Iterable[Check], now: datetime) -> Enriched:
    """``result`` as it is stored, and the job's checks after it."""
    raise NotImplementedError


def prepare_samples(job: Job, samples: Iterable[Sample], now: datetime) -> tuple[list[Sample], list[PartialFailure]]:
    """The collected samples as they are sent, and a failure for each metric and reason for which some can't be."""
    raise NotImplementedError


def own_samples(job: Job, values: Mapping[Metric, float], now: datetime) -> list[Sample]:
    """The collector's health: ``values``, and what the collector itself says of it (``own_values``)."""
    raise NotImplementedError
