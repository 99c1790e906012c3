"""What boards are about, from a configuration and from what the store saw: thresholds, repositories, shadows, types."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.boards.plan import wanted
from service.boards.subjects import Catalogue, Subject
from service.catalogue import catalogue
from service.collectors import registry
from service.config import CollectorSettings, Settings
from service.domain.samples import Kind, Metric, Sample
from tests.integration.store_cases import NOW, keep, opened, started

CI = {"type": "github_ci", "schedule": "*/10 * * * *"}
TRAINING = {"type": "snapshot", "schedule": "0 * * * *", "category": "training"}


def settings(folder: Path, collectors: Mapping[str, Mapping[str, Any]], **more: Any) -> Settings:
    types = registry.installed()
    made: dict[str, CollectorSettings] = {
        name: types[str(each["type"])].Settings.model_validate(dict(each)) for name, each in collectors.items()
    }
    return Settings.model_validate({"collectors": made, "state_dir": folder, **more})


async def of(folder: Path, collectors: Mapping[str, Mapping[str, Any]], **more: Any) -> tuple[Catalogue, list[str]]:
    return await catalogue(settings(folder, collectors, **more), NOW)


async def seen(folder: Path, job: str, *samples: Sample) -> None:
    """A run of ``job`` brought ``samples``."""
    async with opened(folder) as store:
        await keep(store, started(0, job), list(samples))


def measured(metric: str, kind: Kind = Kind.GAUGE) -> Sample:
    tags = {"workflow_category": "training", "workflow_name": "w", "task": "t", "check": "c", "condition": "> 1"}
    return Sample(Metric(metric, kind), 1.0, NOW, tags)


def flaky(found: Catalogue) -> list[Subject]:
    return [each for each in found.subjects if each.check == "flaky_tests"]


async def test_repositories_under_one_threshold_are_one_subject(tmp_path: Path) -> None:
    found, _ = await of(tmp_path, {"ci": CI | {"repositories": ["a/b", "a/c"]}, "ci2": CI | {"repositories": ["d/e"]}})
    (subject,) = flaky(found)
    assert (subject.only, subject.groups) == ({}, ("repo",))


async def test_each_repository_is_judged_by_its_own_collector_s_threshold(tmp_path: Path) -> None:
    found, _ = await of(
        tmp_path,
        {
            "ci": CI | {"repositories": ["a/b", "a/c"]},
            "strict": CI | {"repositories": ["d/e"], "thresholds": {"flaky_tests": 2}},
        },
    )
    assert {each.only["repo"]: each.condition for each in flaky(found)} == {
        "a/b": "< 10",
        "a/c": "< 10",
        "d/e": "< 2",
    }
    assert [each.only for each in found.subjects if each.check == "p90_minutes"] == [{}]


async def test_repositories_that_are_read_at_different_times_fail_in_their_own_time(tmp_path: Path) -> None:
    slow = CI | {"repositories": ["d/e"], "schedule": "0 6 * * *"}
    found, _ = await of(tmp_path, {"ci": CI | {"repositories": ["a/b"]}, "slow": slow})
    assert {each.only["repo"]: each.every for each in flaky(found)} == {
        "a/b": timedelta(minutes=10),
        "d/e": timedelta(days=1),
    }


@pytest.mark.parametrize("mode", ["live", "shadow"])
async def test_what_a_shadow_stored_gets_its_row_under_the_live_name(tmp_path: Path, mode: str) -> None:
    stored = (measured("shadow.metta.infra.stablesuite.hearts"), measured("shadow.metta.infra.check.state"))
    await seen(tmp_path, "training", *stored)
    found, notes = await of(tmp_path, {"training": TRAINING}, mode=mode)
    assert [each.metric.name for each in found.subjects] == ["metta.infra.stablesuite.hearts"]
    assert not any(each.name.startswith("shadow.") for each in found.metrics)
    assert any("shadow" in note for note in notes) is (mode == "shadow")


async def test_a_metric_that_another_package_declares_brings_its_unit_and_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "acme_boards-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-boards\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[infra_health.collectors]\nqueue = acme_boards:Queue\n")
    (package.parent / "acme_boards.py").write_text(
        "from service.config import CollectorSettings\n"
        "from service.domain.samples import Metric\n"
        "class Queue:\n"
        "    class Settings(CollectorSettings):\n"
        "        pass\n"
        "    metrics = (Metric('metta.queue.depth', unit='job', help='Jobs that wait'),)\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    await seen(tmp_path, "queue", measured("metta.queue.depth"), measured("metta.queue.other"))
    found, _ = await of(tmp_path, {"queue": {"type": "queue", "schedule": "* * * * *"}})
    known = {each.metric.name: (each.metric.unit, each.metric.help) for each in found.subjects}
    assert known == {"metta.queue.depth": ("job", "Jobs that wait"), "metta.queue.other": ("", "")}


async def test_a_collector_that_is_switched_off_is_shown_nowhere(tmp_path: Path) -> None:
    found, _ = await of(tmp_path, {"ci": CI, "training": TRAINING | {"enabled": False}})
    assert [each.name for each in found.collectors] == ["ci"]
    empty, _ = await of(tmp_path, {"ci": CI | {"enabled": False}})
    assert (empty.collectors, empty.subjects, empty.categories) == ((), (), [])
    assert wanted(empty)


@pytest.mark.parametrize(("heartbeat", "has_holes"), [("10m", False), ("11m", True)])
async def test_a_heartbeat_too_slow_for_boards_is_told(tmp_path: Path, heartbeat: str, has_holes: bool) -> None:
    _, notes = await of(tmp_path, {"ci": CI}, datadog={"heartbeat": heartbeat})
    assert any("holes" in note for note in notes) is has_holes
