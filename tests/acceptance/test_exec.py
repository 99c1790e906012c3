"""Programs under the running daemon: their samples arrive, their checks are shown, none is left when it ends.

What forms they may print: tests/integration/exec/test_programs.py.
"""

import json
import sys
from pathlib import Path

from tests.acceptance.program import SNAPSHOT, Place, wait_for

TAGS = {"job": "arena", "category": "training", "criterion": "sps", "operator": ">=", "target": "40000"}
HANGING = (
    "import subprocess, sys; child = subprocess.Popen(['sleep', '99'])\n"
    "print(child.pid, file=open(sys.argv[1], 'w'), flush=True); child.wait()"
)


def test_a_program_is_a_collector_of_the_daemon(here: Place) -> None:
    pid = here.folder / "pid"
    names = [f"metta.infra.cron.stable.acceptance.{name}" for name in ("value", "target", "status")]
    triple = [{"metric": name, "value": value, "tags": TAGS} for name, value in zip(names, (3e4, 4e4, 0), strict=True)]
    text = json.dumps([*triple, SNAPSHOT, {"metric": "queue.length", "value": 3, "tags": {"zone": "a"}}])
    source = f"import os, sys; print('no key:', os.environ.get('DD_API_KEY'), file=sys.stderr); print({text!r})"
    shared = {"type": "exec", "schedule": "@hourly", "namespace": "acme"}
    secrets = {"TOKEN": str(here.write_snapshot("of the program", "token"))}
    here.config["collectors"] = {
        "probe": {**shared, "secrets": secrets, "command": [sys.executable, "-c", source]},
        "hanging": {**shared, "command": [sys.executable, "-c", HANGING, str(pid)], "active_deadline": 60},
    }
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
        child = int(wait_for(lambda: pid.exists() and pid.read_text(), daemon))
        hanging = daemon.get("/api/v1/collectors/hanging")["running"]
        assert daemon.http.post(f"/api/v1/runs/{hanging}/cancel").status_code == 202
        wait_for(lambda: daemon.get("/api/v1/collectors/hanging")["running"] is None, daemon)
        stat = Path(f"/proc/{child}/stat")
        wait_for(lambda: not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
        assert daemon.end() == 0
    rows = [line.split() for line in here.run("collect", "probe").stdout.splitlines() if "acceptance" in line]
    assert [row[2:4] for row in rows] == [[">=", "40000"]] * 3, "the condition beside each of the three"
    told = here.json("check")
    assert told["series"]["collectors"]["probe"] == 5 + 2 * 4 + 5, "its own, those of two checks, its metrics"
    assert [each["trouble"] for each in told["secrets"] if each["name"] == "secret TOKEN"] == [None]
