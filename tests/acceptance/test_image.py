"""The image, built and run: as uid 10001 on a read-only root it is ready, runs once and stops on SIGTERM.

Over a stand-in for its base (image_base), by buildah without a daemon. Without a builder, or without the rights to
mount, nothing can be built: then this is left out, and test_dockerfile judges the Dockerfile alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance import image_base
from tests.acceptance.cluster_tools import ROOT
from tests.acceptance.program import wait_for

pytestmark = [
    pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah: apt-get install buildah brings it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only root needs root"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("image"),
]

# Run in a mount namespace of its own: the image's root read-only, but for what the pod has as volumes.
INSIDE = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$ROOT/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=750 tmpfs "$ROOT/var/lib/infra-health"
mount -t tmpfs tmpfs "$ROOT/dev"
for each in null zero urandom random; do touch "$ROOT/dev/$each"; mount --bind "/dev/$each" "$ROOT/dev/$each"; done
mount -t proc proc "$ROOT/proc"
cd /
exec chroot --userspec="$OWNER" "$ROOT" /usr/bin/env -i "$@"
"""


class Image:
    """``config``: what the image says of user, environment and entry point."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config

    def command(self, *words: str, **environ: str) -> tuple[list[str], dict[str, str]]:
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh"]
        return [*command, *variables, *self.config["Entrypoint"], *words], {
            **os.environ,
            "ROOT": str(self.root),
            "OWNER": self.config["User"],
        }

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command, own = self.command(*words, **environ)
        return subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=120)

    @contextmanager
    def started(self, log: Path, *words: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        command, own = self.command(*words, **environ)
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=own, stderr=sink, stdout=sink)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    base, wheels = folder / "base", folder / "wheels"
    image_base.make(base)
    pip = [str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"), "-m", "pip", "download", "--quiet"]
    pip += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-d", str(wheels)]
    for lock in ("requirements.lock", "requirements-build.lock"):
        subprocess.run([*pip, "-r", str(ROOT / lock)], check=True, timeout=300)

    def buildah(*words: str | Path) -> str:
        where: list[str | Path] = ["--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs"]
        answer = subprocess.run(["buildah", *where, *words], capture_output=True, text=True, check=False, timeout=500)
        assert answer.returncode == 0, answer.stderr[-4000:] + answer.stdout[-2000:]
        return str(answer.stdout).strip()

    empty = buildah("from", "scratch")
    buildah("add", "--quiet", empty, base, "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", empty)
    buildah("commit", "--quiet", "--rm", empty, "localhost/base")
    shutil.rmtree(base)
    buildah(
        *("build", "--isolation", "chroot", "--from", "localhost/base", "--pull-never"),
        *("--volume", f"{wheels}:/wheels:ro", "--build-arg", "VERSION=0.1.0", "--build-arg", "COMMIT=abc123"),
        *("--tag", "localhost/infra-health", ROOT),
    )
    container = buildah("from", "--pull-never", "localhost/infra-health")
    config = json.loads(buildah("inspect", "--type", "image", "localhost/infra-health"))["OCIv1"]["config"]
    mounted = Path(buildah("mount", container))
    try:
        yield Image(mounted, config)
    finally:
        buildah("umount", container)
        shutil.rmtree(folder, ignore_errors=True)


def test_it_is_ready_runs_once_and_stops_on_sigterm(image: Image, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {
        "INFRA_HEALTH_HTTP__PORT": "0",
        "INFRA_HEALTH_LOG__FORMAT": "json",
        "INFRA_HEALTH_HTTP__HOST": "127.0.0.1",
    }
    with image.started(log, "--demo", **environ) as process:

        def records() -> list[dict[str, Any]]:
            assert process.poll() is None, log.read_text()[-4000:]
            return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

        ready = wait_for(lambda: [each for each in records() if each["message"] == "ready"])
        with httpx.Client(base_url=f"http://127.0.0.1:{ready[0]['port']}", trust_env=False) as http:
            assert http.get("/readyz").status_code == 200
            assert http.get("/version").json()["commit"] == "abc123"
            wait_for(lambda: [run for run in http.get("/api/v1/runs").json()["runs"] if run["outcome"] == "Complete"])
        # The first process of the container is the daemon itself: no shell stands between it and SIGTERM.
        (daemon,) = children(process.pid)
        status = (Path("/proc") / str(daemon) / "status").read_text()
        assert "Uid:\t10001\t10001" in status
        os.kill(daemon, signal.SIGTERM)
        assert process.wait(timeout=50) == 0, log.read_text()[-4000:]
    assert '"message":"ended"' in log.read_text().replace(" ", "")


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(word) for word in text.split()]


def test_one_pass_on_the_demos_input(image: Image) -> None:
    answer = image.run("--demo", "--once", "--json")
    assert answer.returncode == 0, answer.stderr
    outcomes = {run["outcome"] for run in json.loads(answer.stdout)["runs"]}
    assert outcomes <= {"Complete", "Partial"}
    assert outcomes


def test_its_configuration_is_valid_and_its_root_is_not_to_be_written(image: Image) -> None:
    answer = image.run("check", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["file"] == "/etc/infra-health/config.yaml"
    assert image.config["User"] == "10001:10001"
    assert not list(image.root.glob("opt/infra-health/lib/python3*/site-packages/pip")), "pip is not in it"
