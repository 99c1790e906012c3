"""Secrets: from the settings, a mounted file, or AWS Secrets Manager. Their values leave in no text.

Whoever needs a secret asks its ``Secret`` each time, so a rotated one is taken over while the daemon runs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import structlog

from service import logs
from service.domain.errors import ConfigError, Unavailable

log = structlog.get_logger(__name__)

_TRY_AGAIN = 60.0  # seconds after a look-up that failed; who has no value at all asks when it needs one
_LARGEST_FILE = 64 * 1024  # bytes


class Manager(Protocol):
    """AWS Secrets Manager, or what stands for it."""

    async def read(self, name: str) -> str:
        """The value of NAME or NAME#KEY. Raises Unavailable or ConfigError (no such secret, no access)."""
        ...


class Source(Protocol):
    """A place that a secret's value can be read from again and again.

    ``title`` is for people. ``lifetime``: seconds after which a value is read anew.
    """

    @property
    def title(self) -> str: ...
    @property
    def lifetime(self) -> float: ...

    async def read(self) -> str | None:
        """The value, None where this place holds none. Raises Unavailable or ConfigError."""
        ...


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file that Kubernetes (or an agent) keeps up to date; ``variable`` names it."""

    path: Path
    variable: str
    lifetime: float = 60.0

    @property
    def title(self) -> str:
        return f"file {self.path} ({self.variable})"

    async def read(self) -> str | None:
        return await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> str | None:
        try:
            with self.path.open("rb") as file:
                text = file.read(_LARGEST_FILE + 1)
            if len(text) > _LARGEST_FILE:
                raise ConfigError(f"{self.title} is too large for a secret")
            return text.decode().strip() or None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.title} is no text") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.title}: {getattr(error, 'strerror', None) or 'no such path'}") from error


def mounted(variables: Sequence[str], environ: Mapping[str, str]) -> list[MountedFile]:
    """The files that the variables with _FILE behind their names name."""
    names = (f"{variable}_FILE" for variable in variables)
    return [MountedFile(Path(path), name) for name in names if (path := environ.get(name, "").strip())]


@dataclass(frozen=True, slots=True)
class Managed:
    """A secret in AWS Secrets Manager."""

    manager: Manager
    name: str
    lifetime: float = 3600.0

    @property
    def title(self) -> str:
        return f"AWS Secrets Manager, {self.name}"

    async def read(self) -> str | None:
        return await self.manager.read(self.name)


class Secret:
    """One secret that an adapter needs: looked up when it is first asked for, after its time, and when refused.

    A value from the settings can't change while the process lives. Without one the ``sources`` are asked in order;
    while all of them fail, the value that is known goes on working.
    ``source`` names where the value came from, never the value; "nowhere" while there is none.
    ``trouble`` says why the last look-up failed, None when it did not; ``may_pass``: time may mend that.
    """

    def __init__(
        self,
        title: str,
        remedy: str,
        value: str | None = None,
        *,
        origin: str = "settings",
        sources: Sequence[Source] = (),
        manager: Manager | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``origin``: where ``value`` was set. ``manager`` and ``name``: short for a last source in AWS."""
        self.title = title
        self.remedy = remedy
        self.source = origin if value else "nowhere"
        self.trouble: str | None = None
        self.may_pass = False
        self._value = value
        self._sources: tuple[Source, ...] = (*sources, *((Managed(manager, name),) if manager else ()))
        self._is_fixed = bool(value) or not self._sources
        self._clock = clock
        self._due = 0.0  # monotonic; the value is good until then
        self._lock = anyio.Lock()

    @property
    def can_change(self) -> bool:
        """Whether another value can come while the process lives."""
        return not self._is_fixed

    @property
    def is_set(self) -> bool:
        """Whether a value is known now."""
        return self._value is not None

    async def get(self) -> str | None:
        """The value, None while there is none."""
        if not self._is_fixed and (self._value is None or self._clock() >= self._due):
            known = self._value
            async with self._lock:
                if self._value is known and (known is None or self._clock() >= self._due):
                    await self._look_up()
        return self._value

    async def ask_again(self) -> bool:
        """Looks the value up anew, since it was refused; True when it changed. A value from the settings can't."""
        if self._is_fixed:
            return False
        async with self._lock:
            before = self._value
            await self._look_up()
            return self._value is not None and self._value != before

    async def _look_up(self) -> None:
        troubles: list[str] = []
        self.may_pass = False
        for source in self._sources:
            try:
                value = await source.read()
            except (Unavailable, ConfigError) as error:
                troubles.append(str(error))
                self.may_pass |= isinstance(error, Unavailable)
                continue
            if value:
                self._take(value, source)
                break
            troubles.append(f"{source.title}: is empty")
            self.may_pass = True
        else:
            self._due = self._clock() + _TRY_AGAIN
        trouble = "; ".join(troubles) or None
        if trouble and trouble != self.trouble:
            held = "the value that is known goes on being used" if self._value else "there is no value yet"
            log.warning("secret could not be looked up", secret=self.title, reason=trouble, so=held)
        self.trouble = trouble

    def _take(self, value: str, source: Source) -> None:
        logs.mask([value])
        if value != self._value or source.title != self.source:
            log.info("secret taken over", secret=self.title, source=source.title, changed=self._value is not None)
        self._value, self.source = value, source.title
        self._due = self._clock() + source.lifetime

    @property
    def missing(self) -> str:
        """What to tell the operator when there is no value."""
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")


def from_environment(variable: str, environ: Mapping[str, str]) -> Secret:
    """The secret that the environment holds under ``variable``, or the file that ``variable``_FILE names."""
    value = environ.get(variable, "").strip() or None
    if value:
        logs.mask([value])
    return Secret(
        f"bearer token {variable}",
        f"set {variable}, or {variable}_FILE to a file that holds it",
        value,
        origin=f"environment {variable}",
        sources=mounted((variable,), environ),
    )
