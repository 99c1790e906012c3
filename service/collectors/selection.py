"""Which records become samples, and as of when. Pure; large snapshots take CPU time.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType

from service.collectors.records import TEXTS, BadRecord, Baseline, Item, Record
from service.collectors.thresholds import Thresholds, find_threshold
from service.config.masking import redact
from service.domain import conditions
from service.domain.checks import CheckKey, find_condition, measured_key, path_of
from service.domain.errors import Rejected
from service.domain.runs import NoData, PartialFailure
from service.domain.samples import (
    CHECK_TAGS,
    MAX_POINT_AGE,
    REQUIRED_TAGS,
    Evidence,
    Kind,
    Metric,
    Rule,
    Sample,
    Status,
    normalize_tag_name,
)

# The outbox expires what is older than MAX_POINT_AGE; a gauge that waits for its delivery needs some of it.
MAX_GAUGE_AGE = timedelta(minutes=45)
_MAX_SUMMARY = 500  # characters
_VERDICTS = frozenset(Status)
_MAX_SENT = 200_000  # events that are remembered
_KEPT_NAME = "metta."  # a metric of the whole project has no namespace before it


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of a collector have in common: tags, and the namespace of their metrics."""

    category: str
    namespace: str
    source: str


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot as it was published ``at``.

    ``name``: for messages. ``version`` tells one publication from another, for counts and distributions without a time;
    empty where none comes twice.
    A gauge without a time was measured at ``at``, and is sent as of the run: it says that its value is still true.
    """

    name: str
    version: str
    at: datetime


@dataclass(slots=True)
class Selection:
    """What became of the records of one publication.

    ``no_data``: checks whose value is too old. ``events``: identity and second of each count and distribution.
    ``usable``: how many records are sent or were sent before. ``brought``: the checks that the records are of, by their
    joined names, where these are asked for.
    """

    samples: list[Sample] = field(default_factory=list)
    no_data: list[NoData] = field(default_factory=list)
    failures: list[PartialFailure] = field(default_factory=list)
    events: dict[bytes, int] = field(default_factory=dict)
    usable: int = 0
    brought: dict[str, set[CheckKey]] = field(default_factory=dict)


def to_samples(
    records: Iterable[Item | BadRecord],
    publication: Publication,
    origin: Origin,
    now: datetime,
    max_age: timedelta,
    sent: Mapping[bytes, int],
    *,
    thresholds: Thresholds = MappingProxyType({}),
    with_names: bool = False,
) -> Selection:
    """The samples of the records of ``read_records``. ``sent``: the events of earlier runs and publications.
    ``thresholds``: in place of what records say.

    Raises Rejected when no record is usable, and whatever reading ``records`` raises.
    """
    found, positions, position = Selection(), dict[bytes, int](), 0
    for position, record in enumerate(records, 1):
        if isinstance(record, BadRecord):
            found.failures.append(PartialFailure(str(record), f"record {position}"))
            continue
        found.failures += find_refused_tags(record, position)
        tags = _tags_of(record, origin)
        kind = (record.metric_kind if isinstance(record, Record) else record.kind) or Kind.GAUGE
        rule, judged_by = _find_rule(record, tags), tags
        if with_names and kind is not Kind.DISTRIBUTION and (key := measured_key(record.metric, tags)):
            found.brought.setdefault(path_of(key), set()).add(key)
            if threshold := find_threshold(path_of(key), thresholds):
                judged_by = {**tags, "condition": threshold.condition}
                judged_by.pop("status", None)
                rule = threshold.make_rule()
        at, measured_at, reason = record.at or min(publication.at, now), None, ""
        age = now - at
        if kind is Kind.GAUGE:
            if age > max_age:
                found.no_data.append(NoData(judged_by, f"its value is older than {_format_span(max_age)}"))
                reason = f"it is {_format_span(age)} old, older than max_age ({_format_span(max_age)})"
            elif record.at is None or age > MAX_GAUGE_AGE:
                at, measured_at = now, at
        else:
            event, limit = _identify(record, tags, publication.version), min(MAX_POINT_AGE, max_age)
            if event in positions:
                reason = f"metric, tags and timestamp are those of record {positions[event]}"
            elif event not in sent and age > limit:
                reason = f"it is {_format_span(age)} old, and a {kind.value} can't be sent after {_format_span(limit)}"
            elif record.at or publication.version:
                found.events[event] = int(at.timestamp())
            positions.setdefault(event, position)
            if event in sent and not reason:
                found.usable += 1
                continue
        if reason:
            found.failures.append(PartialFailure(reason, f"record {position}"))
        else:
            found.usable += 1
            metric = _metric(record.metric, origin.namespace, kind)
            evidence = _find_evidence(record, tags, measured_at or at)
            summary = _shorten(record.message or "")
            found.samples.append(
                Sample(metric, record.value, at, judged_by, measured_at, None, evidence, summary, rule)
            )
    if not position:
        raise Rejected(f"{publication.name} holds no record")
    if not found.usable:
        more = f"; and {len(found.failures) - 3:,} more" if len(found.failures) > 3 else ""
        shown = "; ".join(map(str, found.failures[:3]))
        raise Rejected(f"{publication.name}: no usable record among {position:,}: {shown}{more}")
    found.samples = drop_overtaken(found.samples)
    return found


def drop_overtaken(samples: list[Sample]) -> list[Sample]:
    """``samples`` without gauges that would overwrite a newer value of their series by being sent as of now."""
    newest: dict[object, datetime] = {}
    if any(sample.measured_at for sample in samples):
        for sample in samples:
            newest[_series(sample)] = max(newest.get(_series(sample), sample.measured), sample.measured)
    return [each for each in samples if not each.measured_at or each.measured_at == newest[_series(each)]]


def remember(sent: Mapping[bytes, int], events: Mapping[bytes, int], oldest: datetime) -> dict[bytes, int]:
    """What the next run must know: ``events`` of now, and of ``sent`` those since ``oldest``, which may come again."""
    kept = {event: second for event, second in sent.items() if second >= oldest.timestamp()} | dict(events)
    return dict(sorted(kept.items(), key=lambda item: item[1])[-_MAX_SENT:]) if len(kept) > _MAX_SENT else kept


def find_refused_tags(record: Item, position: int) -> Iterator[PartialFailure]:
    """What is said of a record's tags that name required ones."""
    for tag in filter(_is_required, record.tags or ()) if isinstance(record, Record) else ():
        reason = f"tag {tag!a} is set by the daemon; the record's own is left out"
        yield PartialFailure(reason, f"record {position}")


