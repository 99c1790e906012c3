"""Changes of check states as Datadog events: one each, at most ten an hour, then one that says how many were held back."""

from collections.abc import Callable, Mapping
from datetime import timedelta

from service.datadog.intake import Intake
from service.pipeline.clock import Clock
from service.pipeline.job import Job
from service.store import Store


class Notifier:
    """``jobs``: gives the configured ones. ``interval``: between looks at states, because values grow old between runs.

    ``page_url``: the address that events link to. ``is_silent``: shadow mode: states are noted, nothing is sent.
    """

    def __init__(
        self,
        jobs: Callable[[], Mapping[str, Job]],
        store: Store,
        intake: Intake,
        clock: Clock,
        *,
        interval: timedelta,
        page_url: str | None = None,
    ) -> None:
        self.is_silent = False
        raise NotImplementedError

    def check_soon(self, collector: str) -> None:
        """A run of ``collector`` ended. Before its first one nothing is said of it: a value that grew old while the
        daemon was down is no news."""

    async def run(self) -> None:
        """Until cancelled; what is pending from an earlier process goes first."""
