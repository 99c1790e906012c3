"""What Datadog has of a metric, through the official client. Blocking: call it in a thread.

https://docs.datadoghq.com/api/latest/metrics/#query-timeseries-points
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from service.adapters.datadog_client import asked, client
from service.domain.errors import Unavailable
from service.domain.naming import kept

# The largest value of each minute: a count is not turned into a rate, and a second series of a flip does not halve it.
_ROLL_UP = ".rollup(max, 60)"


@dataclass(frozen=True, slots=True)
class Queried:
    """One series of an answer: its tags, and its points (aware, in order) without holes."""

    tags: Mapping[str, str]
    points: Sequence[tuple[datetime, float]]


class DatadogQueries:
    """Datadog's API at the base address ``url``. ``query`` raises HealthError."""

    def __init__(self, url: str, api_key: str, app_key: str) -> None:
        from datadog_api_client.v1.api.metrics_api import MetricsApi

        self._client = client(url, api_key, app_key)
        self._metrics = MetricsApi(self._client)
        self._ask = partial(asked, host=urlsplit(url).netloc, secrets=(api_key, app_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def query(self, metric: str, env: str, by: Iterable[str], since: datetime, until: datetime) -> list[Queried]:
        """The series of ``metric`` in ``env``, one for each combination of the tags ``by``."""
        within = kept("env", env)
        text = f"max:{metric}{{{within}}} by {{{','.join(by)}}}{_ROLL_UP}"
        answer = self._ask(self._metrics.query_metrics, int(since.timestamp()), int(until.timestamp()), text)
        try:
            if answer.get("status", "ok") != "ok":
                raise Unavailable(f"Datadog could not answer the query of {metric}: {answer.get('error')}")
            return [_series(row) for row in answer.get("series") or ()]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"Datadog's answer to the query of {metric} is none: {error!r}") from error


def _series(row: Mapping[str, Any]) -> Queried:
    tags = (tag.partition(":") for tag in row.get("tag_set") or ())
    points = [
        (datetime.fromtimestamp(float(at) / 1000, UTC), float(value))
        for at, value in row["pointlist"]
        if value is not None
    ]
    return Queried({name: value for name, _, value in tags if value and value != "N/A"}, sorted(points))
