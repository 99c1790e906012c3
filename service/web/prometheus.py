"""/metrics: what the daemon tells Prometheus of itself."""

from collections.abc import Iterable

from service.domain.delivery import DeliveryStatus
from service.domain.runs import Run


class Telemetry:
    """Counters and histograms that the daemon feeds as things happen; gauges are read at scrape time."""

    def __init__(self, version: str, commit: str) -> None:
        raise NotImplementedError

    def expect(self, collectors: Iterable[str]) -> None:
        """Lets the counters of these collectors begin at 0, so that the first failure already shows as an increase."""
        raise NotImplementedError

    def run_ended(self, run: Run) -> None:
        """Counts an ended run. Its lateness is the time from its slot to its start."""
        raise NotImplementedError

    def points(self, status: DeliveryStatus, count: int) -> None:
        """Counts points that were delivered or lost."""
        raise NotImplementedError
