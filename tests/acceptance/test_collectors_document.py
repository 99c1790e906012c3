"""The package of docs/collectors.md, from the document alone: built, installed, tested, run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.forked import ROOT
from tests.acceptance.program import Place


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
