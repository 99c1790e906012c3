"""Training and evaluation health from snapshot files: whatever a pipeline measured, as one JSON record per check."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Literal

import anyio.to_thread

from service.adapters import snapshots
from service.collectors.registry import Context
from service.collectors.snapshot_samples import Category, to_collected
from service.config import CollectorSettings
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Collected
from service.domain.samples import Metric

_SENT = "sent"
_CATEGORIES = {
    "training": Category("training", namespace="metta.infra.stablesuite", source="stable_suite"),
    "evaluation": Category("evaluation", namespace="metta.infra.cron", source="cron"),
}
_VARIABLES = {"training": "TRAINING_HEALTH_FILE", "evaluation": "EVAL_HEALTH_FILE"}


class SnapshotSettings(CollectorSettings):
    """``source``: where the snapshot is read from (``snapshots.FORMS``)."""

    category: Literal["training", "evaluation"]
    source: str | None = None

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """As the base class says; the category tells which variable names the source."""
        found = super().legacy_environment(values, environ)
        variable = _VARIABLES.get(str(values.get("category", "")).strip())
        return found | {"source": environ[variable]} if variable and variable in environ else found


class Snapshot:
    """Collects the records of one snapshot. Its metrics are the records' own, so there is no catalogue of them."""

    Settings = SnapshotSettings
    metrics: tuple[Metric, ...] = ()

    def __init__(self, settings: SnapshotSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._sent: bytes | None = None

    async def collect(self, now: datetime) -> Collected:
        """A sample of each usable record, a fault for each other one.

        Raises Rejected when no record is usable or the file is no snapshot, ConfigError when no source is set, and what
        ``snapshots.read`` raises.
        """
        if not self._settings.source:
            raise ConfigError(
                f"no snapshot to read: set collectors.{self._context.name}.source or"
                f" {_VARIABLES[self._settings.category]} to {snapshots.FORMS}"
            )
        content = await snapshots.read(self._settings.source, self._context.http)
        with suppress(Unavailable):  # while the store is lost, what this process knows has to do
            self._sent = await self._context.memory.read(_SENT)
        collected = await anyio.to_thread.run_sync(
            partial(
                to_collected,
                content.body,
                name=content.name,
                version=content.version,
                category=_CATEGORIES[self._settings.category],
                now=now,
                max_age=self._settings.max_age,
                sent=self._sent,
            ),
            abandon_on_cancel=True,
        )
        self._sent = collected.remember.get(_SENT, self._sent)
        return collected
