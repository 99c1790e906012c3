"""What boards show, from a configuration and from what the store has: thresholds, repositories, types, tags."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.boards.catalogue import Catalogue, read_catalogue
from service.boards.sync import build
from service.collectors.registry import settings_of
from service.config.settings import Settings, StoreSettings
from service.domain.checks import update_checks
from service.domain.runs import Cause, Outcome, Run, new_run_id
from service.domain.samples import Kind, Metric, Sample
from service.store import Store
from tests.unit.boards.shapes import texts

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CI: dict[str, Any] = {"type": "github_ci", "schedule": "*/10 * * * *"}
TRAINING: dict[str, Any] = {"type": "snapshot", "schedule": "0 * * * *", "category": "training", "source": "t.json"}


async def read(folder: Path, collectors: Mapping[str, Mapping[str, Any]], **more: Any) -> tuple[Catalogue, list[str]]:
    made = {name: settings_of(each["type"]).model_validate(each) for name, each in collectors.items()}
    return await read_catalogue(Settings.model_validate({"collectors": made, "state_dir": folder, **more}), NOW)


async def store_run(folder: Path, collector: str, *samples: Sample) -> None:
    """A run of ``collector`` brought ``samples``."""
    store = await Store.open(folder, StoreSettings(), lambda: NOW)
    run = Run(new_run_id(collector, NOW), collector, Cause.SCHEDULE, NOW, outcome=Outcome.COMPLETE, ended=NOW)
    await store.runs.end(run, samples, update_checks([], samples, [], NOW))
    await store.close()


def measured(metric: str, kind: Kind = Kind.GAUGE, **tags: str) -> Sample:
    check = {"workflow_category": "training", "workflow_name": "w", "task": "t", "check": "c", "condition": "> 1"}
    return Sample(Metric(metric, kind), 1.0, NOW, check | tags)


async def test_what_the_settings_ask_for_is_shown_before_it_was_ever_measured_and_with_the_labels_that_it_came_with(
    tmp_path: Path,
) -> None:
    collectors = {"ci": CI | {"tests_blocking_merge": ["Tests"]}, "training": TRAINING}
    found, notes = await read(tmp_path, collectors)
    assert {each.tags["task"] for each in found.checks} >= {"tests_blocking_merge", "workflow_duration", "open_bugs"}
    assert {each.category for each in found.checks} == {"ci"}
    assert list(found.distributions.values()) == ["ci"]
    assert found.collectors[0].quota is not None
    assert "minute" in {each.metric.unit for each in found.checks}, "as the type says"
    assert [note[:35] for note in notes] == ["nothing of training has been stored"]
    bugs = {"workflow_category": "ci", "workflow_name": "bug_queue", "task": "open_bugs", "check": "count"}
    await store_run(tmp_path, "ci", measured("metta.infra.cron.github.bugs.count", Kind.GAUGE, **bugs, label="ui"))
    found, _ = await read(tmp_path, collectors)
    assert [each.groups for each in found.checks if each.tags["task"] == "open_bugs"] == [{"label"}]


async def test_repositories_and_collectors_share_the_panel_of_a_check(tmp_path: Path) -> None:
    slow = CI | {"repositories": ["d/e"], "schedule": "0 6 * * 1-5", "thresholds": {"flaky_tests": 2}}
    found, _ = await read(tmp_path, {"ci": CI | {"repositories": ["a/b", "a/c"]}, "slow": slow})
    checks = {each.tags["check"]: each for each in found.checks}
    # Where collectors judge by different thresholds the tile claims none.
    assert (checks["flaky_tests"].condition, checks["p90_minutes"].condition) == ("", "< 5.0")
    assert (checks["flaky_tests"].groups, checks["flaky_tests"].every) == ({"repo"}, timedelta(days=3)), "a weekend"
    assert checks["flaky_tests"].max_age == timedelta(0), "each run measures it anew"


async def test_the_checks_of_a_snapshot_come_from_the_store(tmp_path: Path) -> None:
    hearts = measured("metta.infra.stablesuite.hearts", run="1")
    steps = measured("metta.infra.stablesuite.steps", Kind.COUNT, check="d", label="x")
    latency = measured("metta.infra.stablesuite.latency", Kind.DISTRIBUTION, workflow="eval", commit="abc")
    plain = Sample(Metric("metta.plain"), 1.0, NOW, {"host": "a"})
    await store_run(tmp_path, "training", hearts, steps, latency, plain)
    found, notes = await read(tmp_path, {"training": TRAINING | {"notify_after": 2, "max_age": "36h"}})
    assert {(each.notify_after, each.max_age) for each in found.checks} == {(2, timedelta(hours=36))}
    assert [(each.metric.name, each.condition, each.groups) for each in found.checks] == [
        ("metta.infra.stablesuite.hearts", "> 1", set()),
        ("metta.infra.stablesuite.steps", "> 1", {"label"}),
    ]
    assert {each.name: of for each, of in found.distributions.items()} == {latency.metric.name: "training"}
    for sample in (plain, steps):
        assert found.metrics[sample.metric.name].kind is sample.metric.kind
    assert notes == []
    assert any("hearts{" in query for each in build(found) for query in texts(each.content))


async def test_a_collector_that_is_switched_off_is_shown_nowhere_and_a_shadow_looks_at_the_live_names(
    tmp_path: Path,
) -> None:
    found, notes = await read(tmp_path, {"ci": CI, "training": TRAINING | {"enabled": False}}, mode="shadow")
    assert [each.name for each in found.collectors] == ["ci"]
    assert any("shadow" in note for note in notes)
    assert not any("shadow" in query for each in build(found) for query in texts(each.content))
    empty, _ = await read(tmp_path, {"ci": CI | {"enabled": False}})
    assert (empty.collectors, empty.checks, empty.categories) == ([], [], [])
    assert build(empty)
