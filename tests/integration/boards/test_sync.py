"""Pushing boards, monitors and metadata to a simulated Datadog that the official description judges."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.boards.catalogue import DISTRIBUTION_TAGS, Catalogue, CheckPanel
from service.boards.sync import Difference, Sync, build
from service.datadog.api import DatadogApi
from service.demo.stage import serve
from service.domain.errors import Rejected, Unavailable
from tests.datadog import Reply, ScriptedDatadog, refusal
from tests.datadog_openapi import faults
from tests.unit.boards.shapes import DURATION, catalogue, ci_checks, snapshot_check

API_KEY, APP_KEY = "a" * 32, "b" * 40
PUSHED = {"created", "updated"}


def few(**conditions: str) -> tuple[CheckPanel, ...]:
    """Of the checks that there are: a board of them all takes a second to be judged."""
    checks = [each for each in ci_checks(**conditions) if each.tags["check"] in ("flaky_tests", "failing_count")]
    return (*checks, snapshot_check(), snapshot_check("sps", "stable for a week"))


def small(**changes: Any) -> Catalogue:
    return catalogue(*changes.pop("checks", few()), **changes)


class Place:
    """A Datadog, and who pushes to it."""

    def __init__(self, datadog: ScriptedDatadog, sync: Sync) -> None:
        self.datadog, self.api, self.sync = datadog, datadog, sync

    def diff(self, *, force: bool = False, **changes: Any) -> list[Difference]:
        return self.sync.diff(build(small(**changes)), force=force)

    def push(self, *, force: bool = False, prune: bool = False, **changes: Any) -> list[Difference]:
        """What was written."""
        done = list(self.sync.push(self.diff(force=force, **changes), prune=prune))
        return [each for each in done if each.action in PUSHED]

    def board(self, title: str = "Infra health") -> dict[str, Any]:
        return next(each for each in self.api.dashboards.values() if each["title"] == title)


@contextmanager
def place(datadog: ScriptedDatadog, api_key: str = API_KEY, env: str = "production") -> Iterator[Place]:
    datadog.api_keys, datadog.app_keys = {API_KEY}, {APP_KEY}
    with serve(datadog) as (url,), DatadogApi(url, api_key, APP_KEY) as api:
        yield Place(datadog, Sync(api, env))


def all_metrics(*, fills: bool = True) -> ScriptedDatadog:
    datadog = ScriptedDatadog()
    datadog.has_all_metrics, datadog.fills = True, fills
    return datadog


@pytest.fixture
def here() -> Iterator[Place]:
    """A Datadog that fills in defaults, as the real one does."""
    with place(all_metrics()) as it:
        yield it
        assert it.datadog.refused == 0, it.datadog.last_refusal


@pytest.mark.parametrize("fills", [False, True])
def test_the_second_push_writes_nothing(fills: bool) -> None:
    with place(all_metrics(fills=fills)) as here:
        here.api.judge = faults
        made = here.push()
        assert {each.kind for each in made} == {"dashboards", "monitors", "metadata"}
        assert all(each.id for each in made)
        assert len(here.api.dashboards) == 4
        assert len(here.api.writes) == len(made) + 1, "one write an object, two of a distribution"
        here.api.writes.clear()
        assert here.push() == []
        assert here.api.writes == []
        assert here.datadog.refused == 0, here.datadog.last_refusal


def test_only_what_differs_is_written_and_what_is_no_longer_set_is_taken_away(here: Place) -> None:
    here.push()
    for condition, change in (("< 3", "10 -> 3"), ("none", "")):
        here.api.writes.clear()
        changed = few(flaky_tests=condition)
        (done,) = here.push(checks=changed)
        assert (done.kind, done.key, done.action) == ("dashboards", "health", "updated")
        assert change in "\n".join(done.changes)
        assert len(here.api.writes) == 1
        assert here.push(checks=changed) == []
    tile = next(
        each["definition"]
        for each in here.board()["widgets"][1]["definition"]["widgets"]
        if each["definition"].get("title", "").endswith("flaky_tests") and each["definition"]["type"] == "query_value"
    )
    assert "conditional_formats" not in tile["requests"][0]


def test_edits_by_hand_are_shown_and_left_alone_unless_forced(here: Place) -> None:
    here.push()
    board = here.board()
    board["title"] = "Renamed by somebody"
    group = board["widgets"][1]["definition"]
    group["title"] = "My CI"
    group["widgets"].append({"definition": {"type": "note", "content": "mine"}, "id": 99})
    monitor = next(each for each in here.api.monitors.values() if "is down" in each["name"])
    monitor["message"] += " @pagerduty"
    here.api.writes.clear()
    edited = {each.kind: "\n".join(each.changes) for each in here.diff() if each.action == "edited"}
    assert edited.keys() == {"dashboards", "monitors"}
    assert 'widgets[1].definition.title: "My CI" -> "CI"' in edited["dashboards"]
    assert '"mine"' in edited["dashboards"]
    assert here.push() == []
    assert here.push(page="https://health.example") != []
    assert here.board("Renamed by somebody")["widgets"][1]["definition"]["title"] == "My CI"
    assert here.api.monitors[monitor["id"]]["message"].endswith("@pagerduty")
    here.push(force=True)
    assert here.board()["id"] == board["id"]
    assert here.board()["widgets"][1]["definition"]["title"] == "CI"
    here.api.writes.clear()
    assert here.push() == []


def test_what_people_add_beside_our_keys_is_no_edit_and_survives_an_update(here: Place) -> None:
    here.push()
    board = here.board()
    board["template_variable_presets"] = [{"name": "mine", "template_variables": [{"name": "env", "value": "x"}]}]
    board["notify_list"] = ["who@example.com"]
    tile = next(each for each in board["widgets"][1]["definition"]["widgets"] if "2" in str(each["layout"]["width"]))
    links = [{"label": "mine", "link": "https://example.com"}]
    tile["definition"]["custom_links"] = links
    monitor = next(each for each in here.api.monitors.values() if "is down" in each["name"])
    monitor["options"]["silenced"] = {"*": None}
    assert {each.action for each in here.diff()} == {"same"}
    here.api.judge = faults  # what comes back from Datadog goes out again
    here.push(page="https://health.example")
    after = here.board()
    assert after["template_variable_presets"][0]["name"] == "mine"
    assert after["notify_list"] == ["who@example.com"]
    found = [each["definition"].get("custom_links") for each in after["widgets"][1]["definition"]["widgets"]]
    assert links in found
    assert here.api.monitors[monitor["id"]]["options"]["silenced"] == {"*": None}
    assert here.push(page="https://health.example") == []


def test_delete_removes_only_ours() -> None:
    datadog = all_metrics()
    with place(datadog) as here, place(datadog, env="staging") as other:
        here.push()
        other.push(env="staging")
        theirs = {"title": "Infra health", "layout_type": "ordered", "widgets": [], "description": "infra-health"}
        datadog.put_dashboard("their-board-id", theirs, "2020-01-01T00:00:00+00:00")
        datadog.put_monitor(
            999, {"name": "theirs", "type": "query alert", "query": "q", "tags": ["team:x"], "options": {}}
        )
        for actual in here.sync.find(build(small())):
            if actual.fingerprint:
                here.sync.delete(actual)
        titles = [each["title"] for each in datadog.dashboards.values()]
        assert len(titles) == 5
        assert all("staging" in title for title in titles if title != "Infra health")
        assert all(number == 999 or "env:staging" in each["tags"] for number, each in datadog.monitors.items())
        assert 999 in datadog.monitors
        assert datadog.tags == {}
        assert not any("infra-health" in each["description"] for each in datadog.metadata.values())


def test_a_cloned_board_is_a_copy_and_stays_as_it_is(here: Place) -> None:
    here.push()
    clone = here.api.put_dashboard("zzz-clone", {**here.board(), "title": "My copy"}, "2030-01-01T00:00:00+00:00")
    here.push(page="https://health.example")
    assert here.api.dashboards["zzz-clone"]["widgets"] == clone["widgets"]
    assert any("My copy" in note for note in here.sync.notes)


def test_somebody_s_words_about_a_metric_and_its_tags_are_not_overwritten_unless_forced(here: Place) -> None:
    name = "metta.infra.collector.up"
    here.api.metadata[name] = {"description": "Our collectors, see the wiki"}
    here.api.tags[DURATION.name] = {"metric_type": "distribution", "include_percentiles": False, "tags": ["env"]}
    assert {each.key for each in here.diff() if each.action == "edited"} == {name, DURATION.name}
    here.push(force=True)
    assert "infra-health" in here.api.metadata[name]["description"]
    assert here.api.tags[DURATION.name]["include_percentiles"] is True
    assert here.api.tags[DURATION.name]["tags"] == sorted(DISTRIBUTION_TAGS)
    here.api.writes.clear()
    here.push()
    assert here.api.writes == []


def test_a_monitor_of_what_left_the_configuration_is_unwanted_until_it_is_pruned(here: Place) -> None:
    here.push()
    left, of_training = few()[:2], {"checks.training", "missing.training"}
    assert {each.key for each in here.diff(checks=left) if each.action == "unwanted"} == of_training
    here.push(checks=left)
    assert {each.key for each in here.diff(checks=left) if each.action == "unwanted"} == of_training
    here.push(checks=left, prune=True)
    assert {each.action for each in here.diff(checks=left)} == {"same"}


def test_a_metric_without_points_waits_for_them() -> None:
    with place(ScriptedDatadog()) as here:
        done = [each for each in here.sync.push(here.diff()) if each.kind == "metadata"]
        assert {each.action for each in done} == {"waiting"}
        assert DURATION.name in {each.key for each in done}


def test_the_public_address_is_made_once_and_found_again(here: Place) -> None:
    with pytest.raises(Rejected, match="no board tv"):
        here.sync.share("tv")
    here.push()
    here.api.judge = faults
    first = here.sync.share("tv")
    (share,) = here.api.shares.values()
    assert first == share["public_url"]
    assert share["dashboard_id"] == here.board("Infra health TV")["id"]
    assert here.push() == []
    here.push(page="https://health.example", env="production")
    assert here.sync.share("tv") == first
    assert len(here.api.shares) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(403, b"<html>Blocked</html>"), Unavailable),
        (refusal(400, "bad"), Rejected),
        (Reply(200, b"<html>"), Rejected),
        (Reply(200, {"status": "ok"}), Rejected),
        (Reply(200, []), Rejected),
    ],
)
def test_an_address_that_is_not_datadog_s_is_told_and_gets_nothing(reply: Reply, error: type[Exception]) -> None:
    with place(ScriptedDatadog()) as here:
        here.datadog.intercept = lambda received: reply
        with pytest.raises(error):
            here.push()
        assert all(received.method == "GET" for received in here.datadog.received)


def test_a_rate_limit_is_waited_for_and_a_post_is_not_repeated_after_a_fault() -> None:
    with place(all_metrics()) as here:
        here.datadog.script.append(refusal(429, "Rate limit exceeded", X_RateLimit_Reset="0"))
        first = here.diff()[:1]
        here.datadog.script.append(refusal(503, "away"))
        with pytest.raises(Unavailable, match="503 away"):
            list(here.sync.push(first))
        assert not here.datadog.script
        list(here.sync.push(first))
        assert len(here.api.dashboards) == 1


def test_what_datadog_refuses_does_not_keep_the_rest_from_being_pushed() -> None:
    with place(all_metrics()) as here:
        here.datadog.intercept = lambda received: (
            refusal(400, "no such widget")
            if (received.method, received.path) == ("POST", "/api/v1/dashboard")
            else None
        )
        done = list(here.sync.push(here.diff()))
        failed = [each.reason for each in done if each.action == "failed"]
        assert len(failed) == 4
        assert all("no such widget" in reason for reason in failed)
        assert len(here.api.monitors) == sum(each.kind == "monitors" for each in done)


def test_more_boards_and_monitors_than_a_page_of_the_list() -> None:
    with place(all_metrics()) as here:
        for number in range(230):
            here.api.put_dashboard(f"other-{number}", {"title": "x", "layout_type": "ordered", "widgets": []}, "2020")
            body = {"name": "x", "type": "query alert", "query": "q", "tags": ["managed_by:infra-health"]}
            here.api.put_monitor(10_000 + number, {**body, "options": {}})
        here.push()
        here.api.writes.clear()
        assert here.push() == []