@lru_cache(maxsize=4096)
def _is_required(tag: str) -> bool:
    """Whether Datadog would read this tag of a record as one that the daemon sets itself."""
    return normalize_tag_name(tag) in REQUIRED_TAGS


def _series(sample: Sample) -> object:
    return sample.metric, frozenset(tag for tag in sample.tags.items() if tag[0] not in ("status", "condition"))


def _tags_of(record: Item, origin: Origin) -> dict[str, str]:
    own, tags = record.tags or {}, {"source": origin.source}
    if isinstance(record, Record):
        tags |= {"workflow_category": origin.category} | {name: getattr(record, name) for name in TEXTS}
        tags |= {"status": record.status.value} if record.status else {}
        return tags | {name: value for name, value in own.items() if not _is_required(name)}
    # Only what measures a check has a category.
    is_check = all(name in own for name in CHECK_TAGS[1:])
    return tags | ({"workflow_category": origin.category} if is_check else {}) | own


def _find_evidence(record: Item, tags: Mapping[str, str], at: datetime) -> tuple[Evidence, ...]:
    """What the record says is behind its value, under the name of what measured it."""
    if not (record.url or record.commit or record.owner):
        return ()
    title = tags.get("workflow_name") or tags.get("job") or record.metric
    url, commit, owner = (redact(each or "") for each in (record.url, record.commit, record.owner))
    return (Evidence(title, url, at, commit=commit.strip(), author=owner.strip()),)


def _find_rule(record: Item, tags: Mapping[str, str]) -> Rule | None:
    """By which the daemon judges it; None where a status has the verdict already, or the condition alone gives one."""
    if tags.get("status") in _VERDICTS:
        return None
    baseline, fail_after = (record.baseline, record.for_) if isinstance(record, Record) else (None, None)
    if not fail_after and not conditions.is_relative(find_condition(tags)):
        return None
    baseline = baseline or Baseline()
    return Rule(int(baseline.last), int(baseline.skip), fail_after=int(fail_after or 1))


def _shorten(text: str) -> str:
    """Anybody's text on one line, without secrets."""
    text = " ".join(redact(text).split())
    return text if len(text) <= _MAX_SUMMARY else f"{text[: _MAX_SUMMARY - 1]}…"


@lru_cache(maxsize=4096)
def _metric(name: str, namespace: str, kind: Kind) -> Metric:
    return Metric(name if not namespace or name.startswith(_KEPT_NAME) else f"{namespace}.{name}", kind)


def _identify(record: Item, tags: Mapping[str, str], version: str) -> bytes:
    time = record.at.isoformat() if record.at else f"published {version}"
    parts = [record.metric, time, *(part for item in sorted(tags.items()) for part in item)]
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _format_span(span: timedelta) -> str:
    """As 45 min, 3.5 h, 12 days."""
    minutes = span.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.3g} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"
