"""The support bundle: what somebody else needs to see of an installation, with every secret masked by its value."""

import io
import json
import os
import platform
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from service import __version__, logs
from service.adapters.store import SqliteStore
from service.config_sources import Loaded
from service.config_view import describe
from service.diagnose import diagnose
from service.domain.errors import ConfigError, HealthError
from service.series import collisions

SUFFIXES = (".tar.gz", ".tgz", ".zip")
_RUNS = 100
_ACTIONS = 200

Files = dict[str, str]


async def local_files(loaded: Loaded, environ: Mapping[str, str]) -> Files:
    """What can be seen without the daemon, by file name."""
    settings = loaded.settings
    notes = [*loaded.notes, *collisions(settings)]
    about = {"file": str(loaded.file) if loaded.file else None, "notes": notes, "settings": describe(settings)}
    files = {"settings.json": _json(about), "versions.json": _json(versions())}
    files["diagnose.json"] = _json([each.as_json() for each in await diagnose(settings, environ)])
    try:
        store = await SqliteStore.open_reading(settings.state_dir)
    except HealthError as error:
        return files | {"state.json": _json({"error": str(error)})}
    try:
        files |= await _stored(store, list(settings.collectors))
    except HealthError as error:
        files["state.json"] = _json({"error": str(error)})
    finally:
        await store.close()
    return files


async def _stored(store: SqliteStore, names: Sequence[str]) -> Files:
    runs = await store.runs(limit=_RUNS)
    waiting_since = await store.oldest_waiting()
    state: dict[str, Any] = {
        "bytes": await store.size(),
        "points_waiting": await store.count_waiting(),
        "oldest_waiting": waiting_since,
        "last_slots": dict(await store.last_slots()),
        "paused": sorted(await store.paused()),
        "last_successes": await store.last_successes(),
        "actions": [
            {name: getattr(action, name) for name in type(action).__slots__} for action in await store.actions(_ACTIONS)
        ],
        "checks": {
            name: [
                {"tags": check.tags, "status": check.status, "condition": check.condition, "value": check.value}
                | {"since": check.since, "measured_at": check.measured_at, "metric": check.metric}
                for check in await store.checks(name)
            ]
            for name in names
        },
    }
    found = []
    lines = []
    for run in runs:
        faults = [str(fault) for fault in run.faults]
        facts: dict[str, Any] = {
            "id": run.id,
            "cause": run.slot.cause,
            "scheduled_at": run.slot.scheduled_at,
            "started": run.started,
        }
        facts |= {"ended": run.ended, "outcome": run.outcome, "attempts": run.attempts, "samples": run.samples}
        found.append(facts | {"errors": faults})
        for line in await store.run_log(run.id):
            said = {"run": run.id, "time": line.time, "level": line.level, "message": line.message}
            lines.append(json.dumps(said | {"fields": dict(line.fields)}, default=str))
    return {"state.json": _json(state), "runs.json": _json(found), "run_logs.jsonl": "\n".join(lines) + "\n"}


def versions() -> dict[str, Any]:
    packages = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {
        "infra-health": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def write(path: Path, files: Mapping[str, str]) -> None:
    """Writes the bundle, for its owner alone. ``path`` is whole or untouched. Raises ConfigError."""
    masked = {name: logs.hidden(text).encode(errors="replace") for name, text in files.items()}
    root = f"infra-health-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    packed = _zip(root, masked) if path.name.endswith(".zip") else _tar(root, masked)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error


def _zip(root: str, files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{root}/{name}", data)
    return packed.getvalue()


def _tar(root: str, files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
