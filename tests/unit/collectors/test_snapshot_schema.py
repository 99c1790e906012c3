"""The published JSON Schema and the reader say the same of a snapshot, by another validator's judgement."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from service.collectors.snapshot_content import Limits
from service.collectors.snapshot_records import LONGEST_NAMESPACE
from service.collectors.snapshot_schema import schema
from service.collectors.snapshot_validation import refuse_bad
from service.domain.errors import HealthError

NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
TEXT = some.text(some.characters(exclude_categories=["Cs"]), max_size=4)  # no halves of surrogate pairs
SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | TEXT
ANYTHING = some.recursive(
    SCALARS, lambda inner: some.lists(inner, max_size=2) | some.dictionaries(TEXT, inner), max_leaves=3
)
LONG = some.integers(170, 205).map(lambda count: "m" * count)
METRICS = some.sampled_from(["reward", "metta.x", "metta.", "metta", ".", "x\n", "a-b", "é", ""])
FIELDS: dict[str, some.SearchStrategy[Any]] = {
    "metric": METRICS | LONG | LONG.map("metta.{}".format),
    "workflow_name": some.sampled_from(["arena", " ", "\n", "\x1f", "\x85", "a\n"]),
    "task": TEXT,
    "check": TEXT,
    "condition": some.sampled_from(["> 0.5", "none", ""]),
    "value": some.integers(-(10**320), 10**320) | some.sampled_from([0, -0.0, 1e308, 10**308, 10**309]),
    "status": some.sampled_from(["pass", "fail", "unknown", "PASS", "", None]),
    "metric_kind": some.sampled_from(["gauge", "count", "distribution", "rate", None]),
    "timestamp": some.sampled_from(["2025-01-14T15:00:00Z", "2025-01-14T15:00:00", None]),
    "tags": some.dictionaries(TEXT, TEXT | SCALARS, max_size=2) | some.none(),
    "more": ANYTHING,
}
NOT_TEXT = ANYTHING.filter(lambda value: not isinstance(value, str))
VALID = {"metric": "reward", "workflow_name": "w", "task": "t", "check": "c", "condition": "> 0.5", "value": 0.9}


@some.composite
def records(draw: some.DrawFn) -> Any:
    """A valid one with up to two fields changed or left out, or something else altogether."""
    if draw(some.integers(0, 19)) == 0:
        return draw(ANYTHING)
    record: dict[str, Any] = dict(VALID)
    for name in draw(some.lists(some.sampled_from(sorted(FIELDS)), max_size=2)):
        match draw(some.integers(0, 4)):
            case 0:
                record.pop(name, None)
            case 1:
                record[name] = draw(NOT_TEXT)
            case _:
                record[name] = draw(FIELDS[name])
    return record


LISTS = some.lists(records(), max_size=2)
SNAPSHOTS = LISTS | LISTS.map(lambda some: {"records": some, "suite": "x"}) | NOT_TEXT.map(lambda it: {"records": it})


@given(SNAPSHOTS)
@example([VALID | {"metric": "x\n"}])
@example([VALID | {"metric": "m" * 177}])
@example([VALID | {"value": 10**309}])
@example([])
@example({})
def test_what_the_schema_accepts_the_reader_takes_and_nothing_else(snapshot: Any) -> None:
    body = json.dumps(snapshot).encode()
    try:
        refuse_bad(body, "it", NOW, Limits(), LONGEST_NAMESPACE)
        refusal = None
    except HealthError as error:
        refusal = str(error)
    errors = [error.message for error in Draft202012Validator(schema()).iter_errors(json.loads(body))]
    assert (refusal is None) == (not errors), (refusal, errors)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())
