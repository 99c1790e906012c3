"""Collectors of outside packages: many samples, odd texts, and one that does as a file beside it says."""

import os
from pathlib import Path
from typing import Any

from tests.acceptance.program import Place

_LOAD = """
import itertools
import time

from service.plugin import CollectorSettings, CollectResult, Kind, Metric, Sample

GAUGE = Metric("acme.load.gauge")
DISTRIBUTION = Metric("acme.load.distribution", Kind.DISTRIBUTION)
UNIQUE = itertools.count(time.time_ns() // 1000)


class Settings(CollectorSettings):
    gauges: int
    distributions: int = 0
    long_tags: int = 0


class Load:
    Settings = Settings
    metrics = (GAUGE, DISTRIBUTION)

    def __init__(self, settings, context):
        self.settings = settings

    async def collect(self, now):
        texts = {f"text{number}": "x" * 190 for number in range(self.settings.long_tags)}
        return CollectResult(
            tuple(
                Sample(metric, next(UNIQUE), now, {"n": str(number), **texts})
                for metric, count in ((GAUGE, self.settings.gauges), (DISTRIBUTION, self.settings.distributions))
                for number in range(count)
            )
        )
"""

_HOSTILE = """
from service.plugin import CollectorSettings, CollectResult, Metric, PartialFailure, Sample

METRIC = Metric("acme.hostile")


class Hostile:
    Settings = CollectorSettings
    metrics = (METRIC,)

    def __init__(self, settings, context):
        pass

    async def collect(self, now):
        text = "half a pair \\ud800, \\x1b[31mred, \\u202ebackwards"
        sample = Sample(METRIC, 1, now, {"workflow_name": text, "condition": text})
        return CollectResult((sample,), (PartialFailure(text),))
"""

_QUEUE = """
import os
from pathlib import Path

import anyio

from service.plugin import CollectorSettings, CollectResult, Metric, Sample

QUEUE = Metric("acme.queue.length", help="Jobs in the queue")


class Settings(CollectorSettings):
    order: Path


class Queue:
    Settings = Settings
    metrics = (QUEUE,)

    def __init__(self, settings, context):
        self.order = settings.order

    async def collect(self, now):
        order = self.order.read_text().strip()
        if order == "leak":
            told = " ".join(value for name, value in os.environ.items() if name.endswith(("_TOKEN", "_KEY")))
            raise RuntimeError("refused: " + told)
        while order == "ignore":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
        while order == "hang" and self.order.read_text().strip() == "hang":
            await anyio.sleep(0.05)
        return CollectResult((Sample(QUEUE, 7, now, {"queue": "gpu"}),))
"""


def add_load(here: Place, **settings: Any) -> None:
    """Makes the load the only collector."""
    here.config["collectors"] = {}
    _install(here, "load", _LOAD, "Load", settings)


def add_hostile(here: Place) -> None:
    """Adds ``hostile``, whose texts no stream can write as they are."""
    _install(here, "hostile", _HOSTILE, "Hostile", {"schedule": "0 * * * *", "backoff_limit": 0})


def add_queue(here: Place, order: str, **settings: Any) -> Path:
    """Adds ``queue``, which does as the file says: go, leak (all secrets in one error), hang, ignore."""
    file = here.folder / "order"
    file.write_text(order)
    _install(here, "queue", _QUEUE, "Queue", {"schedule": "0 * * * *", "order": str(file), **settings})
    return file


def source_of(here: Place, name: str) -> Path:
    """The installed module of collector ``name``."""
    return here.folder / "packages" / f"acme_{name}.py"


def _install(here: Place, name: str, source: str, type_: str, settings: dict[str, Any]) -> None:
    """Installs a package as pip would, and configures its collector."""
    module = source_of(here, name)
    about = module.with_name(f"{name}-1.0.dist-info")
    about.mkdir(parents=True)
    module.write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[infra_health.collectors]\n{name} = acme_{name}:{type_}\n")
    known = here.environ.get("PYTHONPATH") or os.environ.get("PYTHONPATH")
    here.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(module.parent), known)))
    here.config["collectors"][name] = {"type": name, **settings}
    here.write_config()
