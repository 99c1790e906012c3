"""Points cut into requests by exact sizes, before anything is sent."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.datadog_payload import MAX_BODY, MAX_POINTS, MAX_WIRE, encode
from service.domain.errors import TooLarge
from service.domain.points import Payload, Point
from service.domain.samples import Kind
from service.pipeline.batch import Unsendable, halve, pack

NOW = 1_760_000_000


def point(number: int, metric: str = "metta.a", kind: Kind = Kind.GAUGE, at: int = NOW, tags: str = "[]") -> Point:
    return Point(number, metric, kind, 60 if kind is Kind.COUNT else 0, tags, at, 1.0)


def payloads(points: Sequence[Point]) -> list[Payload]:
    """Every request, within the limits and together exactly ``points``."""
    packed = list(pack(points, encode))
    fitting = [item for item in packed if isinstance(item, Payload)]
    assert len(fitting) == len(packed)
    for payload in fitting:
        assert len(payload.points) <= MAX_POINTS
        assert len(payload.body) <= MAX_WIRE
        assert payload.size <= MAX_BODY
    assert sorted(each.id for payload in fitting for each in payload.points) == [each.id for each in points]
    return fitting


def test_nothing_makes_no_request() -> None:
    assert payloads([]) == []


def test_series_and_distributions_go_to_their_own_endpoints() -> None:
    points = [point(1, kind=Kind.DISTRIBUTION), point(2, "metta.b"), point(3, "metta.c", Kind.COUNT)]

    series, distributions = payloads(points)

    assert [each.kind for each in series.points] == [Kind.GAUGE, Kind.COUNT]
    assert [each.id for each in distributions.points] == [1]


def test_one_point_too_many_makes_two_requests() -> None:
    points = [point(number, at=NOW + number) for number in range(MAX_POINTS + 1)]

    assert len(payloads(points[:-1])) == 1
    assert [len(each.points) for each in payloads(points)] == [5000, 5001]


def test_text_that_is_too_long_makes_more_requests() -> None:
    tags = f'["task:{"x" * 190}","check:{"y" * 190}","condition:{"z" * 180}","status:pass"]'
    points = [point(number, f"metta.m{number}", tags=tags) for number in range(9_000)]

    assert len(payloads(points)) == 2


def test_text_that_compresses_badly_makes_more_requests() -> None:
    source = random.Random(4)
    points = [
        point(number, f"metta.m{number}", tags=f'["task:{source.randbytes(90).hex()}","run:{number}"]')
        for number in range(9_000)
    ]

    assert len(payloads(points)) >= 2


def test_a_point_too_large_alone_is_told_apart_and_the_others_go() -> None:
    giant = point(7, "metta.b", tags=f'["task:{"x" * MAX_BODY}"]')
    others = [point(1, "metta.a"), point(9, "metta.c")]

    packed = list(pack([*others, giant], encode))

    assert [item.points for item in packed if isinstance(item, Unsendable)] == [[giant]]
    assert [[each.id for each in item.points] for item in packed if isinstance(item, Payload)] == [[1], [9]]


def test_counts_of_one_second_stay_together_because_apart_one_would_replace_the_other() -> None:
    counts = [point(number, kind=Kind.COUNT) for number in range(9)]
    later = point(9, kind=Kind.COUNT, at=NOW + 1)

    assert halve(counts) is None
    assert halve([*counts, later]) == (counts, [later])


def test_values_of_one_distribution_may_part() -> None:
    values = [point(number, kind=Kind.DISTRIBUTION) for number in range(MAX_POINTS + 2)]

    assert [len(each.points) for each in payloads(values)] == [5001, 5001]


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_parts_come_down_to_single_points(count: int) -> None:
    def no_two(points: Sequence[Point]) -> Payload:
        if len(points) > 1:
            raise TooLarge("two are one too many")
        return Payload(points, Kind.GAUGE, b"", 0)

    assert len(list(pack([point(number, at=NOW + number) for number in range(count)], no_two))) == count


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Kind)), st.integers(0, 3)), max_size=40),
    st.integers(1, 7),
)
def test_whatever_fits_each_point_is_in_one_part(rows: list[tuple[str, Kind, int]], room: int) -> None:
    points = [point(number, f"metta.{name}", kind, NOW + at) for number, (name, kind, at) in enumerate(rows)]

    def roomy(chosen: Sequence[Point]) -> Payload:
        if len(chosen) > room:
            raise TooLarge("no room")
        return Payload(chosen, chosen[0].kind, b"", 0)

    packed = list(pack(points, roomy))

    assert sorted(each.id for item in packed for each in item.points) == list(range(len(points)))
    for item in packed:
        if isinstance(item, Unsendable):  # only what can't be parted
            assert len({(each.metric, each.at) for each in item.points}) == 1
            assert len(item.points) > room
