"""The heartbeat: the checks' stable series again between runs, so boards have no holes and silence means death."""

from collections.abc import Callable, Mapping
from datetime import timedelta

from service.pipeline.clock import Clock
from service.pipeline.job import Job
from service.store import Store


class Heartbeat:
    """``jobs``: gives the configured ones. ``on_stored``: there is something to send."""

    def __init__(
        self,
        jobs: Callable[[], Mapping[str, Job]],
        store: Store,
        clock: Clock,
        interval: timedelta,
        on_stored: Callable[[], None],
    ) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Every ``interval``, until cancelled."""
