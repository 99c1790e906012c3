"""Collectors of outside packages: one that brings many samples, each with a value of its own, and one of odd texts."""

import os
from typing import Any

from tests.acceptance.program import Place

_SOURCE = """
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


def add_load(here: Place, **settings: Any) -> None:
    """Makes the load the only collector."""
    _install(here, "load", _SOURCE, load="Load")
    here.config["collectors"] = {"load": {"type": "load", **settings}}
    here.write_config()


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
        return CollectResult((Sample(METRIC, 1, now, {"workflow_name": text, "condition": text}),), (PartialFailure(text),))
"""


def add_hostile(here: Place) -> None:
    """Adds ``hostile``, whose texts no stream can write as they are."""
    _install(here, "hostile", _HOSTILE, hostile="Hostile")
    here.config["collectors"]["hostile"] = {"type": "hostile", "schedule": "0 * * * *", "backoff_limit": 0}
    here.write_config()


def _install(here: Place, name: str, source: str, **types: str) -> None:
    """Installs a package as pip would."""
    packages = here.folder / "packages"
    about = packages / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (packages / f"acme_{name}.py").write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"{each} = acme_{name}:{type_}\n" for each, type_ in types.items())
    (about / "entry_points.txt").write_text(f"[infra_health.collectors]\n{points}")
    here.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
