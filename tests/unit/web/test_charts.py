"""What pages draw is what is known, well-formed whatever the values are; numbers and links as people read them."""

import math
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from service.domain.runs import Outcome
from service.domain.samples import Status, format_number
from service.store.checks import Cell, Cycle, Hour
from service.web import charts
from service.web.formats import format_span, link_host

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
GOOD, OLD, BAD = (Cell(Status.PASS, False, 1.0), Cell(Status.PASS, True, 1.0), Cell(Status.FAIL, False, 3.0))
UNKNOWN = Cell(Status.UNKNOWN, False, None)


def cycle(number: int, seconds: float = 1.0, outcome: Outcome = Outcome.COMPLETE) -> Cycle:
    return Cycle(number, f"ci-{number}", NOW.timestamp() + 600 * number, seconds, outcome.value)


def row(*cells: Cell | None) -> list[tuple[Cycle, Cell | None]]:
    return [(cycle(number), cell) for number, cell in enumerate(cells)]


def paths(svg: str, kind: str) -> list[str]:
    return [each.attrib["d"] for each in ElementTree.fromstring(svg).iter("path") if each.get("class") == kind]


def test_bars_are_as_high_as_runs_were_long_and_open_their_runs() -> None:
    chart = charts.bars([cycle(1, 10), cycle(2, 5, Outcome.FAILED), cycle(3, 0, Outcome.PARTIAL)])
    heights = {kind: [path.partition("h")[0] for path in paths(chart.svg, kind)] for kind in ("good", "bad", "warn")}
    assert heights == {"good": ["M0 30v-30"], "bad": ["M0 30v-15"], "warn": ["M0 30v-3"]}
    places = {each.get("href"): each.get("transform") for each in ElementTree.fromstring(chart.svg).iter("a")}
    assert places == {f"/runs/ci-{number}": f"translate({280 + 5 * number})" for number in (1, 2, 3)}, "newest right"
    assert chart.words == "last 3 runs: 1 Partial, 1 Failed, 1 Complete"
    assert len(paths(charts.bars([cycle(number) for number in range(80)]).svg, "good")) == 60


def test_a_cell_says_pass_fail_unknown_or_carried_a_missing_one_nothing_and_of_several_the_worst_shows() -> None:
    chart = charts.heat_row(row(GOOD, OLD, BAD, None, UNKNOWN))
    assert [len(paths(chart.svg, kind)) for kind in ("pass", "carried", "fail", "unknown")] == [1, 1, 1, 1]
    assert chart.words == "last 4 cycles: 2 pass (1 carried), 1 fail, 1 unknown"
    assert [charts.worst(cells) for cells in ([GOOD, BAD, None], [GOOD, UNKNOWN], [None])] == [BAD, UNKNOWN, None]
    assert charts.worst([GOOD, OLD]) == Cell(Status.PASS, False, None)


def test_a_curve_goes_by_the_cycle_at_first_and_by_the_hour_after_a_day_and_hours_without_a_value_are_a_gap() -> None:
    hours = [Hour(NOW + timedelta(hours=at), 0.0, 9.0, 4.0, at == 2) for at in range(25)]
    assert [point.last for point in charts.to_curve(row(GOOD, UNKNOWN, BAD), hours[:3])] == [1.0, 3.0]
    chart = charts.sparkline(charts.to_curve(row(GOOD, UNKNOWN, BAD), hours), "< 5", "fail")
    assert chart.words == "1 d: 0 to 9, last 4"
    assert paths(chart.svg, "ticks")[0].count("M") == 1
    assert len(paths(chart.svg, "threshold")) == 1
    rare = [Hour(NOW + timedelta(hours=at), 1.0, 1.0, 1.0, False) for at in (0, 1, 2, 3, 20, 21, 22, 30)]
    assert paths(charts.sparkline(charts.to_curve([], rare), "", "pass").svg, "line")[0].count("M") == 3


@pytest.mark.parametrize("values", [[], [0.0], [1.0, 1.0], [-1.7e308, 1.7e308], [5e-324, 0.0], [41000.0, 40999.0]])
def test_any_values_give_numbers_within_the_picture(values: list[float]) -> None:
    curve = charts.to_curve(row(*(Cell(Status.PASS, False, value) for value in values)), [])
    (line,) = paths(charts.sparkline(curve, "> 0", "pass").svg, "line")
    numbers = [float(text) for text in re.split("[MLh ]", line) if text]
    assert all(math.isfinite(number) and -3 <= number <= 160 for number in numbers)


def test_numbers_and_lengths_of_time_are_written_as_short_as_they_can_be() -> None:
    numbers = {1.0: "1", 0.91: "0.91", -0.0: "0", 1234567.8: "1,234,568", 11 / 12: "0.916667", 1e300: "1e+300"}
    assert {value: format_number(value) for value in numbers} == numbers
    spans = {0.04: "40 ms", 0.9996: "1.0 s", 59.6: "1 min", 65: "1 min 5 s", 90061: "1 d 1 h"}
    assert {seconds: format_span(seconds) for seconds in spans} == spans


def test_plain_addresses_become_links_that_say_where_they_lead() -> None:
    assert link_host("https://github.com/o/r/pull/7?w=1#l2") == "github.com"
    odd = ("javascript://a/", "https://x@a/", "https://[", "ftp://a", "/runs/7", 'https://a/"', "https://a\\@b", "")
    assert {url: link_host(url) for url in odd} == dict.fromkeys(odd, "")
