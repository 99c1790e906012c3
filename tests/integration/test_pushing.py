"""Pushing, against a stand-in for Datadog's API that is stricter than Datadog."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.adapters.datadog_admin import DatadogAdmin, Keys
from service.adapters.datadog_client import NotThere
from service.boards.plan import Act, Kind, Step, steps, wanted
from service.boards.subjects import Catalogue, Subject
from service.demo.serving import served
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.pushing import Pusher
from tests.datadog_server import API_KEY, APP_KEY, FakeDatadog
from tests.unit.boards.test_boards import DURATION, catalogue, ci_subjects

KINDS = list(Kind)


FLAKY = "latest_state_of_main.tests_blocking_merge.flaky_tests"


def few(**settings: Any) -> tuple[Subject, ...]:
    """Of the checks that there are: a board of them all takes a second to be judged."""
    return (*(each for each in ci_subjects(**settings) if each.check in ("flaky_tests", "failing_count")), *_SNAPSHOT)


_SNAPSHOT = catalogue().subjects[-2:]


def small(**changes: Any) -> Catalogue:
    return catalogue(*changes.pop("subjects", few()), **changes)


class Place:
    """A Datadog and who pushes to it."""

    def __init__(self, datadog: FakeDatadog, pusher: Pusher, notes: list[str]) -> None:
        self.datadog = datadog
        self.pusher = pusher
        self.notes = notes

    def plan(self, *, force: bool = False, **changes: Any) -> list[Step]:
        wishes = wanted(small(**changes))
        return steps(wishes, self.pusher.find(wishes, KINDS), force=force)

    def push(self, *, force: bool = False, **changes: Any) -> list[Step]:
        """The steps that wrote something."""
        done = [each for each in self.plan(force=force, **changes) if each.act in (Act.CREATE, Act.UPDATE)]
        for each in done:
            self.pusher.write(each)
        return done

    def board(self, title: str = "Infra health") -> dict[str, Any]:
        return next(each for each in self.datadog.dashboards.values() if each["title"] == title)


@contextmanager
def place(datadog: FakeDatadog, api_key: str = API_KEY, env: str = "production") -> Iterator[Place]:
    notes: list[str] = []
    with served(datadog.app()) as (url,), DatadogAdmin(url, Keys(api_key, APP_KEY)) as admin:
        yield Place(datadog, Pusher(admin, env, notes.append), notes)


@pytest.fixture
def here() -> Iterator[Place]:
    """A Datadog that fills in defaults, as the real one does."""
    with place(FakeDatadog(fills=True)) as it:
        yield it
        assert it.datadog.refusals == []


@pytest.mark.parametrize("fills", [False, True])
def test_the_second_push_writes_nothing(fills: bool) -> None:
    with place(FakeDatadog(fills=fills)) as here:
        made = here.push()
        assert {each.kind for each in made} == set(Kind)
        assert len(here.datadog.dashboards) == 3
        here.datadog.writes.clear()
        assert here.push() == []
        assert here.datadog.writes == []
        assert here.datadog.refusals == []


def test_only_what_differs_is_written(here: Place) -> None:
    here.push()
    here.datadog.writes.clear()
    changed = few(thresholds={"flaky_tests": 3})
    done = here.push(subjects=changed)
    assert {(each.kind, each.key) for each in done} == {
        (Kind.DASHBOARD, "health"),
        (Kind.MONITOR, f"check.ci.{FLAKY}"),
    }
    told = "\n".join(line for each in done for line in each.changes)
    assert "10 -> 3" in told
    assert not any(write.startswith("POST") for write in here.datadog.writes)
    assert here.push(subjects=changed) == []


def test_ours_are_found_again_by_their_mark_whatever_their_title(here: Place) -> None:
    here.push()
    board = here.board()
    board["title"] = "Renamed by somebody"
    monitor = next(iter(here.datadog.monitors.values()))
    monitor["name"] = "Renamed"
    acts = {(each.kind, each.act) for each in here.plan() if each.act is not Act.SAME}
    assert acts == {(Kind.DASHBOARD, Act.EDITED), (Kind.MONITOR, Act.EDITED)}
    here.push(force=True)
    assert len(here.datadog.dashboards) == 3
    assert here.board()["id"] == board["id"]


def test_a_board_edited_by_hand_is_shown_and_left_alone_unless_forced(here: Place) -> None:
    here.push()
    board = here.board()
    group = board["widgets"][1]["definition"]
    group["title"] = "My CI"
    group["widgets"].append({"definition": {"type": "note", "content": "mine"}, "id": 99})
    here.datadog.writes.clear()
    (edited,) = [each for each in here.plan() if each.act is Act.EDITED]
    assert 'widgets[1].definition.title: "My CI" -> "CI"' in edited.changes
    assert any('"mine"' in line for line in edited.changes)
    assert here.push() == []
    assert here.push(page="https://health.example") != []
    assert here.board()["widgets"][1]["definition"]["title"] == "My CI"
    here.push(force=True)
    assert here.board()["widgets"][1]["definition"]["title"] == "CI"
    here.datadog.writes.clear()
    assert here.push() == []


def test_an_edit_that_only_adds_is_an_edit_too(here: Place) -> None:
    here.push()
    tile = here.board()["widgets"][1]["definition"]["widgets"][1]["definition"]
    assert tile["type"] == "query_value"
    tile["custom_links"] = [{"label": "mine", "link": "https://example.com"}]
    assert [each.key for each in here.plan() if each.act is Act.EDITED] == ["health"]


def test_a_monitor_edited_by_hand_is_left_alone_and_muting_is_no_edit(here: Place) -> None:
    here.push()
    monitor = next(each for each in here.datadog.monitors.values() if "is down" in each["name"])
    monitor["options"]["silenced"] = {"*": None}
    assert [each for each in here.plan() if each.act is not Act.SAME] == []
    monitor["message"] += " @pagerduty"
    assert [each.act for each in here.plan() if each.act is not Act.SAME] == [Act.EDITED]


def test_what_people_set_beside_the_content_survives_an_update(here: Place) -> None:
    here.push()
    here.board()["template_variable_presets"] = [{"name": "mine", "template_variables": [{"name": "env"}]}]
    here.board()["notify_list"] = ["who@example.com"]
    here.push(page="https://health.example")
    assert here.board()["template_variable_presets"][0]["name"] == "mine"
    assert here.board()["notify_list"] == ["who@example.com"]


def test_delete_removes_only_ours() -> None:
    datadog = FakeDatadog()
    with place(datadog) as here, place(datadog, env="staging") as other:
        here.push()
        other.push(env="staging")
        theirs = {"title": "Infra health", "layout_type": "ordered", "widgets": [], "description": "infra-health"}
        datadog._keep("their-board-id", theirs, "2020-01-01T00:00:00+00:00")
        datadog._keep_monitor(
            999, {"name": "theirs", "type": "query alert", "query": "q", "tags": ["team:x"], "options": {}}
        )
        for found in here.pusher.find(wanted(small()), KINDS):
            if found.mark:
                here.pusher.remove(found)
        titles = sorted(each["title"] for each in datadog.dashboards.values())
        assert titles == ["Infra health", *sorted(board for board in titles if "staging" in board)]
        assert len(titles) == 4
        assert 999 in datadog.monitors
        assert all(number == 999 or "env:staging" in each["tags"] for number, each in datadog.monitors.items())
        assert datadog.tags == {}
        assert not any("infra-health" in each["description"] for each in datadog.metadata.values())


def test_a_cloned_board_is_a_copy_and_stays_as_it_is(here: Place) -> None:
    here.push()
    clone = here.datadog._keep("zzz-clone", {**here.board(), "title": "My copy"}, "2030-01-01T00:00:00+00:00")
    here.push(page="https://health.example")
    assert here.datadog.dashboards["zzz-clone"]["widgets"] == clone["widgets"]
    assert any("My copy" in note for note in here.notes)


def test_somebody_s_words_about_a_metric_are_not_overwritten(here: Place) -> None:
    name = "metta.infra.collector.up"
    here.datadog.metadata[name] = {"description": "Our collectors, see the wiki"}
    edited = [each for each in here.plan() if each.act is Act.EDITED]
    assert [each.key for each in edited] == [name]
    here.push(force=True)
    assert "infra-health" in here.datadog.metadata[name]["description"]


def test_the_type_of_a_metric_that_was_a_count_becomes_gauge(here: Place) -> None:
    name = "metta.infra.cron.ci.workflow.flaky_tests"
    here.datadog.metadata[name] = {"type": "count"}
    step = next(each for each in here.plan() if each.key == name)
    assert 'metadata.type: "count" -> "gauge"' in step.changes
    here.push()
    assert here.datadog.metadata[name]["type"] == "gauge"


def test_percentiles_of_the_distribution_are_switched_on_and_kept_on(here: Place) -> None:
    here.datadog.tags[DURATION.name] = {"metric_type": "distribution", "include_percentiles": False, "tags": ["env"]}
    here.push(force=True)
    assert here.datadog.tags[DURATION.name]["include_percentiles"] is True
    assert here.datadog.tags[DURATION.name]["tags"] == ["env", "kind", "repo", "workflow"]
    here.datadog.writes.clear()
    here.push()
    assert here.datadog.writes == []


def test_a_check_that_left_the_configuration_leaves_an_unwanted_monitor(here: Place) -> None:
    here.push()
    left = tuple(each for each in few() if each.check == "failing_count")
    unwanted = {each.key for each in here.plan(subjects=left, metrics=small().metrics) if each.act is Act.UNWANTED}
    assert unwanted == {"checks.training", f"check.ci.{FLAKY}"}


def test_a_metric_without_points_waits_for_them() -> None:
    with place(FakeDatadog(metrics=set())) as here:
        waiting = [each for each in here.plan() if each.kind is Kind.METRIC]
        assert DURATION.name in {each.key for each in waiting}
        for step in waiting:
            assert step.act is Act.CREATE
            with pytest.raises(NotThere):
                here.pusher.write(step)


def test_the_public_address_is_made_once_and_found_again(here: Place) -> None:
    here.push()
    first = here.pusher.share("tv", "custom_screenboard")
    assert first.startswith("https://p.datadoghq.com/sb/")
    assert here.datadog.shares[0]["dashboard_id"] == here.board("Infra health TV")["id"]
    assert here.push() == []
    here.push(page="https://health.example")
    assert here.pusher.share("tv", "custom_screenboard") == first
    assert len(here.datadog.shares) == 1


def test_wrong_keys_are_told_without_the_keys() -> None:
    with place(FakeDatadog(), api_key="f" * 32) as here:
        with pytest.raises(Unauthorized) as refused:
            here.push()
        assert "f" * 32 not in str(refused.value)


def test_a_rate_limit_is_waited_for_and_a_post_is_not_repeated_after_a_fault() -> None:
    with place(FakeDatadog()) as here:
        here.datadog.failing = [(429, {"X-RateLimit-Reset": "0"}, {"errors": ["Rate limit exceeded"]})]
        assert here.plan()
        step = here.plan()[0]
        here.datadog.failing = [(503, {}, {"errors": ["away"]})]
        with pytest.raises(Unavailable):
            here.pusher.write(step)
        assert here.datadog.failing == []
        here.pusher.write(step)
        assert len(here.datadog.dashboards) == 1


def test_a_push_that_died_between_its_two_writes_is_finished_by_the_next() -> None:
    with place(FakeDatadog(fills=True)) as here:
        steps_ = [each for each in here.plan() if each.kind is Kind.MONITOR]
        here.pusher.write(steps_[0])
        keep = here.datadog._keep_monitor

        def dying(number: int, body: Any) -> Any:
            if number in here.datadog.monitors:
                return here.datadog._refuse(400, "died")
            return keep(number, body)

        here.datadog._keep_monitor = dying  # type: ignore[method-assign]
        with pytest.raises(Rejected):
            here.pusher.write(steps_[1])
        here.datadog._keep_monitor = keep  # type: ignore[method-assign]
        assert len(here.datadog.monitors) == 2
        assert {each.act for each in here.plan() if each.key == steps_[1].key} == {Act.UPDATE}
        here.push()
        assert {each.act for each in here.plan()} == {Act.SAME}


def test_defaults_that_are_filled_in_everywhere_are_one_line_of_a_difference(here: Place) -> None:
    here.push()
    here.board()["widgets"][0]["definition"]["content"] = "mine"
    (step,) = (each for each in here.plan() if each.act is Act.EDITED)
    assert step.changes[0].startswith('widgets[0].definition.content: "mine" -> ')
    assert step.changes[-1].startswith("yaxis in ")
    assert len(step.changes) == 2


def test_an_edited_board_with_a_widget_that_the_client_does_not_know_is_told_not_thrown(here: Place) -> None:
    here.push()
    here.board("Infra health TV")["widgets"][0]["definition"] = {"type": "of_tomorrow", "requests": []}
    address = here.pusher.share("tv", "custom_screenboard")
    assert address.startswith("https://p.datadoghq.com/sb/")
    assert any("the client does not know" in note for note in here.notes)


def test_more_boards_than_a_page_of_the_list() -> None:
    with place(FakeDatadog()) as here:
        for number in range(230):
            here.datadog._keep(f"other-{number}", {"title": "x", "layout_type": "ordered", "widgets": []}, "2020")
        here.push()
        here.datadog.writes.clear()
        assert here.push() == []


def test_the_interval_decides_how_long_a_check_may_fail(here: Place) -> None:
    here.push()
    slower = tuple(replace(each, every=timedelta(hours=2)) for each in few())
    done = {each.key for each in here.push(subjects=slower) if each.kind is Kind.MONITOR}
    assert "checks.training" in done
    assert not any(key.startswith("collector-down") for key in done)
