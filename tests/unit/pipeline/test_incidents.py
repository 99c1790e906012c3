"""What lasts is news when it begins, when its reason changes and when it ends."""

from datetime import UTC, datetime, timedelta

import pytest

from service.pipeline.incidents import Incidents

NOW = datetime(2026, 3, 4, 5, tzinfo=UTC)


def test_the_end_says_what_ended_and_the_next_one_begins_anew() -> None:
    incidents = Incidents()
    incidents.report("ci", "away", NOW)
    incidents.report("ci", "refused", NOW + timedelta(minutes=1))
    ended = incidents.resolve("ci")
    assert ended
    assert (ended.reason, ended.since, ended.count) == ("refused", NOW, 2)
    assert incidents.resolve("ci") is None
    assert incidents.report("ci", "refused", NOW)


@pytest.mark.parametrize(
    ("one", "other", "is_news"),
    [
        ("limit used up, opens in 34 s", "limit used up, opens in 4.5 s", False),
        ("asked at 2026-03-04T05:00:00Z", "asked at 2026-03-04T05:10:01.5Z", False),
        ("GitHub did not answer GET /a: refused", "GitHub did not answer POST /graphql: refused", False),
        ("GitHub did not answer GET /a: refused", "GitHub did not answer GET /a: timed out", True),
        ("GitHub answered 502: bad (GET /a)", "GitHub answered 502: bad (GET /b?c=1)", False),
        ("answered 502", "answered 503", True),
        ("no bucket a", "no bucket b", True),
    ],
)
def test_what_differs_each_time_is_no_other_reason(one: str, other: str, is_news: bool) -> None:
    incidents = Incidents()
    incidents.report("ci", one, NOW)
    assert incidents.report("ci", other, NOW) is is_news
