"""What Datadog is told of each metric: type, unit, meaning; and percentiles where the metric is a distribution."""

from typing import Any

from service.boards.subjects import Catalogue
from service.domain.samples import Metric


def metadata(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """By the metric's name; ``tags`` is the tag configuration, only of distributions.

    Percentiles are billed by each queryable combination of tags, so only the few that are asked for are queryable.
    """
    found = {metric.name: _facts(metric) for metric in catalogue.metrics}
    for spread in catalogue.spreads:
        found[spread.metric.name]["tags"] = {
            "metric_type": "distribution",
            "include_percentiles": True,
            "tags": sorted(spread.tags),
        }
    return found


def _facts(metric: Metric) -> dict[str, Any]:
    facts = {"type": metric.kind.value, "description": metric.help or f"{metric.name}, from snapshot records"}
    return {"metadata": facts | ({"unit": metric.unit} if metric.unit else {})}
