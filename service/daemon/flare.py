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


async def read_local_files(loaded: Loaded, environ: Mapping[str, str]) -> dict[str, str]:
    """What can be seen without the daemon, by file name."""
    settings = loaded.settings
    contents: dict[str, Any] = {
        "settings.json": {
            "file": str(loaded.file) if loaded.file else None,
            "notes": [*loaded.warnings, *find_collisions(settings)],
            "settings": describe(settings),
        },
        "versions.json": {
            "infra-health": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "packages": {found.metadata["Name"]: found.version for found in metadata.distributions()},
        },
        "diagnose.json": [asdict(each) for each in await diagnose(settings, environ)],
    }
    try:
        store = await Store.open_reading(settings.state_dir, settings.store)
        try:
            contents |= await _read_store(store, list(settings.collectors))
        finally:
            await store.close()
    except HealthError as error:
        contents["state.json"] = {"error": str(error)}
    return {
        name: json.dumps(each, indent=2, ensure_ascii=False, default=str, sort_keys=name == "versions.json") + "\n"
        for name, each in contents.items()
    }


async def _read_store(store: Store, names: Sequence[str]) -> dict[str, Any]:
    runs = await store.runs.list(limit=_MAX_RUNS)
    checks = await store.runs.checks_of(names)
    return {
        "state.json": {
            "pending": asdict(await store.outbox.pending()),
            "last_slots": await store.runs.slots(store.mode),
            "pauses": {name: asdict(pause) for name, pause in (await store.runs.pauses()).items()},
            "last_successes": await store.runs.last_successes(),
            "audit": [asdict(entry) for entry in await store.runs.audit_entries(_MAX_AUDIT_ENTRIES)],
            "checks": {name: [asdict(check) for check in each] for name, each in checks.items()},
        },
        "runs.json": [asdict(run) for run in runs],
        "run_logs.json": {run.id: [asdict(line) for line in await store.runs.log(run.id)] for run in runs},
    }


def write_bundle(path: Path, files: Mapping[str, str]) -> None:
    """Writes the bundle, for its owner alone. ``path`` is whole or untouched. Raises ConfigError."""
    root = f"infra-health-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    packed = io.BytesIO()
    masked = {f"{root}/{name}": redact(text).encode(errors="replace") for name, text in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in masked.items():
                zipped.writestr(name, data)
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, data in masked.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
                tar.addfile(member, io.BytesIO(data))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(packed.getvalue())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
