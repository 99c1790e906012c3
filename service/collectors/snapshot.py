"""Training and evaluation health from snapshots: whatever a pipeline measured, as one JSON record per check.

A snapshot comes from the collector's source or is pushed to the daemon; the one that was published last counts.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import structlog
from pydantic import BeforeValidator, Field

from service.adapters import snapshots
from service.collectors import snapshot_pushes as pushes
from service.collectors.registry import Context
from service.collectors.snapshot_content import Limits
from service.collectors.snapshot_pushes import DONE, PUSHED, WAITING, Pushed, joined
from service.collectors.snapshot_samples import SENT, Category, Known, Publication, to_collected
from service.collectors.snapshot_validation import refuse_bad
from service.config import CollectorSettings
from service.config_values import byte_count
from service.domain import garbage
from service.domain.errors import ConfigError, HealthError, Rejected, Unavailable, Unfinished
from service.domain.runs import Collected, Fault
from service.domain.samples import Metric

log = structlog.get_logger(__name__)

SNAPSHOT_AGE = Metric(
    "metta.infra.collector.snapshot_age", unit="second", help="Time since the snapshot that was read last was published"
)
# A file that is written in place is whole by then, or its writer is gone.
HALF_WRITTEN_PAUSE = 1.0
_LARGE = 1024 * 1024  # bytes

_CATEGORIES = {
    "training": Category("training", namespace="metta.infra.stablesuite", source="stable_suite"),
    "evaluation": Category("evaluation", namespace="metta.infra.cron", source="cron"),
}
_VARIABLES = {"training": "TRAINING_HEALTH_FILE", "evaluation": "EVAL_HEALTH_FILE"}


class SnapshotSettings(CollectorSettings):
    """``source``: where the snapshot is read from (``snapshots.FORMS``).

    ``token_env``: the variable that holds the bearer token of an http(s) source (NAME_FILE: a file that holds it).
    ``max_bytes`` (once inflated), ``max_records`` and ``max_depth`` bound what is read.
    """

    category: Literal["training", "evaluation"]
    source: str | None = None
    token_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    max_bytes: Annotated[int, BeforeValidator(byte_count), Field(gt=0)] = Limits().size
    max_records: Annotated[int, Field(gt=0)] = Limits().records
    max_depth: Annotated[int, Field(gt=1, le=500)] = Limits().depth

    @property
    def limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_records, self.max_depth)

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """As the base class says; the category tells which variable names the source."""
        found = super().legacy_environment(values, environ)
        variable = _VARIABLES.get(str(values.get("category", "")).strip())
        return found | {"source": environ[variable]} if variable and variable in environ else found


class Snapshot:
    """Collects the records of one snapshot. Its metrics are the records' own, so there is no catalogue of them."""

    Settings = SnapshotSettings
    metrics: tuple[Metric, ...] = ()
    own_metrics: tuple[Metric, ...] = (SNAPSHOT_AGE,)

    def __init__(self, settings: SnapshotSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._known = Known()
        self._published: datetime | None = None
        self._seen: tuple[str, datetime] = (
            "",
            datetime.max.replace(tzinfo=UTC),
        )  # the source's version, and since when
        self._reader: snapshots.Reader | None = None
        if settings.source:
            token = context.secret(settings.token_env) if settings.token_env else None
            self._reader = snapshots.Reader(settings.source, context.http, longest=settings.max_bytes, token=token)

    async def collect(self, now: datetime) -> Collected:
        """A sample of each usable record, a fault for each other one.

        Raises Rejected when no record is usable or the file is no snapshot, ConfigError when no source is set, and what
        ``snapshots.read`` raises.
        """
        with suppress(Unavailable):  # while the store is lost, what this process knows has to do
            self._known.sent = await self._context.memory.read(SENT)
        try:
            return await self._collect(now)
        except Unfinished as error:
            log.info("the snapshot may be half-written: one more look", reason=str(error))
            if self._reader:
                self._reader.forget()
            await anyio.sleep(HALF_WRITTEN_PAUSE)
            return await self._collect(now)

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        """The age of the snapshot that was read last, whatever came of it; nothing before one was read."""
        return {SNAPSHOT_AGE: max(0.0, (now - self._published).total_seconds())} if self._published else {}

    async def accept(self, body: bytes, key: str, now: datetime) -> Mapping[str, bytes | None]:
        """What to remember of a pushed snapshot, for the next run to read it. One push at a time.

        ``key`` tells one publication from another; a push that is repeated comes with the same.
        Raises InvalidSnapshot when a record is bad, Unfinished, TooLarge or Rejected when it is no snapshot,
        Unavailable when too many wait already.
        """
        category = _CATEGORIES[self._settings.category]
        check = partial(refuse_bad, body, "the snapshot", now, self._settings.limits, category.namespace)
        await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
        packed = await anyio.to_thread.run_sync(pushes.pack, Pushed(key, now, body))
        return {WAITING: pushes.waiting(await self._unread(), key, self._settings.max_bytes), PUSHED: packed}

    async def is_due(self) -> bool:
        """Whether a snapshot was pushed that no run has read: the daemon ended first."""
        return bool(await self._unread())

    async def _unread(self) -> list[bytes]:
        read = self._context.memory.read
        return pushes.unread(await read(WAITING), await read(PUSHED), await read(DONE))

    async def _collect(self, now: datetime) -> Collected:
        pushed = await self._pushed()
        content, trouble = await self._newest(now, pushed)
        waiting: list[bytes] = []
        with suppress(Unavailable):
            waiting = await self._unread()
        if content.published:
            self._published = content.published
        earlier: list[Collected] = []
        faults: list[Fault] = [] if trouble is None else [trouble]
        for packed in waiting:  # unpacked one by one: each may be large
            each = await _content(packed)
            if each is None or each.version == content.version:
                continue
            try:
                earlier.append((await self._read(each, now))[0])
            except Rejected as error:  # too old by now; the newest one must not suffer for it
                faults.append(Fault(str(error), each.version))
        try:
            collected, newest = await self._read(content, now)
        except Rejected as error:
            if not earlier:
                raise
            collected, newest = Collected(faults=(Fault(str(error), content.name),), left_out=1), None
        self._published = content.published or newest
        if earlier:
            collected = joined([*earlier, collected])
        if pushed:
            collected = replace(collected, remember={**collected.remember, DONE: pushed.validator.encode()})
        return _partial(collected, faults) if faults else collected

    async def _read(self, content: snapshots.Content, now: datetime) -> tuple[Collected, datetime | None]:
        read = partial(
            to_collected,
            Publication(content.body, content.name, content.version, content.published),
            category=_CATEGORIES[self._settings.category],
            now=now,
            max_age=self._settings.max_age,
            known=self._known,
            limits=self._settings.limits,
        )
        with garbage.put_off() if len(content.body) > _LARGE else nullcontext():
            collected, newest = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        self._known.sent = collected.remember.get(SENT, self._known.sent)
        return collected, newest

    async def _newest(self, now: datetime, pushed: snapshots.Content | None) -> tuple[snapshots.Content, Fault | None]:
        """The snapshot that was published last, and what is wrong with the source beside a pushed one."""
        if self._reader is None:
            if pushed is None:
                raise ConfigError(
                    f"no snapshot to read: set collectors.{self._context.name}.source or"
                    f" {_VARIABLES[self._settings.category]} to {snapshots.FORMS}; or push one with `infra-health"
                    f" publish FILE --to http://DAEMON/api/v1/collectors/{self._context.name}/snapshots`"
                )
            return pushed, None
        try:
            content = await self._reader.read()
        except HealthError as error:
            if pushed is None or isinstance(error, Unfinished):
                raise
            return pushed, Fault(f"{error}; the pushed snapshot is used", "source")
        if self._seen[0] != content.version:
            self._seen = content.version, now
        # A source that does not say when it was published was so when it was first seen.
        is_older = pushed and pushed.published and (content.published or self._seen[1]) < pushed.published
        return (pushed, None) if pushed and is_older else (content, None)

    async def _pushed(self) -> snapshots.Content | None:
        stored: bytes | None = None
        with suppress(Unavailable):  # the source can be read without the store
            stored = await self._context.memory.read(PUSHED)
        return await _content(stored) if stored else None


async def _content(packed: bytes) -> snapshots.Content | None:
    pushed = await anyio.to_thread.run_sync(pushes.unpack, packed)
    if pushed is None:
        return None
    return snapshots.Content("the pushed snapshot", pushed.body, f"pushed {pushed.key}", pushed.at, pushed.key)


def _partial(collected: Collected, faults: Sequence[Fault]) -> Collected:
    return replace(collected, faults=(*faults, *collected.faults), left_out=collected.left_out + len(faults))
