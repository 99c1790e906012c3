"""Runs a collector in a test of its own package: against a fake clock, without a daemon and without Datadog.

stage = Stage(Queue, {"url": "https://queue.example"}, answer=lambda request: httpx.Response(200, json={"jobs": 7}))
brought = anyio.run(stage.run)
assert [sample.value for sample in brought.samples] == [7]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httpx

from service.collectors.registry import CollectorState, Context
from service.config.secrets import from_environment
from service.domain.checks import Check
from service.domain.runs import PartialFailure
from service.domain.samples import Sample
from service.pipeline.enrich import enrich
from service.pipeline.job import Job

if TYPE_CHECKING:
    from service.store.states import Push

__all__ = ["Brought", "Stage"]


@dataclass(frozen=True, slots=True)
class Brought:
    """``samples`` as they would be sent, with the required tags; ``checks``: all of the collector's after the run."""

    samples: Sequence[Sample]
    failures: Sequence[PartialFailure]
    checks: Sequence[Check]


class Stage:
    """One collector from run to run, with its state in between. ``now``: its clock, which only ``advance`` moves.

    ``collector_type``: the class that the entry point names. ``settings``: as in config.yaml; type and schedule are
    filled in. ``answer``: what ``context.http`` is answered. ``environ``: where ``context.secret`` looks.
    Raises pydantic.ValidationError where a setting is wrong.
    """

    def __init__(
        self,
        collector_type: Any,
        settings: Mapping[str, Any],
        *,
        name: str = "test",
        now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC),
        answer: Callable[[httpx.Request], httpx.Response] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.now = now
        self.state = _MemoryState()
        self._type, self._name, self._answer, self._environ = collector_type, name, answer or _refuse, environ or {}
        self._settings = collector_type.Settings.model_validate({"type": name, "schedule": "@hourly", **settings})
        self._checks: Sequence[Check] = ()

    def advance(self, **time: float) -> None:
        """Moves the clock on: ``advance(minutes=10)``."""
        self.now += timedelta(**time)

    async def run(self) -> Brought:
        """One run of a new collector, as after a restart. Raises HealthError as the daemon would see it."""
        own, environ = CollectorState(self.state, self._name), self._environ
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._answer)) as http:
            secret = partial(from_environment, environ=environ)
            context = Context(self._name, cast("Any", None), http, own, secret, environ)
            job = Job(self._name, self._type(self._settings, context), self._settings, env="test")
            result = await job.collect(self.now)
        enriched = enrich(job, result, self._checks, self.now)
        self._checks = enriched.checks
        self.state.values.update(result.state)
        return Brought(enriched.samples, (*result.failures, *enriched.errors), enriched.checks)


class _MemoryState:
    """A collector's state by key, as its last run left it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes | None] = {}

    async def read(self, collector: str, key: str) -> tuple[bytes | None, int]:
        return self.values.get(key), 0

    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> None:
        raise NotImplementedError("a stage takes no pushes")

    async def pushes(self, collector: str) -> Sequence["Push"]:
        return ()


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody answers here: give the stage an answer")
