"""Collectors of outside packages: one that brings many samples, each with a value of its own, and unruly ones."""

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


_UNRULY = """
import asyncio
import sys

from service.config import CollectorSettings


class Unruly:
    Settings = CollectorSettings
    metrics = ()

    def __init__(self, settings, context):
        pass


class Exits(Unruly):
    async def collect(self, now):
        sys.exit(3)


class Cancelled(Unruly):
    async def collect(self, now):
        await asyncio.wait_for(self.stray(), None)

    async def stray(self):
        raise asyncio.CancelledError
"""


def add_load(here: Place, **settings: Any) -> None:
    """Makes the load the only collector."""
    _install(here, "load", _SOURCE, load="Load")
    here.config["collectors"] = {"load": {"type": "load", **settings}}
    here.write_config()


def add_unruly(here: Place) -> None:
    """Adds ``exits``, which calls sys.exit, and ``cancelled``, which lets a stray CancelledError out."""
    _install(here, "unruly", _UNRULY, exits="Exits", cancelled="Cancelled")
    for name in ("exits", "cancelled"):
        here.config["collectors"][name] = {"type": name, "schedule": "0 * * * *"}
    here.write_config()


_HOSTILE = """
import asyncio

from service.config import CollectorSettings
from service.domain.runs import Collected, Fault
from service.domain.samples import Metric, Sample

METRIC = Metric("acme.hostile")


class Hostile:
    Settings = CollectorSettings
    metrics = (METRIC,)

    def __init__(self, settings, context):
        pass

    async def collect(self, now):
        text = "half a pair \\ud800, \\x1b[31mred, \\u202ebackwards"
        return Collected((Sample(METRIC, 1, now, {"workflow_name": text, "condition": text}),), (Fault(text),))


class Cancelling(Hostile):
    async def collect(self, now):
        asyncio.current_task().cancel()
        await asyncio.sleep(60)
"""


def add_hostile(here: Place) -> None:
    """Adds ``hostile``, whose texts no stream can write as they are, and ``cancelling``, which ends its own task."""
    _install(here, "hostile", _HOSTILE, hostile="Hostile", cancelling="Cancelling")
    for name in ("hostile", "cancelling"):
        here.config["collectors"][name] = {"type": name, "schedule": "0 * * * *", "backoff_limit": 0}
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
