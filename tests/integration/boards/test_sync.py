"""Pushing boards, monitors and metadata to a simulated Datadog that the official description judges."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.boards.catalogue import DISTRIBUTION_TAGS, CheckPanel
from service.boards.sync import Difference, Sync, build
from service.datadog.api import DatadogApi
from service.domain.errors import Rejected, Unavailable
from tests.datadog import Reply, ScriptedDatadog, refusal
from tests.datadog_openapi import faults
from tests.unit.boards.shapes import DURATION, catalogue, ci_checks, definitions, snapshot_checks

API_KEY, APP_KEY = "a" * 32, "b" * 40
PAGE = "https://health.example"


class Place:
    """A Datadog, and who pushes to it."""

    def __init__(self, datadog: ScriptedDatadog, api: DatadogApi, env: str = "production") -> None:
        self.datadog, self.api, self.sync, self.env = datadog, api, Sync(api, env), env

    def diff(self, *checks: CheckPanel, force: bool = False, **changes: Any) -> list[Difference]:
        return self.sync.diff(build(catalogue(*checks, **{"env": self.env, **changes})), force=force)

    def push(self, *checks: CheckPanel, force: bool = False, prune: bool = False, **changes: Any) -> list[Difference]:
        """What was written."""
        self.datadog.writes.clear()
        done = self.sync.push(self.diff(*checks, force=force, **changes), prune=prune)
        return [each for each in done if each.action in ("created", "updated")]

    def board(self, title: str = "Infra health") -> dict[str, Any]:
        return next(each for each in self.datadog.dashboards.values() if each["title"] == title)

    def monitor(self) -> dict[str, Any]:
        return next(each for each in self.datadog.monitors.values() if "is down" in each["name"])


@pytest.fixture
def here(server: ScriptedDatadog) -> Iterator[Place]:
    """A Datadog that fills in defaults, as the real one does."""
    server.api_keys, server.app_keys, server.has_all_metrics = {API_KEY}, {APP_KEY}, True
    with DatadogApi(server.url, API_KEY, APP_KEY) as api:
        yield Place(server, api)
    assert server.refused == 0, server.last_refusal


def test_the_second_push_writes_nothing_among_more_boards_and_monitors_than_a_page_of_the_list(here: Place) -> None:
    for number in range(230):
        here.datadog.put_dashboard(f"other-{number}", {"title": "x", "layout_type": "ordered", "widgets": []}, "2020")
        body = {"name": "x", "type": "query alert", "query": "q", "tags": ["managed_by:infra-health"], "options": {}}
        here.datadog.put_monitor(10_000 + number, body)
    here.datadog.judge = faults
    made = here.push()
    assert {each.kind for each in made} == {"dashboards", "monitors", "metadata"}
    assert all(each.id for each in made)
    assert len(here.datadog.dashboards) == 230 + 4
    assert len(here.datadog.writes) == len(made) + 1, "one write an object, two of a distribution"
    assert here.push() == []
    assert here.datadog.writes == []


def test_only_what_differs_is_written_and_what_is_no_longer_set_is_taken_away(here: Place) -> None:
    here.push()
    for condition, change in (("< 3", "10 -> 3"), ("none", "")):
        changed = [*ci_checks(flaky_tests=condition), *snapshot_checks()]
        (done,) = here.push(*changed)
        assert (done.kind, done.key, done.action) == ("dashboards", "health", "updated")
        assert change in "\n".join(done.changes)
        assert len(here.datadog.writes) == 1
        assert here.push(*changed) == []
    (tile,) = [one for one in definitions(here.board()) if one.get("title", "").endswith("flaky_tests")]
    assert "conditional_formats" not in tile["requests"][0]


def test_edits_by_hand_are_shown_and_left_alone_unless_forced(here: Place) -> None:
    here.push()
    board, metric = here.board(), "metta.infra.collector.up"
    board["title"] = "Renamed by somebody"
    board["widgets"][1]["definition"]["title"] = "My CI"
    here.monitor()["message"] += " @pagerduty"
    here.datadog.metadata[metric] = {"description": "Our collectors, see the wiki"}
    here.datadog.tags[DURATION.name] = {"metric_type": "distribution", "include_percentiles": False, "tags": ["env"]}
    edited = {each.key: "\n".join(each.changes) for each in here.diff() if each.action == "edited"}
    assert edited.keys() == {"health", "collector-down.ci", metric, DURATION.name}
    assert 'widgets[1].definition.title: "My CI" -> "CI"' in edited["health"]
    assert here.push() == []
    assert here.push(page=PAGE) != []
    assert here.board("Renamed by somebody")["widgets"][1]["definition"]["title"] == "My CI"
    assert here.monitor()["message"].endswith("@pagerduty")
    here.push(force=True)
    assert (here.board()["id"], here.board()["widgets"][1]["definition"]["title"]) == (board["id"], "CI")
    assert "infra-health" in here.datadog.metadata[metric]["description"]
    assert here.datadog.tags[DURATION.name]["include_percentiles"] is True
    assert here.datadog.tags[DURATION.name]["tags"] == sorted(DISTRIBUTION_TAGS)
    assert here.push() == []


def test_what_people_add_beside_our_keys_and_their_copies_are_no_edit_and_survive_an_update(here: Place) -> None:
    here.push()
    board, links = here.board(), [{"label": "mine", "link": "https://example.com"}]
    board["notify_list"] = ["who@example.com"]
    board["widgets"][1]["definition"]["widgets"][0]["definition"]["custom_links"] = links
    here.monitor()["options"]["silenced"] = {"*": None}
    copy = here.datadog.put_dashboard("zzz-clone", {**board, "title": "My copy"}, "2030-01-01T00:00:00+00:00")
    assert {each.action for each in here.diff()} == {"same"}
    assert any("My copy" in note for note in here.sync.notes)
    here.datadog.judge = faults  # what comes back from Datadog goes out again
    here.push(page=PAGE)
    assert here.board()["notify_list"] == ["who@example.com"]
    assert links in [one.get("custom_links") for one in definitions(here.board())]
    assert here.monitor()["options"]["silenced"] == {"*": None}
    assert here.datadog.dashboards["zzz-clone"]["widgets"] == copy["widgets"]
    assert here.push(page=PAGE) == []


def test_delete_removes_only_ours_of_the_environment_and_prune_what_left_the_configuration(here: Place) -> None:
    here.push()
    for prune in (False, True):
        unwanted = {each.key for each in here.diff(*ci_checks()) if each.action == "unwanted"}
        assert unwanted == {"checks.training", "missing.training"}
        here.push(*ci_checks(), prune=prune)
    assert {each.action for each in here.diff(*ci_checks())} == {"same"}
    Place(here.datadog, here.api, "staging").push()
    theirs = {"title": "Infra health", "layout_type": "ordered", "widgets": [], "description": "infra-health"}
    here.datadog.put_dashboard("their-board-id", theirs)
    here.datadog.put_monitor(999, {"name": "theirs", "type": "query alert", "tags": ["team:x"], "options": {}})
    for actual in here.sync.find(build(catalogue())):
        if actual.fingerprint:
            here.sync.delete(actual)
    titles = [each["title"] for each in here.datadog.dashboards.values()]
    assert len(titles) == 5
    assert [title for title in titles if "staging" not in title] == ["Infra health"]
    others = [number for number, each in here.datadog.monitors.items() if "env:staging" not in each["tags"]]
    assert others == [999]
    assert here.datadog.tags == {}
    assert not any("infra-health" in each["description"] for each in here.datadog.metadata.values())


def test_the_public_address_is_made_once_and_found_again(here: Place) -> None:
    here.push()
    here.datadog.judge = faults
    first = here.sync.share("tv")
    (share,) = here.datadog.shares.values()
    assert (first, here.board("Infra health TV")["id"]) == (share["public_url"], share["dashboard_id"])
    assert "tv" in {each.key for each in here.push(*ci_checks())}
    here.datadog.writes.clear()
    assert (here.sync.share("tv"), here.datadog.writes) == (first, [])


def test_an_address_that_is_not_datadog_s_is_told_and_gets_nothing(here: Place) -> None:
    for reply in (Reply(403, b"<html>Blocked</html>"), Reply(200, b"<html>"), Reply(200, {"status": "ok"})):
        here.datadog.script.append(reply)
        with pytest.raises((Unavailable, Rejected)):
            here.push()
    assert all(received.method == "GET" for received in here.datadog.received)


def test_a_rate_limit_is_waited_for_and_a_post_is_not_repeated_after_a_fault(here: Place) -> None:
    here.datadog.script.append(refusal(429, "Rate limit exceeded", X_RateLimit_Reset="0"))
    first = here.diff()[:1]
    here.datadog.script.append(refusal(503, "away"))
    with pytest.raises(Unavailable, match="503 away"):
        list(here.sync.push(first))
    assert not here.datadog.script
    list(here.sync.push(first))
    assert len(here.datadog.dashboards) == 1


def test_what_datadog_refuses_or_has_no_point_of_does_not_keep_the_rest_from_being_pushed(here: Place) -> None:
    refused = ("POST", "/api/v1/dashboard")
    here.datadog.intercept = lambda got: refusal(400, "no such widget") if (got.method, got.path) == refused else None
    here.datadog.has_all_metrics = False
    done = list(here.sync.push(here.diff()))
    assert ["no such widget" in each.reason for each in done if each.action == "failed"] == [True] * 4
    assert {each.action for each in done if each.kind == "metadata"} == {"waiting"}
    assert len(here.datadog.monitors) == sum(each.kind == "monitors" for each in done)
