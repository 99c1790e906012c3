"""Bodies as Datadog's endpoints take them; its own client's models are the judge."""

import json
import random
import zlib
from typing import Any

import pytest
import zstandard
from datadog_api_client import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.distribution_points_payload import DistributionPointsPayload
from datadog_api_client.v2.model.metric_payload import MetricPayload

from service.adapters.datadog_payload import MAX_BODY, MAX_POINTS, MAX_WIRE, encode
from service.domain.errors import Rejected, TooLarge
from service.domain.points import Payload, Point
from service.domain.samples import Kind

NOW = 1_760_000_000
# The client is typed in parts only.
_judge: Any = validate_and_convert_types
_configuration: Any = Configuration


def point(number: int = 1, metric: str = "metta.a", **changes: Any) -> Point:
    values = {"kind": Kind.GAUGE, "interval": 0, "tags": '["env:test"]', "at": NOW, "value": 1.5, **changes}
    return Point(number, metric, **values)


def text(payload: Payload) -> bytes:
    if payload.kind is Kind.DISTRIBUTION:
        return zlib.decompress(payload.body)
    return zstandard.decompress(payload.body)


def series(*points: Point) -> list[dict[str, Any]]:
    payload = encode(points)
    plain = text(payload)
    assert len(plain) == payload.size
    found: list[dict[str, Any]] = json.loads(plain)["series"]
    model = DistributionPointsPayload if payload.kind is Kind.DISTRIBUTION else MetricPayload
    judged = _judge({"series": found}, (model,), ["body"], True, True, _configuration())
    assert isinstance(judged, model)
    assert not judged._unparsed
    return found


def test_a_gauge_and_a_count_travel_in_one_body() -> None:
    gauge = point(1, "metta.b", tags='["condition:< 5.0","status:pass"]')
    count = point(2, "metta.a", kind=Kind.COUNT, interval=600, value=3)

    assert series(gauge, count) == [
        {
            "metric": "metta.a",
            "type": 1,
            "interval": 600,
            "points": [{"timestamp": NOW, "value": 3}],
            "tags": ["env:test"],
        },
        {
            "metric": "metta.b",
            "type": 3,
            "points": [{"timestamp": NOW, "value": 1.5}],
            "tags": ["condition:< 5.0", "status:pass"],
        },
    ]


def test_points_of_one_series_are_merged_and_series_are_sorted() -> None:
    points = [point(1, "metta.b"), point(2, "metta.a", at=NOW + 1), point(3, "metta.b", at=NOW - 60)]

    found = series(*points)

    assert [each["metric"] for each in found] == ["metta.a", "metta.b"]
    assert [each["timestamp"] for each in found[1]["points"]] == [NOW - 60, NOW]


def test_of_two_gauges_of_one_second_the_later_one_holds() -> None:
    assert series(point(2, value=7), point(1, value=5))[0]["points"] == [{"timestamp": NOW, "value": 7}]


def test_counts_of_one_second_add_up_because_datadog_would_keep_only_one() -> None:
    counts = [point(number, kind=Kind.COUNT, interval=60, value=number) for number in (1, 2, 3)]

    assert series(*counts)[0]["points"] == [{"timestamp": NOW, "value": 6}]


def test_distribution_values_of_one_second_travel_as_one_list() -> None:
    values = [point(number, kind=Kind.DISTRIBUTION, value=number / 2) for number in (1, 2)]
    later = point(3, kind=Kind.DISTRIBUTION, at=NOW + 5, value=9)

    assert series(later, *values) == [
        {
            "metric": "metta.a",
            "type": "distribution",
            "points": [[NOW, [0.5, 1.0]], [NOW + 5, [9]]],
            "tags": ["env:test"],
        }
    ]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e300, -5e-324, 1e16, 0.0])
def test_numbers_arrive_exactly(value: float) -> None:
    assert series(point(value=value))[0]["points"][0]["value"] == value


def test_text_beyond_ascii_arrives_as_written() -> None:
    assert series(point(tags='["task:Prüfung ≥ 5"]'))[0]["tags"] == ["task:Prüfung ≥ 5"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_before_it_spoils_a_body(value: float) -> None:
    with pytest.raises(Rejected, match=r"metta\.a: .* is not a finite number"):
        encode([point(value=value)])


def test_a_lone_surrogate_is_refused_before_it_spoils_a_body() -> None:
    with pytest.raises(Rejected, match="no valid text"):
        encode([point(tags='["task:\ud800"]')])


def test_the_number_of_points_is_bounded() -> None:
    points = [point(number, at=NOW + number) for number in range(MAX_POINTS + 1)]

    assert len(encode(points[1:]).points) == MAX_POINTS
    with pytest.raises(TooLarge, match="10001 points"):
        encode(points)


def test_the_body_is_bounded_to_the_byte() -> None:
    frame = len(text(encode([point(tags='["a:"]')])))

    assert encode([point(tags=f'["a:{"x" * (MAX_BODY - frame)}"]')]).size == MAX_BODY
    with pytest.raises(TooLarge, match="5242881 bytes"):
        encode([point(tags=f'["a:{"x" * (MAX_BODY - frame + 1)}"]')])


def test_the_wire_is_bounded() -> None:
    noise = random.Random(1).randbytes(600_000).hex()

    with pytest.raises(TooLarge, match=f"bytes compressed are more than the {MAX_WIRE}"):
        encode([point(tags=f'["a:{noise}"]')])


def test_the_frame_tells_its_size_so_that_the_intake_can_refuse_early() -> None:
    payload = encode([point()])

    assert zstandard.frame_content_size(payload.body) == payload.size
