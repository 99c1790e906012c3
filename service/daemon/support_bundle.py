"""The support bundle of `flare`: settings, diagnosis, last runs and their logs in one file. Nothing is sent."""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from service import __version__
from service.config.loader import Loaded
from service.config.masking import redact
from service.config.settings import describe
from service.daemon import read_store
from service.daemon.diagnosis import diagnose
from service.daemon.series_forecast import find_collisions
from service.domain.errors import ConfigError, HealthError
from service.store import Store

_MAX_RUNS = 100
_MAX_AUDIT_ENTRIES = 200


async def read_local_files(loaded: Loaded, environ: Mapping[str, str]) -> dict[str, str]:
    """What of a support bundle can be seen without the daemon, by file name."""
    settings = loaded.settings
    packages = {found.metadata["Name"]: found.version for found in metadata.distributions()}
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
            "packages": dict(sorted(packages.items())),
        },
        "diagnose.json": [asdict(each) for each in await diagnose(settings, environ)],
    }
    try:
        async with read_store(settings) as store:
            if store:
                contents |= await _read_state(store, list(settings.collectors))
    except HealthError as error:
        contents["state.json"] = {"error": str(error)}
    return {name: json.dumps(each, indent=2, ensure_ascii=False, default=str) + "\n" for name, each in contents.items()}


async def _read_state(store: Store, names: list[str]) -> dict[str, Any]:
    runs = await store.runs.list(limit=_MAX_RUNS)
    checks = await store.checks.read_all(names)
    return {
        "state.json": {
            "pending": asdict(await store.outbox.pending()),
            "last_slots": await store.runs.slots(store.outbox.mode),
            "pauses": {name: asdict(pause) for name, pause in (await store.runs.pauses()).items()},
            "last_successes": await store.runs.last_successes(),
            "audit": [asdict(entry) for entry in await store.runs.audit_entries(_MAX_AUDIT_ENTRIES)],
            "checks": {name: [asdict(check) for check in each] for name, each in checks.items()},
        },
        "runs.json": [asdict(run) for run in runs],
        "run_logs.json": {run.id: [asdict(line) for line in await store.runs.log(run.id)] for run in runs},
    }


def write_bundle(path: Path, files: Mapping[str, str]) -> None:
    """Packs the files, every secret in them masked by its value, for their owner alone.

    ``path`` is whole or untouched. Raises ConfigError.
    """
    root = f"infra-health-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(0o600, exist_ok=False)  # never through somebody else's link
        with ZipFile(draft, "w", ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(f"{root}/{name}", redact(text))
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # it was never there
            draft.unlink()
