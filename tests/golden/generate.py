"""What users see of the program, reduced to what must not change by accident.

``python -m tests.golden.generate`` writes the files beside it anew; tests/acceptance/test_golden.py compares. A
difference is a decision: write it into CHANGELOG.md.
"""

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from service.cli.main import main
from tests.acceptance.forked import ROOT, Forked

FOLDER = Path(__file__).parent
COMMANDS = (
    *("", "status", "trigger", "pause", "resume", "cancel", "explain", "runs", "logs", "list", "schedule", "preview"),
    *("check", "diagnose", "collect", "list-workflows", "publish", "completion", "migrate", "compare", "backup"),
    *("flare", "webhook", "webhook test"),
    *("datadog", "datadog render", "datadog diff", "datadog push", "datadog delete"),
)
# What differs from machine to machine, or from run to run.
_VOLATILE = ("state_dir", "next", "secrets")


def run(*arguments: str, home: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": home, "NO_COLOR": "1", "COLUMNS": "100"}
    environ |= {"INFRA_HEALTH_STATE_DIR": f"{home}/state", "DD_API_KEY": "abcdefgh"}
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        code = Forked(arguments, ROOT, environ, stdout.fileno(), stderr.fileno()).wait(60)
        stdout.seek(0)
        stderr.seek(0)
        assert code == 0, stderr.read()
        return stdout.read()


def help_of(command: str) -> str:
    """As wide as where nobody looks on."""
    arguments = [*command.split(), "--help"]
    told = CliRunner(env={"NO_COLOR": "1"}).invoke(main, arguments, prog_name="infra-health", terminal_width=78)
    assert told.exit_code == 0, told.output
    return told.stdout


@contextmanager
def demo(home: str) -> Iterator[httpx.Client]:
    """The demo's daemon, with a run of each collector behind it."""
    environ = {"PATH": os.environ["PATH"], "HOME": home}
    environ |= {"INFRA_HEALTH_HTTP__PORT": "0", "INFRA_HEALTH_LOG__FORMAT": "json"}
    reading, writing = os.pipe()
    process = Forked(["--demo"], ROOT, environ, 1, writing)
    os.close(writing)
    try:
        with os.fdopen(reading) as stderr:
            address = next(match[1] for line in stderr if (match := re.search(r"status page: (\S+)", line)))
            with httpx.Client(base_url=address, timeout=10, verify=False, trust_env=False) as client:
                while not all(each["last_run"] and each["last_run"]["ended"] for each in _collectors(client)):
                    time.sleep(0.1)
                yield client
            process.send_signal(signal.SIGINT)
            stderr.read()
        assert process.wait(60) == 0, "Ctrl-C ends the demo well"
    finally:
        process.kill()


def _collectors(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v1/collectors").json()["collectors"]
    return found


def reduce_openapi(document: Mapping[str, Any]) -> dict[str, Any]:
    """Calls with their parameters and answers; schemas with their fields."""
    calls = {
        f"{method.upper()} {path}": {
            "parameters": sorted(each["name"] for each in call.get("parameters", ())),
            "answers": sorted(call["responses"]),
        }
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    }
    schemas = document["components"]["schemas"]
    return {"calls": calls, "schemas": {name: sorted(each.get("properties", ())) for name, each in schemas.items()}}


def reduce_metrics(text: str) -> list[str]:
    """Names and labels of what Prometheus gets."""
    found = set()
    for match in re.finditer(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels = re.findall(r'(\w+)="', match[2] or "")
        found.add(f"{match[1]}{{{','.join(labels)}}}")
    return sorted(found)


def reduce_check(text: str) -> dict[str, Any]:
    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: keep(each) for name, each in value.items() if name not in _VOLATILE}
        return value

    reduced: dict[str, Any] = keep(json.loads(text))
    return reduced


def reduce_boards(text: str) -> dict[str, Any]:
    """Titles and queries, without what only looks."""

    def queries(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, each in value.items():
                if name in ("query", "q") and isinstance(each, str):
                    yield each
                else:
                    yield from queries(each)
        elif isinstance(value, list):
            for each in value:
                yield from queries(each)

    document = json.loads(text)
    return {
        kind: {each.get("title") or each.get("name") or each["metric"]: sorted(queries(each)) for each in objects}
        for kind, objects in document.items()
    }


def reduce_samples(text: str) -> list[str]:
    """Metrics with their kind and tags; no values, no times."""
    samples = json.loads(text)
    return sorted({f"{each['metric']} {each['kind']} {json.dumps(each['tags'], sort_keys=True)}" for each in samples})


def generate() -> dict[str, str]:
    """Each file's content."""
    with tempfile.TemporaryDirectory() as home:
        files = {
            "help.txt": "\n".join(f"$ infra-health {name} --help\n{help_of(name)}" for name in COMMANDS),
            "check.json": reduce_check(run("check", "--json", home=home)),
            "boards.json": reduce_boards(run("datadog", "render", home=home)),
            "samples.json": reduce_samples(run("--demo", "--once", "--dry-run", home=home)),
        }
        with demo(home) as client:
            files["openapi.json"] = reduce_openapi(client.get("/openapi.json").json())
            files["metrics.json"] = reduce_metrics(client.get("/metrics").text)
    return {
        name: each if isinstance(each, str) else json.dumps(each, indent=1, sort_keys=True) + "\n"
        for name, each in files.items()
    }


if __name__ == "__main__":
    for name, content in generate().items():
        (FOLDER / name).write_text(content)
