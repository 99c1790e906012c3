"""A lasting fault is news when it begins, when its reason changes and when it ends."""

from datetime import UTC, datetime, timedelta

import pytest

from service.pipeline.faults import Faults, News

NOW = datetime(2026, 3, 4, 5, tzinfo=UTC)


def test_the_same_fault_again_is_no_news() -> None:
    faults = Faults()
    met = [faults.meet("ci", reason, NOW) for reason in ("away", "away", "refused", "refused", "away")]
    assert met == [News.BEGUN, News.SAME, News.CHANGED, News.SAME, News.CHANGED]


def test_the_end_tells_what_ended_and_the_next_one_begins_anew() -> None:
    faults = Faults()
    faults.meet("ci", "away", NOW)
    faults.meet("ci", "refused", NOW + timedelta(minutes=1))
    ended = faults.end("ci")
    assert ended is not None
    assert (ended.reason, ended.since, ended.times) == ("refused", NOW, 2)
    assert faults.end("ci") is None
    assert faults.meet("ci", "refused", NOW) is News.BEGUN


def test_each_thing_has_faults_of_its_own() -> None:
    faults = Faults()
    faults.meet("ci", "away", NOW)
    assert faults.meet("training", "away", NOW) is News.BEGUN


@pytest.mark.parametrize(
    ("one", "other", "news"),
    [
        ("limit used up, opens in 34 s", "limit used up, opens in 4.5 s", News.SAME),
        ("asked at 2026-03-04T05:00:00Z", "asked at 2026-03-04T05:10:01.5Z", News.SAME),
        ("request id 0401:3D2:9F", "request id 1FFF:AB:0", News.SAME),
        ("GitHub did not answer GET /a: refused", "GitHub did not answer POST /graphql: refused", News.SAME),
        ("GitHub did not answer GET /a: refused", "GitHub did not answer GET /a: timed out", News.CHANGED),
        ("GitHub answered 502: bad (GET /a)", "GitHub answered 502: bad (GET /b?c=1)", News.SAME),
        ("GitHub answered 404: none (GET /a)", "GitHub answered 404: none (GET /b)", News.CHANGED),
        ("answered 502", "answered 503", News.CHANGED),
        ("no bucket a", "no bucket b", News.CHANGED),
    ],
)
def test_what_differs_each_time_is_no_other_reason(one: str, other: str, news: News) -> None:
    faults = Faults()
    faults.meet("ci", one, NOW)
    assert faults.meet("ci", other, NOW) is news
