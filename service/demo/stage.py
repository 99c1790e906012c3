"""The stage of ``--demo``: GitHub and Datadog stand-ins on loopback, snapshots, and a configuration that names them."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import yaml

from service.demo.intake import IntakeLog, intake_app
from service.demo.recording import format_time, parse_time
from service.demo.replay import replay_app
from service.demo.serving import served

# What the stand-ins are shown instead of secrets; both are known to nobody else.
_API_KEY = "demo-key-for-the-local-intake"
_TOKEN = "demo-token-for-the-local-replay"  # noqa: S105 - opens nothing
_MEASURED_AGO = timedelta(minutes=5)
_SCHEDULE = "@every 10s"
# The recorded projects are small ones: it takes a month of theirs to see what a day of a busy one shows.
_WINDOW = "30d"


@dataclass(frozen=True, slots=True)
class Stage:
    """What the daemon is given. ``environ`` stands in front of the process's own; ``intake`` fills as points arrive."""

    config: Path
    environ: dict[str, str]
    intake: IntakeLog
    state_dir: Path


@contextmanager
def stage() -> Iterator[Stage]:
    """Serves until it is left, with a loop of its own, so that nothing here disturbs the daemon's.

    Everything is written below one temporary directory, which goes at the end. Raises OSError.
    """
    now = datetime.now(UTC)
    intake = intake_app(keys=frozenset({_API_KEY}))
    github = replay_app(lambda: datetime.now(UTC))
    with (
        tempfile.TemporaryDirectory(prefix="infra-health-demo-") as folder,
        served(github, intake) as (github_url, intake_url),
        _no_proxy_to_loopback(),
    ):
        environ = {
            "DD_API_KEY": _API_KEY,
            "DD_ENV": "demo",
            "DD_URL": intake_url,
            "GITHUB_API_URL": github_url,
            "GITHUB_TOKEN": _TOKEN,
        }
        state_dir = Path(folder) / "state"
        config = _write_config(Path(folder), state_dir, now)
        yield Stage(config, environ, intake.state.log, state_dir)


@contextmanager
def _no_proxy_to_loopback() -> Iterator[None]:
    """A proxy in the user's environment can't reach this machine's loopback."""
    before = os.environ.get("no_proxy")
    known = before or os.environ.get("NO_PROXY", "")
    os.environ["no_proxy"] = ",".join(filter(None, (known, "127.0.0.1")))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


def _write_config(folder: Path, state_dir: Path, now: datetime) -> Path:
    collectors = {
        "ci": {
            "type": "github_ci",
            "schedule": _SCHEDULE,
            "service": "dashboard-collector",
            "repo": "ionic-team/ionic-framework",
            "branch": "main",
            "tests_blocking_merge": ["Stencil Nightly Build"],
            "history_window": _WINDOW,
            "thresholds": {"bugs": 30},
            "tags": {"repo": "ionic-framework"},
        },
        "ci-phishbench": {
            "type": "github_ci",
            "schedule": _SCHEDULE,
            "service": "dashboard-collector",
            "repo": "ReDASers/PhishBench",
            "branch": "master",
            "tests_blocking_merge": ["Unit Test", "Build Documentation"],
            "benchmarks": ["Email Integration Test", "URL Integration Test", "Website TF-IDF Integration Test"],
            "history_window": _WINDOW,
            "thresholds": {"bugs": 30},
            "tags": {"repo": "phishbench"},
        },
    }
    for name, category in (("training", "training"), ("eval", "evaluation")):
        collectors[name] = {
            "type": "snapshot",
            "schedule": _SCHEDULE,
            "service": f"{name}-health-collector",
            "category": category,
            "source": str(_write_snapshot(folder, f"{name}_health.json", now)),
        }
    settings = {
        "collectors": collectors,
        "datadog": {"env": "demo"},
        "http": {"host": "127.0.0.1", "port": 8080},
        "state_dir": str(state_dir),
        "max_series": 200,  # of two repositories
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def _write_snapshot(folder: Path, name: str, now: datetime) -> Path:
    """The sample file ``name``, its newest record measured ``_MEASURED_AGO`` before ``now``."""
    sample = resources.files("service.demo") / "data" / "snapshots" / name
    records = json.loads(sample.read_text(encoding="utf-8"))
    shift = now - _MEASURED_AGO - max(parse_time(record["timestamp"]) for record in records)
    for record in records:
        record["timestamp"] = format_time(parse_time(record["timestamp"]) + shift)
    path = folder / name
    path.write_text(json.dumps(records, indent=2), encoding="utf-8")
    return path
