"""``--once`` and ``collect`` as a developer types them."""

import json

from service.domain.samples import REQUIRED_TAGS
from tests.acceptance.load import add_queue
from tests.acceptance.program import SNAPSHOT, Place


def hearts(here: Place) -> list[float]:
    return [point.value for point in here.intake.points if point.metric.endswith(".hearts")]


def test_once_collects_delivers_and_prints_a_table_a_collector(here: Place) -> None:
    done = here.run("--once")
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in ("ci: Complete", "training: Complete", "metta.infra.stablesuite.hearts"))
    assert f"{here.intake.accepted} points delivered" in done.stderr
    ups = [point for point in here.intake.points if point.metric == "metta.infra.collector.up"]
    assert len(ups) == 2, "each collector ran once"
    assert (here.intake.refused, here.intake.dropped) == (0, 0)


def test_only_what_is_to_be_pushed_is_kept_and_sent_and_a_dry_run_prints_it_as_json(here: Place) -> None:
    done = here.run("--once", "--dry-run")
    assert done.returncode == 0
    samples = json.loads(done.stdout)
    assert {tuple(sample) for sample in samples} == {("metric", "value", "tags", "kind", "timestamp")}
    checks = [sample["tags"].keys() for sample in samples if "check" in sample["tags"]]
    assert checks
    assert all(tags >= set(REQUIRED_TAGS) - {"version"} for tags in checks)
    written = here.run("collect", "training", "-o", "samples.json")
    assert (written.returncode, "Nothing was sent (use --push" in written.stderr) == (0, True)
    assert [sample["value"] for sample in json.loads((here.folder / "samples.json").read_text())] == [0.92]
    assert not here.intake.requests
    assert not here.state_dir.exists()
    assert here.json("collect", "training", "--push")["delivery"]["delivered"] == here.intake.accepted > 0


def test_texts_that_no_stream_can_write_are_shown_all_the_same(here: Place) -> None:
    add_queue(here, "odd", backoff_limit=0)
    for command in ("--once", "preview queue --all"):
        done = here.run(*command.split())
        assert "half a pair " in done.stdout, command
        assert "\x1b" not in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr, command
    with here.daemon() as daemon:
        runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
        assert runs["queue"]["outcome"] == "Partial"
        for path in ("/", "/tv", "/metrics", "/api/v1/log", f"/runs/{runs['queue']['id']}"):
            assert daemon.http.get(path).status_code == 200
        assert daemon.end() == 0


def test_without_a_good_key_nothing_is_lost_and_the_next_pass_delivers_it(here: Place) -> None:
    first = here.run("--once", "--only", "training", environ={"DD_API_KEY": None})
    assert (first.returncode, "DD_API_KEY" in first.stderr) == (1, True)
    # Each pass has a series of its own, because two may fall into one second.
    here.write_snapshot([SNAPSHOT | {"tags": {"pass": "second"}}])
    wrong = here.run("--once", "--only", "training", environ={"DD_API_KEY": "f" * 32})
    assert (wrong.returncode, "key" in wrong.stderr, "f" * 32 in wrong.stderr + wrong.stdout) == (1, True, False)
    here.write_snapshot([SNAPSHOT | {"tags": {"pass": "third"}}])
    assert here.run("--once", "--only", "training").returncode == 0
    assert len(hearts(here)) == 3
    assert "collector:ci" not in {tag for point in here.intake.points for tag in point.tags}


def test_bad_records_make_a_pass_partial_and_a_bad_file_fails_it(here: Place) -> None:
    here.write_snapshot([SNAPSHOT, SNAPSHOT | {"metric": "sps", "value": "fast"}])
    done = here.run("collect", "training")
    assert (done.returncode, "partial" in done.stderr, "record 2" in done.stderr) == (0, True, True)
    assert here.run("collect", "training", "--strict").returncode == 1
    here.write_snapshot(json.dumps([SNAPSHOT])[:-20])
    done = here.run("collect", "training")
    assert (done.returncode, "training.json" in done.stderr) == (1, True)


def test_a_wrong_configuration_is_named_with_its_line_and_key(here: Place) -> None:
    for name, value in (("ALL_PROXY", "ftp://x:1"), ("INFRA_HEALTH_STORE__URL", "postgresql://test@127.0.0.1:port/x")):
        done = here.run("--once", environ={name: value})
        assert (done.returncode, len(done.stderr.splitlines())) == (78, 1), done.stderr
    here.config["http"]["prot"] = 80
    here.write_config()
    line = (here.folder / "config.yaml").read_text().splitlines().index("  prot: 80") + 1
    done = here.run("--once")
    assert done.returncode == 78
    assert f"config.yaml:{line}:3: http.prot: " in done.stderr
    assert "port" in done.stderr
