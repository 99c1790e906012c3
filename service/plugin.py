"""All that a collector of another package may import.

Its distribution names the class in the entry-point group ``infra_health.collectors``; docs/collectors.md shows one.
"""

from service.collectors.registry import CollectorState, CollectorType, Context
from service.config.masking import redact
from service.config.secrets import Secret
from service.config.settings import CollectorSettings, Section
from service.domain.errors import (
    ConfigError,
    HealthError,
    Rejected,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unexpected,
    Unfinished,
)
from service.domain.runs import Collector, CollectResult, NoData, PartialFailure
from service.domain.samples import Evidence, Kind, Metric, Rule, Sample, Status

__all__ = [
    "CollectResult",
    "Collector",
    "CollectorSettings",
    "CollectorState",
    "CollectorType",
    "ConfigError",
    "Context",
    "Evidence",
    "HealthError",
    "Kind",
    "Metric",
    "NoData",
    "PartialFailure",
    "Rejected",
    "Rule",
    "Sample",
    "Secret",
    "Section",
    "Status",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unexpected",
    "Unfinished",
    "redact",
]
