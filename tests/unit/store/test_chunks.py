"""Samples as chunks."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.domain.delivery import Point, to_point
from service.domain.samples import Evidence, Kind, Metric, Sample
from service.store.chunks import assign_seconds, pack, to_batch, unpack

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)
GAUGE, COUNT = Metric("metta.gauge"), Metric("metta.count", Kind.COUNT)
DISTRIBUTION = Metric("metta.distribution", Kind.DISTRIBUTION)
FACTS = {"run": "r", "collector": "ci", "mode": "live", "owner": ""}


def test_chunks_are_sorted_by_time_then_series_and_hold_a_thousand_points_of_one_kind() -> None:
    """The cut keeps the order, so the old part of a chunk is its beginning, and the last of equal gauges stays last."""
    gauges = [Sample(GAUGE, float(n), NOW - n % 3 * SECOND, {"n": f"{n % 7}"}) for n in range(2_500)]
    batch = to_batch([*gauges, Sample(DISTRIBUTION, 1.0, NOW)], FACTS)
    assert [(row["kind"], row["samples"], row["first"]) for row in batch.rows] == [
        ("gauge", 1_000, 0),
        ("gauge", 1_000, 1_000),
        ("gauge", 500, 2_000),
        ("distribution", 1, 2_500),
    ]
    points = [point for row in batch.rows[:3] for point in unpack(row["body"])]
    assert [(point.at, point.tags) for point in points] == sorted((point.at, point.tags) for point in points)
    assert points[-1].value == max(each.value for each in gauges if each.at == NOW and each.tags == {"n": "6"})
    assert batch.rows[0]["oldest"] == points[0].at
    assert batch.rows[0]["newest"] == points[999].at


def test_a_point_is_what_the_domain_makes_of_its_sample() -> None:
    evidence = (Evidence("run 7", at=NOW),)
    sample = Sample(DISTRIBUTION, 1, NOW, {"a": "x\ny", "b": "", "c d": "e"}, NOW - SECOND, 600, evidence)
    (row,) = to_batch([sample], FACTS).rows
    assert unpack(row["body"]) == [to_point(sample)]


def test_the_size_of_a_chunk_is_about_that_of_its_json() -> None:
    evidence = tuple(Evidence("title" * 20) for _ in range(10))
    for has_evidence in (False, True):
        of_each = evidence if has_evidence else ()
        tags = [(f"a:{n}", "b:cd") for n in range(500)]
        points = [Point("metta.infra.x", 0.123456789, 1_736_866_800, each, evidence=of_each) for each in tags]
        series = [
            {
                "metric": each.metric,
                "type": 3,
                "points": [{"timestamp": each.at, "value": each.value}],
                "tags": each.tags,
            }
            for each in points
        ]
        json = len(msgspec.json.encode(series))
        assert json <= pack(points)["bytes"] <= 1.5 * json


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90)), max_size=200),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 90)), max_size=100),
)
def test_each_count_has_a_second_of_its_own_and_no_value_is_lost(
    counts: list[tuple[int, int]], before: set[tuple[int, int]]
) -> None:
    def points(of_each: Iterable[tuple[int, int]]) -> list[Point]:
        samples = (Sample(COUNT, 1.0, NOW + second * SECOND, {"series": str(series)}) for series, second in of_each)
        return to_batch(samples, FACTS).counts

    taken = frozenset(assign_seconds(points(before), frozenset())[1])
    found, seconds = assign_seconds(points(counts), taken)
    assert sum(point.value for point in found) == len(counts)
    assert len({(point.tags, point.at) for point in found}) == len(found) == len(set(seconds))
    assert taken.isdisjoint(seconds)
    assert len(taken) == len(before)
