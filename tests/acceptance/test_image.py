"""The image, built and run: as uid 10001 on a read-only root it is ready, runs once and stops on SIGTERM.

By buildah without a daemon, over a stand-in for its base (a copy of this Python, and this machine's /usr, mounted), so
nothing is pulled. Where that can't be, this is left out, and test_dockerfile judges the Dockerfile alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.forked import ROOT
from tests.acceptance.program import wait_for

CAN_BUILD = shutil.which("buildah") and os.geteuid() == 0 and not sys.base_prefix.startswith("/usr")
pytestmark = [
    pytest.mark.skipif(not CAN_BUILD, reason="needs buildah, root and a Python outside of /usr"),
    pytest.mark.timeout(900),
]

PYTHON = f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}"
LINKS = [each for each in map(Path, ("/bin", "/sbin", "/lib", "/lib64")) if each.is_symlink()]
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    # Packages come from a folder of wheels, whatever this machine's index is.
    "etc/pip.conf": "[global]\nno-index = true\nfind-links = /wheels\n",
    "stand-in/python": f'#!/bin/sh\nexec {PYTHON} "$@"\n',
    "stand-in/apt-get": "#!/bin/sh\n",
    "stand-in/tini": '#!/bin/sh\nshift\nexec "$@"\n',
}
# Run in a mount namespace of its own: the image's root read-only, but for what the pod has as volumes.
INSIDE = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount --bind /usr "$ROOT/usr"
mount -o remount,bind,ro "$ROOT/usr"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$ROOT/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=750 tmpfs "$ROOT/var/lib/infra-health"
mount -t tmpfs tmpfs "$ROOT/dev"
for each in null zero urandom random; do touch "$ROOT/dev/$each"; mount --bind "/dev/$each" "$ROOT/dev/$each"; done
mount -t proc proc "$ROOT/proc"
cd /
exec chroot --userspec="$OWNER" "$ROOT" /usr/bin/env -i "$@"
"""


@dataclass
class Image:
    """``config``: what the image says of user, environment and entry point."""

    root: Path
    config: dict[str, Any]

    def command(self, *words: str, **environ: str) -> dict[str, Any]:
        """How subprocess starts the program in it."""
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh"]
        own = {"ROOT": str(self.root), "OWNER": self.config["User"]}
        return {"args": [*command, *variables, *self.config["Entrypoint"], *words], "env": os.environ | own}


def leave_out(folder: str, names: list[str]) -> list[str]:
    """Of this Python: the packages of others, its own tests, bytecode."""
    is_shared = folder.endswith("site-packages")
    return [
        name for name in names if name in ("test", "tests", "__pycache__") or (is_shared and not name.startswith("pip"))
    ]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    base, wheels = tmp_path / "base", tmp_path / "wheels"
    for folder in ("usr", "tmp", "var/lib", "proc", "dev", "opt"):
        (base / folder).mkdir(parents=True)
    shutil.copytree(sys.base_prefix, base / sys.base_prefix[1:], symlinks=True, ignore=leave_out)
    for name, text in FILES.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
        (base / name).chmod(0o755)
    for link in LINKS:
        (base / link.name).symlink_to(link.readlink())
    pip = [PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    for lock in ("requirements.lock", "requirements-build.lock"):
        subprocess.run([*pip, "-d", str(wheels), "-r", str(ROOT / lock)], check=True)

    def buildah(*words: str | Path) -> str:
        where: list[str | Path] = [
            "--root",
            tmp_path / "storage",
            "--runroot",
            tmp_path / "run",
            "--storage-driver",
            "vfs",
        ]
        answer = subprocess.run(["buildah", *where, *words], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr[-4000:] + answer.stdout[-2000:]
        return str(answer.stdout).strip()

    empty = buildah("from", "scratch")
    buildah("add", "--quiet", empty, base, "/")
    buildah("config", "--env", "PATH=/stand-in:/usr/bin:/usr/sbin", empty)
    buildah("commit", "--quiet", "--rm", empty, "localhost/base")
    buildah(
        *("build", "--isolation", "chroot", "--from", "localhost/base", "--pull-never"),
        *("--volume", "/usr:/usr:ro", "--volume", f"{wheels}:/wheels:ro"),
        *("--build-arg", "VERSION=0.1.0", "--build-arg", "COMMIT=abc123"),
        *("--tag", "localhost/infra-health", ROOT),
    )
    config = json.loads(buildah("inspect", "--type", "image", "localhost/infra-health"))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", "localhost/infra-health")
    yield Image(Path(buildah("mount", container)), config)
    buildah("umount", container)
    shutil.rmtree(tmp_path)


def test_it_checks_its_configuration_runs_once_is_ready_and_stops_on_sigterm(image: Image, tmp_path: Path) -> None:
    assert image.config["User"] == "10001:10001"
    assert not list(image.root.glob("opt/infra-health/lib/python3*/site-packages/pip")), "pip is not in it"
    for words in (("check", "--json"), ("--demo", "--once", "--json")):
        done = subprocess.run(**image.command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told.get("file") == "/etc/infra-health/config.yaml" or {run["outcome"] for run in told["runs"]}
    log = tmp_path / "log"
    own = {"INFRA_HEALTH_HTTP__PORT": "0", "INFRA_HEALTH_HTTP__HOST": "127.0.0.1", "INFRA_HEALTH_LOG__FORMAT": "json"}
    with log.open("wb") as sink:
        process = subprocess.Popen(**image.command("--demo", **own), stderr=sink, stdout=sink)

    def records() -> list[dict[str, Any]]:
        assert process.poll() is None, log.read_text()[-4000:]
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    try:
        ready = wait_for(lambda: [each for each in records() if each["message"] == "ready"])
        with httpx.Client(base_url=f"http://127.0.0.1:{ready[0]['port']}", trust_env=False) as http:
            assert http.get("/readyz").status_code == 200
            assert http.get("/version").json()["commit"] == "abc123"
            wait_for(lambda: [run for run in http.get("/api/v1/runs").json()["runs"] if run["outcome"] == "Complete"])
        # The first process of the container is the daemon itself: no shell stands between it and SIGTERM.
        (daemon,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert "Uid:\t10001\t10001" in Path(f"/proc/{daemon}/status").read_text()
        os.kill(int(daemon), signal.SIGTERM)
        assert process.wait(timeout=50) == 0, log.read_text()[-4000:]
    finally:
        process.kill()
        process.wait()
