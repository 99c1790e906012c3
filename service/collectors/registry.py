"""The collector types that are installed: ours and other packages', all found by one entry-point group."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio.to_thread
import msgspec
import structlog

from service.config.fields import did_you_mean
from service.config.secrets import Secret, from_environment
from service.config.settings import CollectorSettings
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Collector
from service.domain.samples import Metric

if TYPE_CHECKING:  # `check` and `list` load the types alone, without any client
    import httpx

    from service.github.client import Github
    from service.store.states import Push

log = structlog.get_logger(__name__)

GROUP = "infra_health.collectors"

Struct = TypeVar("Struct", bound=msgspec.Struct)


class StateStore(Protocol):
    """What collectors need of the store; ``service.store.states.States`` says what it means."""

    async def read(self, collector: str, key: str) -> tuple[bytes | None, int]: ...
    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> None: ...
    async def pushes(self, collector: str) -> Sequence["Push"]: ...


class CollectorState:
    """One collector's state: what it returned in ``CollectResult.state`` at the end of an earlier run; and its pushes.

    ``revisions``: those of the keys that were read last. The store writes a key at the end of a run only where its
    revision is still the same, so that a run never overwrites what another one has learned meanwhile.
    Each method raises Unavailable while the store is away.
    """

    def __init__(self, store: StateStore, collector: str) -> None:
        self._store = store
        self._collector = collector
        self.revisions: dict[str, int] = {}

    async def read(self, key: str) -> bytes | None:
        """The value, None where there is none."""
        value, self.revisions[key] = await self._store.read(self._collector, key)
        return value

    async def read_struct(self, key: str, type: type[Struct], known: Struct) -> Struct:
        """What an earlier run left as MessagePack of ``type``; an empty one where it left none that can be read.

        ``known``: what this process knows of it, which has to do while the store is away. It is decoded in a thread.
        """
        try:
            stored = await self.read(key)
        except Unavailable:
            return known
        if stored is None:
            return type()
        try:
            return await anyio.to_thread.run_sync(partial(msgspec.msgpack.decode, stored, type=type))
        except msgspec.MsgspecError as error:
            log.warning("the collector's state can't be read any more: it begins anew", reason=str(error))
            return type()

    async def add_push(self, key: str, body: bytes, at: datetime, *, max_bytes: int) -> None:
        """Keeps a push until a run has read it. Raises Unavailable, too, when more than ``max_bytes`` are unread."""
        await self._store.add_push(self._collector, key, body, at, max_bytes=max_bytes)

    async def pushes(self) -> Sequence["Push"]:
        """Those that no run has read, and the newest one; the oldest first."""
        return await self._store.pushes(self._collector)


@dataclass(frozen=True, slots=True)
class Context:
    """What a collector is given: its configured name, the shared clients, its state.

    ``secret``: the secret under an environment variable's name, or in the file that NAME_FILE names.
    ``environ``: the daemon's environment, with DD_ENV, DD_SERVICE, DD_VERSION and DD_SITE as they are configured.
    ``deliveries``: what GitHub's webhooks told (a ``github_ci.Deliveries``), None where nobody listens.
    """

    name: str
    github: "Github"
    http: "httpx.AsyncClient"
    state: CollectorState
    secret: Callable[[str], Secret] = lambda variable: from_environment(variable, os.environ)
    environ: Mapping[str, str] = field(default_factory=dict)
    deliveries: Any = None


class CollectorType(Protocol):
    """What an entry point of the group names: a class with its ``Settings``, built from settings and context.

    ``metrics``: the catalogue of what it may emit. ``carries_values = True``: its source may say nothing new for longer
    than a few of its runs, and values are good until ``max_age``. A type may also have a static method
    ``expected_checks(settings) -> list[tuple[str, str]]``: metric name and condition of the checks that its settings
    ask for, so that a dashboard shows the check that was never measured; and ``expected_metrics(settings) ->
    list[str]``: the metrics without a check, once for each series. ``own_metrics``: those of ``own_values``;
    ``check_tags``: by metric, the tags that place its check on a dashboard.
    """

    Settings: type[CollectorSettings]
    metrics: tuple[Metric, ...]

    def __call__(self, settings: CollectorSettings, context: Context) -> Collector: ...


def installed_names() -> list[str]:
    """The names of all installed types. Imports none of them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@cache
def load_type(name: str) -> CollectorType:
    """The type of that name. Imports no other. Raises ConfigError.

    To find an entry point takes 10 to 50 ms, and a thousand collectors are of a few types.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        names = installed_names()
        hint = did_you_mean(name, names)
        raise ConfigError(f"there is no collector type {name!r}; installed: {', '.join(names)}{hint}")
    point = points[0]
    try:
        loaded: CollectorType = point.load()
        is_type = callable(loaded) and issubclass(loaded.Settings, CollectorSettings)
    # A package of somebody else may raise whatever it likes while it is imported; ours is a signal that ends the start.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or type(error).__module__.startswith("service."):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"collector type {name} ({point.value}) can't be loaded: {reason}") from error
    if not is_type:
        raise ConfigError(f"collector type {name} ({point.value}): its Settings are no CollectorSettings")
    return loaded


def settings_of(name: str) -> type[CollectorSettings]:
    """The settings of the type of that name. Raises ConfigError."""
    return load_type(name).Settings


def expected_checks(loaded: CollectorType, settings: CollectorSettings) -> Sequence[tuple[str, str]]:
    """Metric name and condition of the checks that ``settings`` ask for; none where the type does not say.

    Raises ConfigError where the type, which may be foreign code, can't tell.
    """
    found: Sequence[tuple[str, str]] = _ask_type(loaded, "expected_checks", settings)
    return found


def expected_metrics(loaded: CollectorType, settings: CollectorSettings) -> Sequence[str]:
    """The metrics without a check that ``settings`` ask for, once for each series. Raises as ``expected_checks``."""
    found: Sequence[str] = _ask_type(loaded, "expected_metrics", settings)
    return found


def _ask_type(loaded: CollectorType, method: str, settings: CollectorSettings) -> Any:
    tell: Callable[[CollectorSettings], Any] | None = getattr(loaded, method, None)
    try:
        return tell(settings) if tell else ()
    except Exception as error:
        raise ConfigError(f"collector type {settings.type}: {method}: {error!r}") from error
