"""Bodies as Datadog's endpoints take them; its own client's models are the judge."""

import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import zstandard
from datadog_api_client import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.distribution_points_payload import DistributionPointsPayload
from datadog_api_client.v2.model.metric_payload import MetricPayload

from service.datadog.payload import MAX_COMPRESSED, MAX_POINTS, MAX_RAW, Payload, encode
from service.domain.delivery import Chunk, Point
from service.domain.errors import TooLarge
from service.domain.runs import Mode
from service.domain.samples import Kind

NOW = 1_760_000_000
# The client is typed in parts only.
_judge: Any = validate_and_convert_types
_configuration: Any = Configuration


def point(value: float = 1.5, at: int = NOW, metric: str = "metta.a", tag: str = "env:test") -> Point:
    return Point(metric, value, at, (tag,), 0)


def chunk(points: Sequence[Point], kind: Kind = Kind.GAUGE) -> Chunk:
    return Chunk(1, "run", "ci", Mode.LIVE, kind, points, 0, NOW, NOW)


def text(payload: Payload) -> bytes:
    return zlib.decompress(payload.body) if payload.kind is Kind.DISTRIBUTION else zstandard.decompress(payload.body)


def series(*chunks: Chunk, prefix: str = "") -> list[dict[str, Any]]:
    payload = encode(chunks, prefix)
    found: list[dict[str, Any]] = json.loads(text(payload))["series"]
    model = DistributionPointsPayload if payload.kind is Kind.DISTRIBUTION else MetricPayload
    judged = _judge({"series": found}, (model,), ["body"], True, True, _configuration())
    assert isinstance(judged, model)
    assert not judged._unparsed
    return found


def test_gauges_and_counts_travel_in_one_body_with_one_value_a_second() -> None:
    """Of gauges the last one, of counts the sum; points of one series share an entry, also across chunks."""
    gauges = chunk([point(1, NOW - 60), point(2), point(tag="condition:< 5.0")])
    counts = chunk([Point("metta.c", value, NOW, (), 600) for value in (1, 2, 3)], Kind.COUNT)
    found = series(gauges, counts, chunk([point(3)]), prefix="shadow.")
    assert [tuple(each.values()) for each in found] == [
        ("shadow.metta.a", 3, [{"timestamp": NOW - 60, "value": 1}, {"timestamp": NOW, "value": 3}], ["env:test"]),
        ("shadow.metta.a", 3, [{"timestamp": NOW, "value": 1.5}], ["condition:< 5.0"]),
        ("shadow.metta.c", 1, [{"timestamp": NOW, "value": 6}], [], 600),
    ]


def test_distribution_values_of_one_second_travel_as_one_list() -> None:
    values = [point(0.5), point(1), point(9, NOW + 5), point(0.5)]
    assert [tuple(each.values()) for each in series(chunk(values, Kind.DISTRIBUTION))] == [
        ("metta.a", [[NOW, [0.5, 1.0, 0.5]], [NOW + 5, [9]]], ["env:test"], "distribution")
    ]


def test_numbers_arrive_exactly() -> None:
    values = [0.1 + 0.2, 1e300, -5e-324, 1e16, 0.0]
    (found,) = series(chunk([point(value, NOW + second) for second, value in enumerate(values)]))
    assert [each["value"] for each in found["points"]] == values


def noise(seed: int, length: int) -> str:
    return random.Random(seed).randbytes(length // 2).hex()


@pytest.mark.parametrize(
    ("metric", "tag"),
    [
        ("metta.a", lambda number: f"a:{noise(number, 180)}"),
        ("m" * 900, "a:{:0150}".format),
        ("metta.a", "a:{}".format),
    ],
    ids=["what compresses badly", "much JSON", "many points"],
)
def test_what_one_body_can_not_hold_travels_in_several_within_all_limits(
    metric: str, tag: Callable[[int], str]
) -> None:
    points = [point(metric=metric, tag=tag(number)) for number in range(MAX_POINTS + 1_000)]
    pending, bodies = [chunk(points[at : at + 1_000]) for at in range(0, len(points), 1_000)], 0
    while pending:
        payload = encode(pending)
        assert len(payload.body) <= MAX_COMPRESSED
        assert len(text(payload)) <= MAX_RAW
        assert [*payload.sent, *payload.rest] == pending
        assert len(payload.sent) <= 10
        pending, bodies = list(payload.rest), bodies + 1
    assert 2 <= bodies <= 6


@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
def test_a_chunk_that_is_too_large_alone_is_refused_before_it_is_sent(kind: Kind) -> None:
    for large in (f"a:{noise(1, 1_200_000)}", f"a:{'x' * MAX_RAW}"):
        with pytest.raises(TooLarge):
            encode([chunk([point(tag=large)], kind), chunk([point()], kind)])
