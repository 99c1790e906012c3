"""What users see of the program, reduced to what must not change by accident.

``python -m tests.golden.generate`` writes the files beside it anew; tests/acceptance/test_golden.py compares. A
difference is a decision: write it into CHANGELOG.md.
"""

import json
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.collectors.records import Record, read_records
from service.collectors.registry import settings_of
from service.config.loader import load
from service.domain.errors import ConfigError
from tests.acceptance.forked import ROOT
from tests.acceptance.program import Place, wait_for
from tests.datadog import ScriptedDatadog

FOLDER = Path(__file__).parent
COMMANDS = (
    *("", "status", "trigger", "pause", "resume", "cancel", "explain", "runs", "logs", "list", "schedule", "preview"),
    *("check", "diagnose", "collect", "list-workflows", "publish", "completion", "migrate", "compare", "backup"),
    *("flare", "webhook", "webhook test"),
    *("datadog", "datadog render", "datadog diff", "datadog push", "datadog delete"),
)
PAYLOADS = FOLDER.parent / "payloads"
MANIFESTS = PAYLOADS / "migration"
# What differs from machine to machine, or from run to run.
_VOLATILE = ("state_dir", "next", "secrets")


def migrate(manifest: Path) -> str:
    """The configuration that is made of CronJobs, with what has no counterpart as comments."""
    return CliRunner().invoke(main, ["migrate", str(manifest)]).stdout


def list_mistakes() -> str:
    """What is told of a configuration that is full of them."""
    with pytest.raises(ConfigError) as told:
        load(PAYLOADS / "mistakes.yaml", {}, settings_of)
    return f"{told.value}\n".replace(f"{PAYLOADS}/", "")


def list_bad_records() -> str:
    """What is told of records of which each but the first and the last is bad."""
    path, now = PAYLOADS / "bad_records.jsonl", datetime(2025, 1, 14, tzinfo=UTC)
    found = enumerate(read_records(path.read_bytes(), path.name, now), 1)
    return "".join(f"record {place}: {item.check if isinstance(item, Record) else item}\n" for place, item in found)


def help_of(command: str) -> str:
    """As wide as where nobody looks on."""
    arguments = [*command.split(), "--help"]
    told = CliRunner(env={"NO_COLOR": "1"}).invoke(main, arguments, prog_name="infra-health", terminal_width=78)
    assert told.exit_code == 0, told.output
    return told.stdout


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


def reduce_check(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reduce_check(each) for name, each in value.items() if name not in _VOLATILE}
    return value


def queries(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, each in value.items():
            if name in ("query", "q") and isinstance(each, str):
                yield each
            else:
                yield from queries(each)


def reduce_boards(document: Mapping[str, Any]) -> dict[str, Any]:
    """Titles and queries, without what only looks."""
    return {
        kind: {each.get("title") or each.get("name") or each["metric"]: sorted(queries(each)) for each in objects}
        for kind, objects in document.items()
    }


def reduce_samples(samples: list[dict[str, Any]]) -> list[str]:
    """Metrics with their kind and tags; no values, no times."""
    return sorted({f"{each['metric']} {each['kind']} {json.dumps(each['tags'], sort_keys=True)}" for each in samples})


def generate() -> dict[str, str]:
    """Each file's content."""
    with tempfile.TemporaryDirectory() as home:
        environ = {"DD_API_KEY": "abcdefgh", "INFRA_HEALTH_STATE_DIR": f"{home}/state"}
        here = Place(Path(home), ScriptedDatadog(), environ)
        shutil.copy(ROOT / "config.yaml", home)
        own = {"INFRA_HEALTH_HTTP__PORT": "0", "INFRA_HEALTH_LOG__FORMAT": "json"}
        with here.daemon("--demo", environ=own) as daemon:
            wait_for(lambda: len({run["collector"] for run in daemon.quiet_runs()}) == 4, daemon)
            openapi, metrics = daemon.get("/openapi.json"), daemon.http.get("/metrics").text
            assert daemon.end(signal.SIGINT) == 0, "Ctrl-C ends the demo well"
        files = {
            "help.txt": "\n".join(f"$ infra-health {name} --help\n{help_of(name)}" for name in COMMANDS),
            "check.json": reduce_check(here.json("check")),
            "boards.json": reduce_boards(here.json("datadog", "render")),
            "samples.json": reduce_samples(here.json("--demo", "--once", "--dry-run")),
            "openapi.json": reduce_openapi(openapi),
            "metrics.json": reduce_metrics(metrics),
            "mistakes.txt": list_mistakes(),
            "bad_records.txt": list_bad_records(),
            **{f"migrated_{each.name}": migrate(each) for each in MANIFESTS.glob("*.yaml")},
        }
    return {
        name: each if isinstance(each, str) else json.dumps(each, indent=1, sort_keys=True) + "\n"
        for name, each in files.items()
    }


if __name__ == "__main__":
    for name, content in generate().items():
        (FOLDER / name).write_text(content)
