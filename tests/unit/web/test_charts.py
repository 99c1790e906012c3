"""The charts: what is drawn is what is known, and it is well-formed whatever the values are."""

import math
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from service.domain.runs import Outcome
from service.domain.samples import Status
from service.store.checks import Cell, Cycle, Hour
from service.web import charts

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)


def cycle(number: int, seconds: float = 1.0, outcome: Outcome = Outcome.COMPLETE) -> Cycle:
    started = NOW + timedelta(minutes=10 * number)
    return Cycle(number, f"ci-{number}", started.timestamp(), seconds, outcome.value)


def row(*cells: Cell | None) -> list[tuple[Cycle, Cell | None]]:
    return [(cycle(number), cell) for number, cell in enumerate(cells)]


def paths(svg: str, kind: str) -> list[str]:
    return [each.attrib["d"] for each in ElementTree.fromstring(svg).iter("path") if each.get("class") == kind]


def test_bars_are_as_high_as_runs_were_long_and_open_their_runs() -> None:
    svg = charts.bars([cycle(1, 10), cycle(2, 5, Outcome.FAILED), cycle(3, 0, Outcome.PARTIAL)]).svg
    heights = {kind: [path.partition("h")[0] for path in paths(svg, kind)] for kind in ("good", "bad", "warn")}
    assert heights == {"good": ["M0 30v-30"], "bad": ["M0 30v-15"], "warn": ["M0 30v-3"]}
    places = [each.attrib["transform"] for each in ElementTree.fromstring(svg).iter("a")]
    assert places == ["translate(285)", "translate(290)", "translate(295)"], "the newest at the right"
    links = [each.attrib["href"] for each in ElementTree.fromstring(svg).iter("a")]
    assert links == ["/runs/ci-1", "/runs/ci-2", "/runs/ci-3"]
    assert charts.bars([cycle(1), cycle(2, 1, Outcome.FAILED)]).words == "last 2 runs: 1 Failed, 1 Complete"


def test_only_the_last_sixty_runs_are_drawn() -> None:
    svg = charts.bars([cycle(number) for number in range(80)]).svg
    assert len(paths(svg, "good")) == 60
    assert "/runs/ci-19" not in svg
    assert "/runs/ci-20" in svg


def test_a_cell_says_pass_fail_unknown_or_carried_and_a_missing_one_says_nothing() -> None:
    cells = row(
        Cell(Status.PASS, False, 1.0),
        Cell(Status.PASS, True, 1.0),
        Cell(Status.FAIL, True, 2.0),
        None,
        Cell(Status.UNKNOWN, True, None),
    )
    svg = charts.heat_row(cells).svg
    assert [len(paths(svg, kind)) for kind in ("pass", "carried", "fail", "unknown")] == [1, 1, 1, 1]
    assert charts.heat_row(cells).words == "last 4 cycles: 2 pass (1 carried), 1 fail, 1 unknown"


def test_several_checks_are_as_bad_as_the_worst() -> None:
    good, old = Cell(Status.PASS, False, 1.0), Cell(Status.PASS, True, 1.0)
    assert charts.worst([good, Cell(Status.FAIL, False, 3.0), None]) == Cell(Status.FAIL, False, 3.0)
    assert charts.worst([good, Cell(Status.UNKNOWN, False, None)]) == Cell(Status.UNKNOWN, False, None)
    assert charts.worst([good, old]) == Cell(Status.PASS, False, None)
    assert charts.worst([old, old]) == Cell(Status.PASS, True, None)
    assert charts.worst([None, None]) is None


def test_a_curve_goes_by_the_cycle_at_first_and_by_the_hour_after_a_day() -> None:
    cells = row(Cell(Status.PASS, False, 1.0), Cell(Status.UNKNOWN, False, None), Cell(Status.FAIL, False, 3.0))
    hours = [Hour(NOW + timedelta(hours=at), 0.0, 9.0, 4.0, at == 2) for at in range(25)]
    assert [point.last for point in charts.to_curve(cells, hours[:3])] == [1.0, 3.0]
    curve = charts.to_curve(cells, hours)
    assert len(curve) == 25
    assert charts.sparkline(curve, "", "").words == "1 d: 0 to 9, last 4"
    svg = charts.sparkline(curve, "< 5", "fail").svg
    assert paths(svg, "ticks")[0].count("M") == 1
    assert len(paths(svg, "threshold")) == 1


def test_hours_without_a_value_are_a_gap() -> None:
    times = [0, 1, 2, 3, 20, 21, 22, 30]
    hours = [Hour(NOW + timedelta(hours=at), 1.0, 1.0, 1.0, False) for at in times]
    assert paths(charts.sparkline(charts.to_curve([], hours), "", "pass").svg, "line")[0].count("M") == 3


@pytest.mark.parametrize(
    "values", [[], [0.0], [1.0, 1.0], [-1.7e308, 1.7e308], [5e-324, 0.0], [1e300, 1.0], [41000.0, 40999.0]]
)
def test_any_values_give_numbers_within_the_picture(values: list[float]) -> None:
    svg = charts.sparkline(
        charts.to_curve(row(*(Cell(Status.PASS, False, value) for value in values)), []), "> 0", "pass"
    ).svg
    for path in paths(svg, "line"):
        numbers = [float(text) for text in path.replace("M", " ").replace("L", " ").replace("h", " ").split()]
        assert all(math.isfinite(number) and -3 <= number <= 160 for number in numbers)


def test_what_is_drawn_can_hold_no_markup() -> None:
    evil = Cycle(1, 'a"><script>', NOW.timestamp(), 1.0, "Complete")
    svg = charts.bars([evil]).svg + charts.heat_row([(evil, Cell(Status.PASS, False, 1.0))]).svg
    assert "<script>" not in svg
    assert "/runs/a%22%3E%3Cscript%3E" in svg
