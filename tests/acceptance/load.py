"""A collector of an outside package that brings many samples, each with a value of its own."""

import os
from typing import Any

from tests.acceptance.program import Place

_SOURCE = """
import itertools
import time

from service.config import CollectorSettings
from service.domain.runs import Collected
from service.domain.samples import Kind, Metric, Sample

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
        return Collected(
            tuple(
                Sample(metric, next(UNIQUE), now, {"n": str(number), **texts})
                for metric, count in ((GAUGE, self.settings.gauges), (DISTRIBUTION, self.settings.distributions))
                for number in range(count)
            )
        )
"""


def add_load(here: Place, **settings: Any) -> None:
    """Installs the package as pip would and makes it the only collector."""
    packages = here.folder / "packages"
    (packages / "load-1.0.dist-info").mkdir(parents=True)
    (packages / "acme_load.py").write_text(_SOURCE)
    (packages / "load-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: load\nVersion: 1.0\n")
    points = "[infra_health.collectors]\nload = acme_load:Load\n"
    (packages / "load-1.0.dist-info" / "entry_points.txt").write_text(points)
    here.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    here.config["collectors"] = {"load": {"type": "load", **settings}}
    here.write_config()
