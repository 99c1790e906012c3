"""How pages write lengths of time and numbers, and what they make a link of."""

import pytest

from service.web.formats import format_number, format_span, link_host


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.04, "40 ms"), (0.9996, "1.0 s"), (59.6, "1 min"), (65, "1 min 5 s"), (90061, "1 d 1 h")],
)
def test_lengths_of_time_are_written_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.91, "0.91"),
        (-0.0, "0"),
        (41000.0, "41,000"),
        (1234567.8, "1,234,568"),
        (11 / 12, "0.916667"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_are_written_as_short_as_they_can_be(value: float, text: str) -> None:
    assert format_number(value) == text


def test_plain_addresses_become_links_that_say_where_they_lead() -> None:
    assert link_host("https://github.com/o/r/pull/7?w=1#l2") == "github.com"
    assert link_host("http://[::1]:80") == "[::1]:80"
    for url in (
        "javascript://a/",
        "https://x@a/",
        "https://[",
        "ftp://a",
        "/runs/7",
        'https://a/"',
        "https://a\\@b",
        "",
    ):
        assert link_host(url) == "", url
