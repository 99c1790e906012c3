"""The stage of ``--demo``: simulated GitHub and Datadog on loopback, snapshots, and a configuration that names them."""

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from threading import Event, Thread

import uvicorn
import yaml
from starlette.types import ASGIApp

from service.demo.datadog import SimulatedDatadog

# What the stand-ins are shown instead of secrets; they are known to nobody else.
_API_KEY = "demo-key-for-the-local-intake"
_APP_KEY = "demo-application-key-for-it"
_TOKEN = "demo-token-for-the-local-replay"  # noqa: S105 - opens nothing
_WEBHOOK_SECRET = "demo-secret-of-the-local-webhook"  # noqa: S105 - opens nothing
_MEASURED_AGO = timedelta(minutes=5)
_DATA = resources.files("service.demo") / "data"


@dataclass(frozen=True, slots=True)
class Stage:
    """What the daemon is given. ``environ`` stands in front of the process's own.

    ``deliver_to``: from now on GitHub tells the daemon at this address, now and then, of a run that ended.
    """

    config: Path
    environ: dict[str, str]
    datadog: SimulatedDatadog
    state_dir: Path
    deliver_to: Callable[[str], None]


@contextmanager
def stage() -> Iterator[Stage]:
    """Serves until it is left, with a loop of its own, so that nothing here disturbs the daemon's.

    Everything is written below one temporary directory, which goes at the end. Raises OSError.
    """
    from service.demo.recording import create_app, deliver_runs

    now = datetime.now(UTC)
    github, datadog = create_app(), SimulatedDatadog(api_keys={_API_KEY})
    datadog.app_keys = {_APP_KEY}
    datadog.has_all_metrics = True  # `datadog push` is a process, and so a stage, of its own
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infra-health-demo-")))
        github_url, intake_url = stack.enter_context(serve(github, datadog))
        stack.callback((end := Event()).set)
        environ = {
            "DD_API_KEY": _API_KEY,
            "DD_APP_KEY": _APP_KEY,
            "DD_ENV": "demo",
            "DD_URL": intake_url,
            "GITHUB_API_URL": github_url,
            "GITHUB_TOKEN": _TOKEN,
            "GITHUB_WEBHOOK_SECRET": _WEBHOOK_SECRET,
        }
        repository = next(iter(github.repositories.values()))

        def deliver_to(url: str) -> None:
            Thread(target=deliver_runs, args=(repository, url, _WEBHOOK_SECRET, end), daemon=True).start()

        state_dir = folder / "state"
        yield Stage(_write_config(folder, state_dir, now), environ, datadog, state_dir, deliver_to)


@contextmanager
def serve(*apps: ASGIApp) -> Iterator[list[str]]:
    """The base addresses of ``apps`` on free loopback ports, each served by a thread of its own. Raises OSError."""
    with ExitStack() as stack:
        yield [stack.enter_context(_serve(app)) for app in apps]


@contextmanager
def _serve(app: ASGIApp) -> Iterator[str]:
    # The apps have clocks of their own, so no Date of the server's.
    config = uvicorn.Config(
        app, log_config=None, access_log=False, date_header=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # asyncio switches Nagle's delay (40 ms an answer) off only for sockets that name their protocol, unlike those of
    # create_server.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        thread = Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _write_config(folder: Path, state_dir: Path, now: datetime) -> Path:
    settings = yaml.safe_load((_DATA / "config.yaml").read_text(encoding="utf-8"))
    settings["state_dir"] = str(state_dir)
    for collector in settings["collectors"].values():
        if "source" in collector:
            collector["source"] = str(_write_snapshot(folder, collector["source"], now))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def _write_snapshot(folder: Path, name: str, now: datetime) -> Path:
    """The sample file ``name``, its newest record measured ``_MEASURED_AGO`` before ``now``."""
    records = json.loads((_DATA / "snapshots" / name).read_text(encoding="utf-8"))
    newest = max(datetime.fromisoformat(record["timestamp"]) for record in records)
    for record in records:
        at = datetime.fromisoformat(record["timestamp"]) + (now - _MEASURED_AGO - newest)
        record["timestamp"] = at.isoformat(timespec="seconds")
    path = folder / name
    path.write_text(json.dumps(records, indent=2), encoding="utf-8")
    return path
