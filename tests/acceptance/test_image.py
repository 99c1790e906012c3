"""Dockerfile and `make image`: what hadolint says (checkov: test_cluster_files), what the pod expects; the image runs.

It is built by buildah without a daemon, over a stand-in for its base: a copy of this Python, and this machine's /usr,
mounted. Nothing is pulled.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cluster_tools import ROOT, run
from tests.acceptance.program import wait_for

DOCKERFILE = (ROOT / "Dockerfile").read_text()
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


def test_hadolint_passes_the_dockerfile() -> None:
    answer = run("hadolint", "--failure-threshold", "style", "Dockerfile")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "hadolint ignore" not in DOCKERFILE


def instructions(stage: str) -> list[tuple[str, str]]:
    """Each instruction of a part of the Dockerfile and its arguments, on one line, without comments."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", stage, flags=re.MULTILINE)).splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_runs_as_the_pod_expects() -> None:
    base, *_, final = re.split(r"(?=^FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
    steps = instructions(final)
    assert (instructions(base), steps[0]) == ([("FROM", "python:3.12-slim AS base")], ("FROM", "base"))
    variables = dict(re.findall(r"(\w+)=(\S+)", dict(steps)["ENV"]))
    manifest = (ROOT / "k8s/infra-health.yaml").read_text()
    for name in ("INFRA_HEALTH_CONFIG", "INFRA_HEALTH_STATE_DIR"):
        assert re.search(rf"name: {name}\s+value: {variables[name]}\n", manifest)
    assert variables["INFRA_HEALTH_COMMIT"] == "${COMMIT}"
    wanted = {("COPY", "config.yaml /etc/infra-health/config.yaml"), ("USER", "10001:10001"), ("EXPOSE", "8080")}
    wanted |= {("STOPSIGNAL", "SIGTERM"), ("ENTRYPOINT", '["tini", "--", "infra-health"]')}
    assert wanted <= set(steps)
    assert not re.search(r"gcc|build-essential|\bpip install\b", final), "nothing is built in the final stage"
    program, *words = json.loads(dict(steps)["HEALTHCHECK"].split("CMD ")[1])
    command = [Path(sys.executable).with_name(program), words[0], "--help"]
    assert words[1] in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_image_holds_what_is_locked_and_names_no_index() -> None:
    installs = [step for step in re.findall(r"pip [^&]*install [^&]*", DOCKERFILE) if "uninstall" not in step]
    assert len(installs) == 3
    assert all("--require-hashes" in step or "--no-index" in step for step in installs)
    for file in (ROOT / "Dockerfile", *ROOT.glob("requirements*.lock")):
        text = file.read_text()
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), f"{file.name} names an index"
        assert text.count("==") <= text.count("--hash=") or file.name == "Dockerfile", f"{file.name} lacks hashes"


def test_the_builder_gets_what_the_whole_package_needs_and_nothing_else(tmp_path: Path) -> None:
    """The page's templates and the demo's recordings are no Python: a wheel can lose them without an import failing."""
    steps = [rest.split() for word, rest in instructions(DOCKERFILE) if word == "COPY" and "--from" not in rest]
    copied = [source for words in steps for source in words[:-1]]
    assert sorted(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)) == sorted(copied)
    for name in filter(Path.is_file, map(ROOT.joinpath, copied)):
        shutil.copy(name, tmp_path)
    shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    files = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "service").rglob("*") if path.is_file()}
    command = [sys.executable, "-B", "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert files <= set(packed.namelist())


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
        where = ("--root", tmp_path / "storage", "--runroot", tmp_path / "run", "--storage-driver", "vfs")
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


@pytest.mark.skipif(
    not shutil.which("buildah") or os.geteuid() != 0 or sys.base_prefix.startswith("/usr"),
    reason="needs buildah, root and a Python outside of /usr",
)
@pytest.mark.trial
@pytest.mark.timeout(900)
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
