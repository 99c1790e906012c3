"""``--once`` and ``collect`` as a developer types them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.domain.samples import REQUIRED_TAGS
from tests.acceptance.load import add_hostile
from tests.acceptance.program import SNAPSHOT, Place, place


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        yield it


def test_once_collects_delivers_and_prints_a_table_a_collector(here: Place) -> None:
    done = here.run("--once")
    assert done.returncode == 0, done.stderr
    assert "ci: Complete" in done.stdout
    assert "training: Complete" in done.stdout
    assert "metta.infra.stablesuite.hearts" in done.stdout
    assert f"{here.intake.accepted} points delivered" in done.stderr
    ups = [point for point in here.intake.points if point.metric == "metta.infra.collector.up"]
    assert len(ups) == 2  # each collector ran once
    names = {point.metric for point in here.intake.points}
    assert {"metta.infra.cron.ci.workflow.success", "metta.infra.stablesuite.hearts"} <= names
    assert {"metta.infra.check.state", "metta.infra.collector.up"} <= names
    assert (here.intake.refused, here.intake.dropped) == (0, 0)


def test_only_the_named_collectors_run(here: Place) -> None:
    for nobody in ("", " , "):
        done = here.run("--once", "--only", nobody)
        assert done.returncode == 2, "a script's empty variable means neither all of them nor none"
        assert "--only names no collector" in done.stderr
    assert here.run("--once", "--only", "training").returncode == 0
    assert {tag for point in here.intake.points for tag in point.tags if tag.startswith("collector:")} == {
        "collector:training"
    }


def test_dry_run_prints_samples_as_json_and_keeps_and_sends_nothing(here: Place) -> None:
    done = here.run("--once", "--dry-run")
    assert done.returncode == 0
    samples = json.loads(done.stdout)
    assert {tuple(sample) for sample in samples} == {("metric", "value", "tags", "kind", "timestamp")}
    assert all(set(sample["tags"]) >= set(REQUIRED_TAGS) - {"version"} for sample in samples)
    assert here.requests == 0
    assert not here.state_dir.exists()


@pytest.mark.parametrize("command", ["--once", "--once --dry-run", "collect hostile", "preview hostile"])
def test_texts_that_no_stream_can_write_are_shown_all_the_same(here: Place, command: str) -> None:
    add_hostile(here)
    done = here.run(*command.split())
    assert "half a pair \\ud800" in done.stdout
    assert "\x1b" not in done.stdout
    assert "UnicodeEncodeError" not in done.stderr


def test_a_daemon_shows_texts_of_any_kind(here: Place) -> None:
    add_hostile(here)
    with here.daemon() as daemon:
        runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
        assert runs["hostile"]["outcome"] == "Partial"
        for path in ("/", "/tv", "/metrics", "/api/v1/log", f"/runs/{runs['hostile']['id']}"):
            assert daemon.http.get(path).status_code == 200
        assert daemon.end() == 0


def test_collect_without_a_flag_says_that_nothing_was_sent(here: Place) -> None:
    done = here.run("collect", "training", "-o", "samples.json")
    assert done.returncode == 0
    assert "Nothing was sent" in done.stderr
    assert [sample["value"] for sample in json.loads((here.folder / "samples.json").read_text())] == [0.92]
    assert here.requests == 0


def test_collect_push_sends(here: Place) -> None:
    done = here.run("collect", "training", "--push", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["delivery"]["delivered"] == here.intake.accepted > 0


def test_an_unknown_collector_is_named_with_the_known_ones(here: Place) -> None:
    done = here.run("collect", "traning")
    assert done.returncode == 2
    assert "traning" in done.stderr
    assert "training" in done.stderr


def test_without_a_key_nothing_is_lost_and_the_next_pass_delivers_it(here: Place) -> None:
    first = here.run("--once", "--only", "training", environ={"DD_API_KEY": None})
    assert first.returncode == 1
    assert "DD_API_KEY" in first.stderr
    # Another series, because both passes may fall into one second.
    here.write_snapshot([SNAPSHOT | {"tags": {"pass": "second"}}])
    assert here.run("--once", "--only", "training").returncode == 0
    hearts = [point for point in here.intake.points if point.metric.endswith(".hearts")]
    assert len(hearts) == 2


def test_a_wrong_key_fails_the_pass_at_once(here: Place) -> None:
    done = here.run("--once", "--only", "training", environ={"DD_API_KEY": "f" * 32})
    assert done.returncode == 1
    assert "key" in done.stderr
    assert "f" * 32 not in done.stderr + done.stdout


def test_one_collector_that_fails_leaves_the_other_standing(here: Place) -> None:
    done = here.run("--once", environ={"GITHUB_API_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "ci: failed" in done.stderr
    assert any(point.metric.endswith(".hearts") for point in here.intake.points)
    ups = {
        tag: point.value for point in here.intake.points for tag in point.tags if point.metric.endswith("collector.up")
    }
    assert (ups["collector:ci"], ups["collector:training"]) == (0, 1)


def test_a_half_written_snapshot_fails_its_run_and_names_the_place(here: Place) -> None:
    here.write_snapshot(json.dumps([SNAPSHOT])[:-20])
    done = here.run("--once", "--only", "training")
    assert done.returncode == 1
    assert "training.json" in done.stderr


def test_records_that_were_left_out_make_the_pass_partial_and_strict_fails_it(here: Place) -> None:
    here.write_snapshot([SNAPSHOT, SNAPSHOT | {"metric": "sps", "value": "fast"}])
    done = here.run("--once", "--only", "training")
    assert done.returncode == 0
    assert "partial" in done.stderr
    assert "record 2" in done.stderr
    assert here.run("--once", "--only", "training", "--strict").returncode == 1


def test_a_wrong_configuration_is_named_with_its_line_and_key(here: Place) -> None:
    here.config["http"]["prot"] = 80
    here.write_config()
    done = here.run("--once")
    assert done.returncode == 78
    line = (here.folder / "config.yaml").read_text().splitlines().index("  prot: 80") + 1
    assert f"config.yaml:{line}:3: http.prot: " in done.stderr
    assert "port" in done.stderr


def test_check_prints_the_resolved_settings_without_secrets(here: Place) -> None:
    done = here.run("check")
    assert done.returncode == 0, done.stderr
    assert "ionic-team/ionic-framework" in done.stdout
    assert "series" in done.stdout
    assert here.environ["DD_API_KEY"] not in done.stdout


def test_list_workflows_prints_what_the_lists_take(here: Place) -> None:
    done = here.run("list-workflows", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in json.loads(done.stdout)] == ["Stencil Nightly Build"]
