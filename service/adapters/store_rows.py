"""How our values are written in the store's rows, and read back."""

import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import orjson

from service.domain.actions import Action
from service.domain.checks import Check, CheckKey
from service.domain.points import Fate, SeenSeries, StoredSample
from service.domain.runs import Cause, Fault, Outcome, Run, Slot
from service.domain.samples import Evidence, Kind, Status

Row = Sequence[Any]

_MOST_EVIDENCE = 50  # of a check; newest first, so the oldest go

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KINDS = {kind.value: kind for kind in Kind}
_FATES = {fate.value: fate for fate in Fate}

RUN_COLUMNS = "id, job, scheduled_at, cause, source, started, ended, attempts, outcome, faults, samples"
SERIES_COLUMNS = "id, metric, kind, interval, tags"
SAMPLE_COLUMNS = "metric, kind, value, at, tags, fate, reason, evidence.items"
CHECK_COLUMNS = "key, status, condition, since, value, measured_at, metric, evidence"
ACTION_COLUMNS = "time, what, target, source, actor, reason, run"


def micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def seconds(time: datetime) -> int:
    return int((time - _EPOCH) // timedelta(seconds=1))


def from_micros(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def from_seconds(value: int) -> datetime:
    return _EPOCH + timedelta(seconds=value)


def to_json(value: Sequence[Any]) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # A lone surrogate (JSON can carry one in a name) or a number too large for it must not cost the rest.
        return orjson.dumps(_clean(value)).decode()


def text(value: str) -> str:
    """``value`` as SQLite takes it, without lone surrogates."""
    return value if value.isascii() else value.encode(errors="replace").decode()


def _clean(value: Any) -> Any:
    match value:
        case str():
            return text(value)
        case dict():
            return {text(key): _clean(part) for key, part in value.items()}
        case list() | tuple():
            return [_clean(part) for part in value]
        case int() if value.bit_length() > 63:
            return str(value)
        case _:
            return value


def series_id(metric: str, kind: str, interval: int, tags: str) -> int:
    """A hash of the content. Among a million series two would meet in 64 bits once in 40 million stores."""
    digest = blake2b(f"{metric}\0{kind}\0{interval}\0{tags}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def to_series(row: Row) -> tuple[str, Kind, int, str]:
    """Metric, kind, interval, tags of a row of SERIES_COLUMNS."""
    _, metric, kind, interval, tags = row
    return metric, _KINDS[kind], interval, tags


def to_stored_sample(row: Row) -> StoredSample:
    metric, kind, value, at, tags, fate, reason, evidence = row
    return StoredSample(
        metric,
        _KINDS[kind],
        value,
        from_seconds(at),
        _named(tags),
        _FATES[fate],
        reason,
        unpack_evidence(evidence) if evidence else (),
    )


def to_seen_series(row: Row) -> SeenSeries:
    job, metric, kind, tags, last = row
    return SeenSeries(job, metric, _KINDS[kind], _named(tags), from_seconds(last))


def _named(tags: str) -> dict[str, str]:
    parts = (tag.partition(":") for tag in orjson.loads(tags))
    return {name: text for name, _, text in parts}


def from_run(run: Run) -> Row:
    """The values of RUN_COLUMNS."""
    slot = run.slot
    return (
        run.id,
        run.job,
        micros(slot.scheduled_at) if slot.scheduled_at else None,
        slot.cause.value,
        text(slot.source),
        micros(run.started),
        micros(run.ended) if run.ended else None,
        run.attempts,
        run.outcome.value if run.outcome else None,
        from_faults(run.faults),
        run.samples,
    )


def to_run(row: Row) -> Run:
    number, job, scheduled_at, cause, source, started, ended, attempts, outcome, faults, samples = row
    slot = Slot(job, None if scheduled_at is None else from_micros(scheduled_at), Cause(cause), source)
    return Run(
        number,
        slot,
        from_micros(started),
        None if ended is None else from_micros(ended),
        attempts,
        None if outcome is None else Outcome(outcome),
        to_faults(faults),
        samples,
    )


def from_faults(faults: Iterable[Fault]) -> str:
    return to_json([[fault.reason, fault.part] for fault in faults])


def to_faults(faults: str) -> tuple[Fault, ...]:
    return tuple(Fault(reason, part) for reason, part in orjson.loads(faults))


def from_check(check: Check) -> Row:
    """The values of CHECK_COLUMNS."""
    return (
        to_json(check.key),
        check.status.value,
        text(check.condition),
        micros(check.since),
        None if check.value is None else float(check.value),
        None if check.measured_at is None else micros(check.measured_at),
        text(check.metric),
        from_evidence(check.evidence[:_MOST_EVIDENCE]) if check.evidence else "[]",
    )


def to_check(row: Row) -> Check:
    key, status, condition, since, value, measured_at, metric, evidence = row
    pairs: CheckKey = tuple((name, text) for name, text in orjson.loads(key))
    measured = None if measured_at is None else from_micros(measured_at)
    return Check(pairs, Status(status), condition, from_micros(since), value, measured, metric, to_evidence(evidence))


def from_evidence(evidence: Iterable[Evidence]) -> str:
    return to_json(
        [[each.title, each.url, each.at and micros(each.at), each.conclusion, each.workflow] for each in evidence]
    )


def to_evidence(items: str | bytes) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(title, url, None if at is None else from_micros(at), conclusion, workflow)
        for title, url, at, conclusion, workflow in orjson.loads(items)
    )


def pack_evidence(evidence: Iterable[Evidence]) -> bytes:
    """A third of its text: addresses and names repeat."""
    return zlib.compress(from_evidence(evidence).encode())


def unpack_evidence(items: bytes) -> tuple[Evidence, ...]:
    return to_evidence(zlib.decompress(items))


def from_action(action: Action) -> Row:
    """The values of ACTION_COLUMNS."""
    named = (action.what, action.target, action.source, action.actor, action.reason, action.run)
    return (micros(action.time), *map(text, named))


def to_action(row: Row) -> Action:
    time, what, target, source, actor, reason, run = row
    return Action(from_micros(time), what, target, source, actor, reason, run)
