"""The support bundle: what somebody else needs to see of an installation, with every secret masked by its value."""

import io
import json
import os
import platform
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from service import __version__
from service.config.loader import Loaded
from service.config.masking import redact
from service.config.settings import describe
from service.daemon.diagnose import diagnose
from service.daemon.series import find_collisions
from service.domain.errors import ConfigError, HealthError
from service.store import Store

SUFFIXES = (".tar.gz", ".tgz", ".zip")
_MAX_RUNS = 100
_MAX_AUDIT_ENTRIES = 200

Files = dict[str, str]


async def read_local_files(loaded: Loaded, environ: Mapping[str, str]) -> Files:
    """What can be seen without the daemon, by file name."""
    settings = loaded.settings
    warnings = [*loaded.warnings, *find_collisions(settings)]
    about = {"file": str(loaded.file) if loaded.file else None, "notes": warnings, "settings": describe(settings)}
    files = {"settings.json": _format_json(about), "versions.json": _format_json(read_versions())}
    files["diagnose.json"] = _format_json([asdict(each) for each in await diagnose(settings, environ)])
    try:
        store = await Store.open_reading(settings.state_dir)
    except HealthError as error:
        return files | {"state.json": _format_json({"error": str(error)})}
    try:
        files |= await _read_store(store, list(settings.collectors))
    except HealthError as error:
        files["state.json"] = _format_json({"error": str(error)})
    finally:
        await store.close()
    return files


async def _read_store(store: Store, names: Sequence[str]) -> Files:
    pending = await store.outbox.pending()
    state: dict[str, Any] = {
        "points_pending": pending.samples,
        "oldest_pending": pending.oldest,
        "last_slots": await store.runs.slots(store.mode),
        "pauses": {name: asdict(pause) for name, pause in (await store.runs.pauses()).items()},
        "last_successes": await store.runs.last_successes(),
        "audit": [asdict(entry) for entry in await store.runs.audit_entries(_MAX_AUDIT_ENTRIES)],
        "checks": {name: [asdict(check) for check in await store.runs.checks(name)] for name in names},
    }
    runs, lines = [], []
    for run in await store.runs.list(limit=_MAX_RUNS):
        runs.append(asdict(run))
        for line in await store.runs.log(run.id):
            lines.append(json.dumps({"run": run.id, **asdict(line)}, default=str))
    files = {"state.json": _format_json(state), "runs.json": _format_json(runs)}
    return files | {"run_logs.jsonl": "\n".join(lines) + "\n"}


def read_versions() -> dict[str, Any]:
    packages = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {
        "infra-health": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def write_bundle(path: Path, files: Mapping[str, str]) -> None:
    """Writes the bundle, for its owner alone. ``path`` is whole or untouched. Raises ConfigError."""
    masked = {name: redact(text).encode(errors="replace") for name, text in files.items()}
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


def _format_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
