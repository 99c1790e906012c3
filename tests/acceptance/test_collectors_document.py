"""The package of docs/collectors.md, from the document alone: built, installed, tested, run; and types that break."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Place, place, wait_for

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
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(sources)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}
    subprocess.run(tests, check=True, timeout=60, cwd=sources, env=environ)
    return target


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        yield it


@pytest.fixture
def acme(here: Place, package: Path) -> Place:
    """A place with a collector of the package whose server does not answer."""
    here.environ["PYTHONPATH"] = os.pathsep.join((str(package), str(ROOT)))
    here.config["collectors"] = {
        "queue": {"type": "queue", "schedule": "@hourly", "url": "http://127.0.0.1:1", "backoff_limit": 0}
    }
    here.write_config()
    return here


def test_the_documented_package_is_built_tested_and_run(acme: Place) -> None:
    assert acme.json("check")["series"]["collectors"] == {"queue": 10}
    done = acme.run("collect", "queue", "--dry-run")
    assert done.returncode == 1
    assert "queue: failed: http://127.0.0.1:1/jobs: no answer (ConnectError)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_type_that_breaks_refuses_a_reload_and_ends_a_start_with_one_line(here: Place) -> None:
    _install_broken(here, "no_such_name")
    with here.daemon() as daemon:  # nobody uses it
        here.config["collectors"]["mine"] = {"type": "broken", "schedule": "@hourly"}
        here.write_config()
        daemon.send(signal.SIGHUP)
        (refused,) = wait_for(
            lambda: [each for each in daemon.records if each["message"].startswith("reload refused")], daemon
        )
        assert "NameError: name 'no_such_name' is not defined" in refused["reason"]
        assert "Traceback" not in daemon.text
        assert [each["name"] for each in daemon.get("/api/v1/collectors")["collectors"]] == ["ci", "training"]
        assert daemon.end() == 0
    done = here.run()
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (78, 1, "")
    assert "collectors.mine.type: collector type broken (acme_broken:Broken) can't be loaded: NameError" in done.stderr


def _install_broken(here: Place, code: str) -> None:
    packages = here.folder / "packages"
    about = packages / "broken-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[infra_health.collectors]\nbroken = acme_broken:Broken\n")
    (packages / "acme_broken.py").write_text(code)
    here.environ["PYTHONPATH"] = os.pathsep.join((str(packages), str(ROOT)))
