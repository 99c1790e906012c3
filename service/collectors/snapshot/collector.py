"""Training and evaluation health from snapshots: from the collector's source or pushed; the newest one counts."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog
from msgspec.structs import replace
from pydantic import AfterValidator, ByteSize, Field

from service.collectors.expectation import Entry, Seen
from service.collectors.records import MAX_BYTES, MAX_RECORDS, BadRecord, Item, Origin, read_records
from service.collectors.registry import Context
from service.collectors.selection import Publication, Selection
from service.collectors.snapshot.schema import check_snapshot
from service.collectors.snapshot.sources import FORMS, Place, parse_place, read_place
from service.collectors.thresholds import Threshold
from service.config.settings import Bytes, CollectorSettings, Text
from service.domain.errors import ConfigError, HealthError, Rejected, Unavailable, Unfinished
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric

if TYPE_CHECKING:  # SQLAlchemy is loaded where a store is used
    from service.store.states import Push

log = structlog.get_logger(__name__)

T = TypeVar("T")
Records = tuple[Publication, Iterable[Item | BadRecord]]

SNAPSHOT_AGE = Metric(
    "metta.infra.collector.snapshot_age", unit="second", help="Time since the snapshot that was read last was published"
)
ORIGINS = {
    "training": Origin("training", namespace="metta.infra.stablesuite", source="stable_suite"),
    "evaluation": Origin("evaluation", namespace="metta.infra.cron", source="cron"),
}
VARIABLES = {"training": "TRAINING_HEALTH_FILE", "evaluation": "EVAL_HEALTH_FILE"}
STATE = "snapshot"
_PUSHED = "the pushed snapshot"
# A file that is written in place is whole by then, or its writer is gone.
HALF_WRITTEN_PAUSE = 1.0
# Two clocks, and dates of whole seconds: so much later than it was first seen is published anew.
_CLOCK_TOLERANCE = timedelta(minutes=1)


def _check_source(address: str) -> str:
    try:
        parse_place(address)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return address


class SnapshotSettings(CollectorSettings):
    """``source``: where the snapshot is read from (``sources.FORMS``); without one it is pushed.

    ``token_env``: the variable that holds the bearer token of an http(s) source (NAME_FILE: a file that holds it).
    ``max_bytes`` (once inflated) and ``max_records`` bound what is read. ``expect``: checks that each snapshot has to
    bring (``expectation``). ``thresholds``: in place of what records say, by ``workflow_name/task/check`` or a pattern.
    """

    category: Literal["training", "evaluation"]
    source: Annotated[str, AfterValidator(_check_source)] | None = None
    token_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    expect: tuple[Entry, ...] = ()
    thresholds: dict[Text, Threshold] = Field(default_factory=dict)
    max_bytes: Annotated[Bytes, Field(gt=0)] = ByteSize(MAX_BYTES)
    max_records: Annotated[int, Field(gt=0)] = MAX_RECORDS

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """As the base class says; the category tells which variable names the source."""
        found = super().legacy_environment(values, environ)
        variable = VARIABLES.get(str(values.get("category", "")).strip())
        return found | {"source": environ[variable]} if variable and variable in environ else found


class State(msgspec.Struct, frozen=True):
    """What the next run must know. ``sent``: identity and second of the counts and distributions that were sent.

    ``seen``: hash of the content that a source whose times prove nothing held last, and when it was first seen.
    ``expected``: as ``find_missing`` has them.
    """

    sent: dict[bytes, int] = {}
    seen: tuple[str, datetime] | None = None
    expected: Seen = {}


class Snapshot:
    """Collects the records of one snapshot. Its metrics are the records' own, so there is no catalogue of them."""

    Settings = SnapshotSettings
    metrics: tuple[Metric, ...] = ()
    own_metrics: tuple[Metric, ...] = (SNAPSHOT_AGE,)
    carries_values = True

    def __init__(self, settings: SnapshotSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._source = parse_place(settings.source) if settings.source else None
        self._token = context.secret(settings.token_env) if settings.token_env else None
        self._bounds = (settings.max_bytes, settings.max_records)
        self._state = State()  # as it was read or written last
        self._has_pushes = False  # something was pushed, read or not
        self._published: datetime | None = None

    @property
    def waits_for(self) -> str | None:
        """Without a source there is nothing to read until something was pushed."""
        return None if self._source or self._has_pushes else "waiting for a first push"

    async def load(self) -> bool:
        """Reads whether anything was pushed; whether something was that no run has read. Raises Unavailable."""
        pushes = await self._context.state.pushes()
        self._has_pushes = bool(pushes)
        return any(not push.is_read for push in pushes)

    async def accept(self, body: bytes, key: str, now: datetime) -> None:
        """Keeps a pushed snapshot for the next run.

        ``key`` tells one publication from another; a push that is repeated comes with the same.
        Raises InvalidSnapshot when a record is bad, Unfinished, TooLarge or Rejected when it is no snapshot,
        Unavailable when too many wait for a run.
        """
        await _in_thread(partial(check_snapshot, body, _PUSHED, now, *self._bounds))
        packed = await _in_thread(partial(zlib.compress, body, 1))
        await self._context.state.add_push(key, packed, now, max_bytes=self._settings.max_bytes)
        self._has_pushes = True

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        """The age of the snapshot that was read last, whatever came of it; nothing before one was read."""
        return {SNAPSHOT_AGE: max(0.0, (now - self._published).total_seconds())} if self._published else {}

    async def collect(self, now: datetime) -> CollectResult:
        """A sample of each usable record, a failure for each other one.

        Raises Rejected when no record is usable or the file is no snapshot, ConfigError when there is neither source
        nor push, and what ``read_place`` raises.
        """
        from service.store.states import READ_PUSH

        settings = self._settings
        before = self._state = await self._context.state.read_struct(STATE, State, self._state)
        pushes = await self._find_pushes()
        origin, expect, thresholds = ORIGINS[settings.category], settings.expect, settings.thresholds
        selection = Selection(origin, now, settings.max_age, before.sent, expect, thresholds)
        # Of the pushes that no run has read none may be lost: a count is in one of them only.
        queue = [self._unpack(push, now) for push in pushes if not push.is_read]
        is_whole = False
        try:
            published = await self._read_source(self._source, now) if self._source else None
            if published and (not pushes or published[0].at >= pushes[-1].at):
                queue.append(published)
                is_whole = True
        except HealthError as error:
            if not pushes:
                raise
            selection.failures.append(PartialFailure(f"{error}; {_PUSHED} is used", "source"))
        queue = queue or [self._unpack(pushes[-1], now)]
        self._published = queue[-1][0].at
        has_all = await _in_thread(partial(_add_all, queue, selection))
        to_result = partial(selection.to_result, before.expected, "snapshot", is_whole=is_whole and has_all)
        result, expected = await _in_thread(to_result)
        self._state = State(selection.remember(), self._state.seen, expected)
        state: dict[str, bytes | None] = {}
        if self._state != before:
            state[STATE] = await _in_thread(partial(msgspec.msgpack.encode, self._state))
        if pushes and not pushes[-1].is_read:
            state[READ_PUSH] = str(pushes[-1].id).encode()
        return dataclasses.replace(result, state=state)

    async def _find_pushes(self) -> Sequence["Push"]:
        """Those that no run has read and the newest one, the oldest first; where there is a source perhaps none."""
        try:
            pushes = await self._context.state.pushes()
        except Unavailable:
            if self._source is None:
                raise
            return ()
        if self._source is None and not pushes:
            raise ConfigError(
                f"no snapshot to read: set collectors.{self._context.name}.source or"
                f" {VARIABLES[self._settings.category]} to {FORMS}; or push one with `infra-health publish FILE --to"
                f" http://DAEMON/api/v1/collectors/{self._context.name}/snapshots`"
            )
        return pushes

    def _unpack(self, push: "Push", now: datetime) -> Records:
        """What was pushed; it is read as it is asked for, which takes CPU time."""

        def read() -> Iterator[Item | BadRecord]:
            yield from read_records(zlib.decompress(push.body), _PUSHED, now, *self._bounds)

        return Publication(_PUSHED, f"pushed {push.key}", push.at), read()

    async def _read_source(self, place: Place, now: datetime) -> Records:
        try:
            return await self._look(place, now)
        except Unfinished as error:
            log.info("the snapshot may be half-written: one more look", reason=str(error))
            await anyio.sleep(HALF_WRITTEN_PAUSE)
            return await self._look(place, now)

    async def _look(self, place: Place, now: datetime) -> Records:
        content = await read_place(place, self._context.http, self._settings.max_bytes, self._token)
        records = await _in_thread(lambda: list(read_records(content.body, content.name, now, *self._bounds)))
        if not content.is_hashed:
            return Publication(content.name, content.version, content.published or now), records
        # HTTP tells when it was published, or it was when it was first seen (by a clock that may have been ahead).
        seen = self._state.seen
        first = min(seen[1], now) if seen and seen[0] == content.version else now
        if content.published and content.published > first + _CLOCK_TOLERANCE:
            first = now
        self._state = replace(self._state, seen=(content.version, first))
        return Publication(content.name, f"{content.version} {first}", content.published or first), records


def _add_all(queue: Iterable[Records], selection: Selection) -> bool:
    """Whether each publication had something usable. Raises Rejected where none had."""
    refusals: list[Rejected] = []
    is_any = False
    for publication, records in queue:
        try:
            selection.add(list(records), publication)
            is_any = True
        except Rejected as error:
            refusals.append(error)
    if not is_any:
        raise refusals[-1]
    selection.failures += [PartialFailure(str(refusal)) for refusal in refusals]
    return not refusals


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
