"""The collector types that are installed: ours and other packages', all found by one entry-point group."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from typing import Protocol

import httpx

from service.adapters.github import Github
from service.adapters.secrets import Secret, from_environment
from service.config import CollectorSettings
from service.domain.errors import ConfigError
from service.domain.runs import Collected
from service.domain.samples import Metric

GROUP = "infra_health.collectors"


class Memory(Protocol):
    """What a collector remembered at the end of an earlier run (``Collected.remember``)."""

    async def read(self, key: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a collector is given: its configured name, shared clients, its memory.

    ``secret``: the secret under an environment variable's name, or in the file that NAME_FILE names.
    """

    name: str
    github: Github
    http: httpx.AsyncClient
    memory: Memory
    secret: Callable[[str], Secret] = lambda name: from_environment(name, os.environ)


class Collector(Protocol):
    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    async def collect(self, now: datetime) -> Collected: ...


class CollectorType(Protocol):
    """What an entry point of the group names: a class with its ``Settings``, built from settings and context."""

    Settings: type[CollectorSettings]

    def __call__(self, settings: CollectorSettings, context: Context) -> Collector: ...


def installed() -> dict[str, CollectorType]:
    """Every installed type by its name. Raises ConfigError when a package's type can't be imported."""
    types: dict[str, CollectorType] = {}
    for point in entry_points(group=GROUP):
        try:
            types[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"collector type {point.name} ({point.value}) can't be imported: {error}") from error
    return types
