"""How two runs differ."""

from datetime import UTC, datetime

from service.domain.difference import changes
from service.domain.points import Fate, StoredSample
from service.domain.samples import Kind

AT = datetime(2025, 1, 14, 15, tzinfo=UTC)


def sample(task: str, value: float, status: str = "pass", kind: Kind = Kind.GAUGE) -> StoredSample:
    return StoredSample("ci.x", kind, value, AT, {"task": task, "status": status, "condition": "< 1"}, Fate.WAITING, "")


def test_values_that_changed_came_or_went_are_told_and_turned_checks_come_first() -> None:
    before = [sample("same", 1), sample("value", 1), sample("turned", 1), sample("gone", 1)]
    after = [sample("same", 1), sample("value", 2), sample("turned", 1, "fail"), sample("new", 1)]
    found = [(each.tags["task"], each.before is None, each.after is None) for each in changes(before, after)]
    assert found[0] == ("turned", False, False)
    assert set(found[1:]) == {("value", False, False), ("gone", False, True), ("new", True, False)}


def test_the_order_of_tags_and_the_time_make_no_difference() -> None:
    after = sample("same", 1)
    turned = StoredSample("ci.x", Kind.GAUGE, 1, AT, dict(reversed(list(after.tags.items()))), Fate.DELIVERED, "")
    assert not changes([turned], [after])


def test_events_are_no_changes() -> None:
    assert not changes([sample("run", 1, kind=Kind.DISTRIBUTION)], [sample("run", 2, kind=Kind.DISTRIBUTION)])
