"""Training and evaluation health from snapshots: from the collector's source or pushed; the newest one counts."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog

from service.collectors.records import MAX_FAILURES, check_snapshot
from service.collectors.registry import Context
from service.collectors.selection import Publication, Selection
from service.collectors.snapshot.settings import ORIGINS, VARIABLES, SnapshotSettings
from service.collectors.snapshot.sources import FORMS, Content, Source, open_source
from service.domain.errors import ConfigError, HealthError, Rejected, Unavailable, Unfinished
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric

if TYPE_CHECKING:  # SQLAlchemy is loaded where a store is used
    from service.store.states import Push

log = structlog.get_logger(__name__)
T = TypeVar("T")

SNAPSHOT_AGE = Metric(
    "metta.infra.collector.snapshot_age", unit="second", help="Time since the snapshot that was read last was published"
)
STATE = "snapshot"
# A file that is written in place is whole by then, or its writer is gone.
HALF_WRITTEN_PAUSE = 1.0
# Two clocks, and dates of whole seconds: so much later than it was first seen is published anew.
_CLOCK_TOLERANCE = timedelta(minutes=1)
_MAX_KEPT = 8 * 1024 * 1024  # bytes of a snapshot that is kept in memory for when its source says that it still holds


class State(msgspec.Struct):
    """What the next run must know. ``sent``: identity and second of the counts and distributions that were sent.

    ``seen``: version of the content that the source held last where it does not tell when that was published, and
    when it was first seen.
    """

    sent: dict[bytes, int] = {}
    seen: tuple[str, datetime] | None = None


class Snapshot:
    """Collects the records of one snapshot. Its metrics are the records' own, so there is no catalogue of them."""

    Settings = SnapshotSettings
    metrics: tuple[Metric, ...] = ()
    own_metrics: tuple[Metric, ...] = (SNAPSHOT_AGE,)

    def __init__(self, settings: SnapshotSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        token = context.secret(settings.token_env) if settings.token_env else None
        self._source: Source | None = None
        if settings.source:
            self._source = open_source(settings.source, settings.max_bytes, token)
        self._seen: tuple[str, datetime] | None = None
        self._state = State()
        self._last: Content | None = None  # what the source held
        self._published: datetime | None = None
        self._has_push = False

    @property
    def waits_for(self) -> str | None:
        """Without a source there is nothing to read until something was pushed."""
        return None if self._source or self._has_push else "waiting for a first push"

    async def load(self) -> bool:
        """Reads whether anything was pushed; whether something was that no run has read. Raises Unavailable."""
        pushes = await self._context.state.pushes()
        self._has_push = bool(pushes)
        return any(not push.is_read for push in pushes)

    async def accept(self, body: bytes, key: str, now: datetime) -> None:
        """Keeps a pushed snapshot for the next run.

        ``key`` tells one publication from another; a push that is repeated comes with the same.
        Raises InvalidSnapshot when a record is bad, Unfinished, TooLarge or Rejected when it is no snapshot,
        Unavailable when too many wait for a run.
        """
        limits = self._settings.max_bytes, self._settings.max_records
        await _in_thread(partial(check_snapshot, body, "the pushed snapshot", now, *limits))
        packed = await _in_thread(partial(zlib.compress, body, 1))
        await self._context.state.add_push(key, packed, now, max_bytes=self._settings.max_bytes)
        self._has_push = True

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        """The age of the snapshot that was read last, whatever came of it; nothing before one was read."""
        return {SNAPSHOT_AGE: max(0.0, (now - self._published).total_seconds())} if self._published else {}

    async def collect(self, now: datetime) -> CollectResult:
        """A sample of each usable record, a failure for each other one.

        Raises Rejected when no record is usable or the file is no snapshot, ConfigError when there is neither source
        nor push, and what ``Source.read`` raises.
        """
        try:
            return await self._collect(now, is_last_look=False)
        except Unfinished as error:
            log.info("the snapshot may be half-written: one more look", reason=str(error))
            self._last = None
            await anyio.sleep(HALF_WRITTEN_PAUSE)
            return await self._collect(now, is_last_look=True)

    async def _collect(self, now: datetime, is_last_look: bool) -> CollectResult:
        from service.store.states import READ_PUSH

        before = self._state = await self._read_state()
        pushes = await self._read_pushes()
        failures: list[PartialFailure] = []
        published: Publication | None = None
        if self._source:
            try:
                published = await self._read_source(self._source, now)
            except HealthError as error:
                if not pushes or (isinstance(error, Unfinished) and not is_last_look):
                    raise
                failures.append(PartialFailure(f"{error}; the pushed snapshot is used", "source"))
        # Of the pushes that no run has read none may be lost: a count is in one of them only.
        queue: list[Publication | Push] = [push for push in pushes if not push.is_read]
        if published and (not pushes or published.at >= pushes[-1].at):
            queue.append(published)
        elif not queue:
            queue.append(pushes[-1])
        self._published = queue[-1].at
        selection = Selection(ORIGINS[self._settings.category], now, self._settings.max_age, before.sent)
        for each in queue:
            try:
                await _in_thread(partial(self._add, selection, each))
            except Rejected as error:
                may_be_mended = isinstance(error, Unfinished) and not is_last_look
                if may_be_mended or (each is queue[-1] and not selection.usable):
                    raise
                failures.append(PartialFailure(str(error)))
        self._state, encoded = await _in_thread(partial(self._encode_state, before, selection))
        state: dict[str, bytes | None] = {STATE: encoded} if self._state != before else {}
        if pushes and not pushes[-1].is_read:
            state[READ_PUSH] = str(pushes[-1].id).encode()
        return CollectResult(
            samples=tuple(selection.samples),
            failures=(*failures, *selection.failures[:MAX_FAILURES]),
            no_data=tuple(selection.no_data),
            state=state,
            skipped=len(selection.failures) + len(failures),
        )

    async def _read_state(self) -> State:
        try:
            stored = await self._context.state.read(STATE)
        except Unavailable:  # then what this process knows has to do
            return self._state
        try:
            return await _in_thread(partial(msgspec.msgpack.decode, stored, type=State)) if stored else State()
        except msgspec.MsgspecError as error:
            log.warning("the collector's state can't be read any more: it begins anew", reason=str(error))
            return State()

    async def _read_pushes(self) -> Sequence["Push"]:
        try:
            pushes = await self._context.state.pushes()
        except Unavailable:
            if self._source is None:
                raise
            return ()
        self._has_push = bool(pushes)
        if self._source is None and not pushes:
            raise ConfigError(
                f"no snapshot to read: set collectors.{self._context.name}.source or"
                f" {VARIABLES[self._settings.category]} to {FORMS}; or push one with `infra-health publish FILE --to"
                f" http://DAEMON/api/v1/collectors/{self._context.name}/snapshots`"
            )
        return pushes

    async def _read_source(self, source: Source, now: datetime) -> Publication:
        content = await source.read(self._context.http, self._last)
        self._last = content if content.validator and len(content.body) <= _MAX_KEPT else None
        if not content.is_hashed:
            return Publication(content.body, content.name, content.version, content.published or now)
        # HTTP tells when it was published, or it was when it was first seen.
        known = [at for version, at in filter(None, (self._state.seen, self._seen)) if version == content.version]
        first = min(known, default=now)
        if content.published and content.published > first + _CLOCK_TOLERANCE:
            first = now
        self._seen = content.version, first
        return Publication(content.body, content.name, f"{content.version} {first}", content.published or first)

    def _add(self, selection: Selection, published: "Publication | Push") -> None:
        if not isinstance(published, Publication):
            body = zlib.decompress(published.body)
            published = Publication(body, "the pushed snapshot", f"pushed {published.key}", published.at)
        selection.add(published, self._settings.max_bytes, self._settings.max_records)

    def _encode_state(self, before: State, selection: Selection) -> tuple[State, bytes]:
        state = State(selection.all_sent(), self._seen or before.seen)
        return state, msgspec.msgpack.encode(state)


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
