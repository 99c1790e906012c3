"""Collectors of others: a program under the running daemon, and the package of docs/collectors.md.

What forms a program may print, and that none of its processes is left: tests/integration/exec/test_programs.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.forked import ROOT
from tests.acceptance.program import SNAPSHOT, Place, wait_for

TAGS = {"job": "arena", "category": "training", "criterion": "sps", "operator": ">=", "target": "40000"}


def test_a_program_is_a_collector_of_the_daemon(here: Place) -> None:
    names = [f"metta.infra.cron.stable.acceptance.{name}" for name in ("value", "target", "status")]
    triple = [{"metric": name, "value": value, "tags": TAGS} for name, value in zip(names, (3e4, 4e4, 0), strict=True)]
    text = json.dumps([*triple, SNAPSHOT, {"metric": "queue.length", "value": 3, "tags": {"zone": "a"}}])
    source = f"import os, sys; print('no key:', os.environ.get('DD_API_KEY'), file=sys.stderr); print({text!r})"
    probe = {"type": "exec", "schedule": "@hourly", "namespace": "acme", "command": [sys.executable, "-c", source]}
    secrets = {"TOKEN": str(here.write_snapshot("of the program", "token"))}
    here.config["collectors"] = {"probe": probe | {"secrets": secrets}}
    here.write_config()
    with here.daemon() as daemon:
        (run,) = wait_for(lambda: [each for each in daemon.get("/api/v1/runs")["runs"] if each["ended"]], daemon)
        assert run["outcome"] == "Complete"
        wait_for(lambda: daemon.get(f"/api/v1/runs/{run['id']}")["delivery"]["delivered"] == run["samples"], daemon)
        sent = {each.metric: each for each in here.intake.points}
        assert {*names, "acme.hearts", "acme.queue.length", "metta.infra.check.state"} <= sent.keys()
        assert {f"{name}:{value}" for name, value in TAGS.items()} <= set(sent[names[2]].tags)
        checks = {each["tags"]["check"]: each for each in daemon.get("/api/v1/collectors/probe/checks")["checks"]}
        assert (checks["sps"]["status"], checks["sps"]["condition"]) == ("fail", ">= 40000")
        lines = [each["message"] for each in daemon.get(f"/api/v1/runs/{run['id']}/log")["lines"]]
        assert lines == ["run started", "secret TOKEN taken over", "no key: None", "run ended"]
        assert daemon.end() == 0
    rows = [line.split() for line in here.run("collect", "probe").stdout.splitlines() if "acceptance" in line]
    assert [row[2:4] for row in rows] == [[">=", "40000"]] * 3, "the condition beside each of the three"
    told = here.json("check")
    assert told["series"]["collectors"]["probe"] == 5 + 2 * 4 + 5, "its own, those of two checks, its metrics"
    assert [each["trouble"] for each in told["secrets"] if each["name"] == "secret TOKEN"] == [None]


def test_the_documented_package_is_built_tested_and_run(here: Place, tmp_path: Path) -> None:
    (sources := tmp_path / "acme").mkdir()
    text = (ROOT / "docs" / "collectors.md").read_text()
    for name, content in re.findall(r"\*\*`([\w.]+)`\*\*\n\n```\w+\n(.*?)```\n", text, re.DOTALL):
        (sources / name).write_text(content)
    assert sorted(path.name for path in sources.iterdir()) == ["acme_queue.py", "pyproject.toml", "test_acme_queue.py"]
    # This environment has no pip of its own; the interpreter that it was made with has.
    python = f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}"
    pip = [python, "-m", "pip", "--python", sys.executable, "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", "installed"]
    subprocess.run([*pip, *options, "./acme"], check=True, timeout=60, cwd=tmp_path)
    (sources / "acme_queue.py").unlink()  # what is tested is what was installed
    here.environ["PYTHONPATH"] = os.pathsep.join((str(tmp_path / "installed"), str(ROOT)))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "."]
    subprocess.run(tests, check=True, timeout=60, cwd=sources, env=here.whole_environ())
    queue = {"type": "queue", "schedule": "@hourly", "url": "http://127.0.0.1:1", "backoff_limit": 0}
    here.config["collectors"] = {"queue": queue}
    here.write_config()
    assert here.json("check")["series"]["collectors"] == {"queue": 10}
    done = here.run("collect", "queue", "--dry-run")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "queue: failed: http://127.0.0.1:1/jobs: no answer (ConnectError)" in done.stderr
