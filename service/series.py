"""How many series a configuration makes in Datadog, where each one is paid for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.adapters.store import SqliteStore
from service.collectors import registry
from service.collectors.github_ci import GithubCi
from service.config import Settings
from service.domain import conditions
from service.pipeline.job import COLLECTOR_METRICS


@dataclass(frozen=True, slots=True)
class CollectorSeries:
    """``measured``: of its own metrics; ``stable``: of its checks; ``own``: of the daemon's health.

    ``events``: of its distributions, as far as its stored runs brought them; their tags come with what happens.
    """

    name: str
    measured: int
    stable: int
    own: int
    is_known: bool
    events: int = 0
    grows_with: str = ""

    @property
    def total(self) -> int:
        return self.measured + self.stable + self.own + self.events


@dataclass(frozen=True, slots=True)
class Series:
    collectors: tuple[CollectorSeries, ...]

    @property
    def total(self) -> int:
        return sum(each.total for each in self.collectors)

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "collectors": {each.name: each.total for each in self.collectors},
            "events": {each.name: each.events for each in self.collectors if each.grows_with},
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{each.name} {each.total}" for each in self.collectors)
        unknown = [each.name for each in self.collectors if not each.is_known]
        rest = f"; not counted is what {', '.join(unknown)} will measure: no run of it is stored yet" if unknown else ""
        growing = [each for each in self.collectors if each.grows_with]
        events = "".join(f"; {each.name} has {each.events} so far of {each.grows_with}" for each in growing)
        return f"{self.total} ({parts}){events}{rest}"


async def expected_series(settings: Settings) -> Series:
    """The enabled collectors' series while no status flips; snapshots count by what they brought so far."""
    types = registry.installed()
    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        found = []
        for name, each in settings.collectors.items():
            if not each.enabled:
                continue
            expected = getattr(types[each.type], "expected_checks", None)
            texts = list(expected(each)) if expected else [check.condition for check in await store.checks(name)]
            own = len(COLLECTOR_METRICS) - (not isinstance(each, GithubCi.Settings))  # the quota is GitHub's
            own += len(getattr(types[each.type], "own_metrics", ()))
            grows_with = getattr(types[each.type], "event_series", "")
            events = await store.event_series(name) if grows_with else 0
            is_known = bool(expected or texts)
            found.append(CollectorSeries(name, len(texts), _stable(texts), own, is_known, events, grows_with))
        return Series(tuple(found))
    finally:
        await store.close()


def collisions(settings: Settings) -> list[str]:
    """What to tell the operator of github_ci collectors whose samples would overwrite each other's in Datadog."""
    seen: dict[object, str] = {}
    found = []
    for name, each in settings.collectors.items():
        if not isinstance(each, GithubCi.Settings) or not each.enabled:
            continue
        keys = [frozenset({**each.tags, "repo": repo.lower()}.items()) for repo in each.repositories]
        others = {seen.setdefault(key, name) for key in keys or [frozenset(each.tags.items())]} - {name}
        for other in sorted(others):
            found.append(
                f"collectors {other} and {name} send the same series; tell them apart by `tags: {{repo: ...}}` in"
                f" collectors.{name}"
            )
    return found


def _stable(conditions_of_checks: Iterable[str]) -> int:
    """State and age of each check, and its threshold where the condition has a number."""
    return sum(2 + (conditions.parse(text) is not None) for text in conditions_of_checks)
