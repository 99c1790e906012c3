"""How pages write lengths of time and numbers, and what they make a link of."""

import pytest

from service.web.pages import format_span, may_link
from service.web.schemas import format_number


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


@pytest.mark.parametrize(
    ("api", "host"),
    [
        ("https://api.github.com", "github.com"),
        ("https://api.acme.ghe.com", "acme.ghe.com"),
        ("https://git.acme.example:8443/api/v3", "git.acme.example:8443"),
        ("http://127.0.0.1:9999", "github.com"),
    ],
)
def test_only_addresses_of_the_configured_github_become_links(api: str, host: str) -> None:
    assert may_link(f"https://{host}/o/r/pull/7", api)
    for url in (
        f"https://{host}.evil.example/",
        f"javascript://{host}/",
        f"https://x@{host}/",
        "https://[",
        'https://a"',
    ):
        assert not may_link(url, api)
