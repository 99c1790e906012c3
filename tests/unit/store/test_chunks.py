"""The seconds of counts."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.domain.delivery import Point
from service.domain.samples import Kind, Metric, Sample
from service.store.chunks import assign_seconds, to_batch

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)
COUNT = Metric("metta.count", Kind.COUNT)
FACTS = {"run": "r", "collector": "ci", "mode": "live", "owner": ""}


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


def test_what_is_one_series_to_the_intake_is_one_here() -> None:
    tags = ({"Team": "In fra", "a": "b"}, {"a": "B", "team": "in_fra"}, {"a": "b", "team": "In__Fra"})
    found, _ = assign_seconds(to_batch((Sample(COUNT, 1.0, NOW, each) for each in tags), FACTS).counts, frozenset())
    assert len({point.at for point in found}) == 3
