"""A collector of an outside package that brings as many samples as its settings say, or does as a file says."""

import os
from pathlib import Path
from typing import Any

from tests.acceptance.program import Place

_SOURCE = """
import itertools
import os
import time
from pathlib import Path

import anyio

from service.plugin import CollectorSettings, CollectResult, Kind, Metric, PartialFailure, Sample

GAUGE = Metric("acme.load.gauge")
DISTRIBUTION = Metric("acme.load.distribution", Kind.DISTRIBUTION)
QUEUE = Metric("acme.queue.length", help="Jobs in the queue")
UNIQUE = itertools.count(time.time_ns() // 1000)
ODD = "half a pair \\ud800, \\x1b[31mred, \\u202ebackwards"


class Settings(CollectorSettings):
    order: Path | None = None
    gauges: int = 0
    distributions: int = 0
    long_tags: int = 0


class Acme:
    Settings = Settings
    metrics = (GAUGE, DISTRIBUTION, QUEUE)

    def __init__(self, settings, context):
        self.settings = settings

    @property
    def order(self):
        return self.settings.order.read_text() if self.settings.order else "none"

    async def collect(self, now):
        if self.order == "leak":
            told = " ".join(value for name, value in os.environ.items() if name.endswith(("_TOKEN", "_KEY")))
            raise RuntimeError("refused: " + told)
        if self.order == "odd":
            odd = Sample(QUEUE, 1, now, {"workflow_name": ODD, "condition": ODD})
            return CollectResult((odd,), (PartialFailure(ODD),))
        while self.order in ("hang", "ignore"):
            with anyio.CancelScope(shield=self.order == "ignore"):
                await anyio.sleep(0.05)
        if self.order == "go":
            return CollectResult((Sample(QUEUE, 7, now, {"queue": "gpu"}),))
        texts = {f"text{number}": "x" * 190 for number in range(self.settings.long_tags)}
        return CollectResult(
            tuple(
                Sample(metric, next(UNIQUE), now, {"n": str(number), **texts})
                for metric, count in ((GAUGE, self.settings.gauges), (DISTRIBUTION, self.settings.distributions))
                for number in range(count)
            )
        )
"""


def add_load(here: Place, **settings: Any) -> None:
    """Makes the load the only collector."""
    here.config["collectors"] = {}
    _install(here, "load", settings)


def add_queue(here: Place, order: str, **settings: Any) -> Path:
    """Adds ``queue``, which does as the file says: go, leak (all secrets in one error), hang, ignore, or odd: it brings
    texts that no stream can write as they are.
    """
    file = here.folder / "order"
    file.write_text(order)
    _install(here, "queue", {"schedule": "0 * * * *", "order": str(file), **settings})
    return file


def source_of(here: Place) -> Path:
    """The installed module."""
    return here.folder / "packages" / "acme.py"


def _install(here: Place, name: str, settings: dict[str, Any]) -> None:
    """Installs the package as pip would, and configures its collector."""
    module = source_of(here)
    about = module.with_name("acme-1.0.dist-info")
    about.mkdir(parents=True)
    module.write_text(_SOURCE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[infra_health.collectors]\nacme = acme:Acme\n")
    known = here.environ.get("PYTHONPATH") or os.environ.get("PYTHONPATH")
    here.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(module.parent), known)))
    here.config["collectors"][name] = {"type": "acme", **settings}
    here.write_config()
