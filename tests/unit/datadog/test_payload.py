"""Bodies as Datadog's endpoints take them; its own client's models are the judge."""

import json
import random
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import zstandard
from datadog_api_client import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.distribution_points_payload import DistributionPointsPayload
from datadog_api_client.v2.model.metric_payload import MetricPayload

from service.datadog.payload import MAX_COMPRESSED, MAX_RAW, Payload, encode
from service.domain.delivery import Chunk, Point
from service.domain.errors import TooLarge
from service.domain.runs import Mode
from service.domain.samples import Kind

NOW = 1_760_000_000
# The client is typed in parts only.
_judge: Any = validate_and_convert_types
_configuration: Any = Configuration


def point(
    metric: str = "metta.a", value: float = 1.5, at: int = NOW, interval: int = 0, tag: str = "env:test"
) -> Point:
    return Point(metric, value, at, (tag,), interval)


def chunk(points: Sequence[Point], kind: Kind = Kind.GAUGE, number: int = 1, size: int = 0) -> Chunk:
    return Chunk(number, "run", "ci", Mode.LIVE, kind, points, size, NOW, NOW)


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


def test_gauges_and_counts_travel_in_one_body() -> None:
    gauges = chunk([point("metta.b", tag="condition:< 5.0")])
    counts = chunk([point("metta.a", 3, interval=600)], Kind.COUNT)
    assert series(gauges, counts) == [
        {
            "metric": "metta.b",
            "type": 3,
            "points": [{"timestamp": NOW, "value": 1.5}],
            "tags": ["condition:< 5.0"],
        },
        {
            "metric": "metta.a",
            "type": 1,
            "points": [{"timestamp": NOW, "value": 3}],
            "tags": ["env:test"],
            "interval": 600,
        },
    ]


def test_points_of_one_series_share_an_entry_also_across_chunks() -> None:
    first, second = chunk([point(at=NOW - 60), point("metta.b")]), chunk([point(at=NOW)], number=2)
    found = series(first, second)
    assert [(each["metric"], [one["timestamp"] for one in each["points"]]) for each in found] == [
        ("metta.a", [NOW - 60, NOW]),
        ("metta.b", [NOW]),
    ]


def test_of_gauges_of_one_second_the_last_is_sent_and_counts_are_summed() -> None:
    gauges, counts = (
        [point(value=value) for value in (1, 2, 3)],
        [point(value=value, interval=60) for value in (1, 2, 3)],
    )
    found = series(chunk(gauges), chunk(counts, Kind.COUNT))
    assert [each["points"] for each in found] == [[{"timestamp": NOW, "value": 3}], [{"timestamp": NOW, "value": 6}]]


def test_distribution_values_of_one_second_travel_as_one_list() -> None:
    values = [point(value=0.5), point(value=1), point(value=9, at=NOW + 5), point(value=0.5)]
    assert series(chunk(values, Kind.DISTRIBUTION)) == [
        {
            "metric": "metta.a",
            "type": "distribution",
            "points": [[NOW, [0.5, 1.0, 0.5]], [NOW + 5, [9]]],
            "tags": ["env:test"],
        }
    ]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e300, -5e-324, 1e16, 0.0])
def test_numbers_arrive_exactly(value: float) -> None:
    assert series(chunk([point(value=value)]))[0]["points"][0]["value"] == value


def noise(seed: int, length: int = 500) -> str:
    return random.Random(seed).randbytes(length // 2).hex()


def test_what_compresses_badly_travels_in_several_bodies_within_the_limits() -> None:
    chunks = [
        chunk([point(tag=f"a:{noise(1_000 * each + number, 180)}") for number in range(1_000)], number=each)
        for each in range(8)
    ]
    pending, bodies = chunks, 0
    while pending:
        payload = encode(pending)
        assert len(payload.body) <= MAX_COMPRESSED
        assert [*payload.sent, *payload.rest] == pending
        pending, bodies = list(payload.rest), bodies + 1
    assert 2 <= bodies <= 5


def test_raw_bodies_are_bounded_also_where_the_size_was_estimated_too_low() -> None:
    chunks = [chunk([point(tag=f"a:{number:0150}") for number in range(1_000)], number=each) for each in range(10)]
    wide = [
        chunk([point("m" * 900 + str(each), tag=one.tags[0]) for one in of.points]) for each, of in enumerate(chunks)
    ]
    payload = encode(wide)
    assert len(text(payload)) <= MAX_RAW
    assert payload.rest


@pytest.mark.parametrize("kind", [Kind.GAUGE, Kind.DISTRIBUTION])
def test_a_chunk_that_is_too_large_alone_is_refused_before_it_is_sent(kind: Kind) -> None:
    for large in (f"a:{noise(1, 1_200_000)}", f"a:{'x' * MAX_RAW}"):
        with pytest.raises(TooLarge):
            encode([chunk([point(tag=large)], kind), chunk([point()], kind)])
