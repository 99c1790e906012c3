"""The package of docs/collectors.md, from the document alone: built, installed, tested, run; and types that break."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import Place

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the package is installed into; its sources are beside it."""
    sources, target = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("installed")
    text = (ROOT / "docs" / "collectors.md").read_text()
    for name, content in re.findall(r"\*\*`([\w.]+)`\*\*\n\n```\w+\n(.*?)```\n", text, re.DOTALL):
        (sources / name).write_text(content)
    assert sorted(path.name for path in sources.iterdir()) == ["acme_queue.py", "pyproject.toml", "test_acme_queue.py"]
    # This environment has no pip of its own; the interpreter that it was made with has.
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    pip = [str(python), "-m", "pip", "--python", sys.executable, "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *options, str(sources)], check=True, timeout=60)
    (sources / "acme_queue.py").unlink()  # what is tested is what was installed
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", str(sources)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}
    subprocess.run(tests, check=True, timeout=60, cwd=sources, env=environ)
    return target


def test_the_documented_package_is_built_tested_and_run(here: Place, package: Path) -> None:
    here.environ["PYTHONPATH"] = os.pathsep.join((str(package), str(ROOT)))
    queue = {"type": "queue", "schedule": "@hourly", "url": "http://127.0.0.1:1", "backoff_limit": 0}
    here.config["collectors"] = {"queue": queue}
    here.write_config()
    assert here.json("check")["series"]["collectors"] == {"queue": 10}
    done = here.run("collect", "queue", "--dry-run")
    assert done.returncode == 1
    assert "queue: failed: http://127.0.0.1:1/jobs: no answer (ConnectError)" in done.stderr
    assert "Traceback" not in done.stderr
