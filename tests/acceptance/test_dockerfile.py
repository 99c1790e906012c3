"""Dockerfile and `make image`: what hadolint says (checkov: test_cluster_files), and what the pod expects."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.cluster_tools import ROOT, run

DOCKERFILE = (ROOT / "Dockerfile").read_text()


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
    for name in copied:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    for cached in (tmp_path / "service").rglob("__pycache__"):
        shutil.rmtree(cached)
    files = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "service").rglob("*") if path.is_file()}
    command = [sys.executable, "-B", "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert files <= set(packed.namelist())


@pytest.mark.parametrize(
    ("there", "built"),
    [
        ({"docker": 0, "podman": 0}, "docker build --build-arg VERSION=1"),
        ({"docker": 1, "podman": 0, "buildah": 0}, "podman build --format docker --build-arg VERSION=1"),
        ({"docker": 1, "buildah": 0}, "buildah build --format docker --build-arg VERSION=1"),
        ({}, ""),
    ],
)
def test_the_image_is_built_with_what_is_there(there: dict[str, int], built: str, tmp_path: Path) -> None:
    """A docker without a daemon can't; the others keep HEALTHCHECK in Docker's format alone."""
    for name, code in there.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$1" = info ] && exit {code}\necho built {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    for name in ("sh", "sed", "git", "make"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    command, environ = [str(tmp_path / "make"), "image", "IMAGE=health", "TAG=1"], {"PATH": str(tmp_path)}
    answer = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (answer.returncode == 0) is bool(built), answer.stderr
    assert f"built {built}" in answer.stdout if built else "install one of them" in answer.stderr
