"""Any program as a collector: a CronJob's command, run on its schedule, whose stdout becomes samples."""

import codecs
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import anyio.to_thread
import msgspec
import structlog
from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from service.collectors.exec.output import read_text
from service.collectors.exec.program import run_program
from service.collectors.expectation import Entry, Seen
from service.collectors.records import GZIP_MAGIC, BadRecord, Item, Origin, read_records
from service.collectors.registry import Context
from service.collectors.selection import Publication, Selection
from service.collectors.thresholds import Threshold
from service.config import fields
from service.config.masking import MASK, mask, secrets_in_environment
from service.config.secrets import Secret, aws_secret, mounted_file
from service.config.settings import Bytes, CollectorSettings, Text
from service.domain.errors import ConfigError, Rejected, Unavailable
from service.domain.runs import CollectResult
from service.domain.samples import Metric

log = structlog.get_logger(__name__)

STATE = "exec"
# The daemon's other variables stay its own: among them are its secrets.
_CLEAN = ("PATH", "HOME", "LANG", "TZ", "DD_ENV", "DD_SERVICE", "DD_VERSION", "DD_SITE")
_SHORTEST_SECRET = 8  # characters: a shorter one may be a part of any number or word that is printed


Word = Annotated[
    str,
    StringConstraints(strip_whitespace=False),
    Field(coerce_numbers_to_str=True),
    fields.matching(r"(?s)[^\0]*", "holds a NUL character, which no program can be given"),
]
Variable = Annotated[str, fields.matching(r"[A-Za-z_][A-Za-z0-9_]*", "must be the name of an environment variable")]
Place = Annotated[
    Text, AfterValidator(lambda place: str(fields.expand_path(Path(place))) if place.startswith("~/") else place)
]
Namespace = Annotated[
    str,
    fields.matching(r"([A-Za-z][A-Za-z0-9_.]{0,98})?", "must begin with a letter and have letters, digits, _ and ."),
]


class ExecSettings(CollectorSettings):
    """``command``: the program and its arguments, as they are; no shell reads them.

    ``environment`` and ``secrets`` (a path, else a name in AWS Secrets Manager) come on top of a clean environment,
    with what ``pass_environment`` names of the daemon's own. ``memory``: the program's address space in bytes.
    ``namespace`` is put before metrics that do not begin with "metta.". ``category``: without it the collector's name.
    ``expect``: checks that each run has to print (``expectation``). ``thresholds``: in place of what it prints.
    ``format``: of stdout; "json" is a list, an object with "records", or lines.
    """

    environment: dict[Variable, Word] = Field(default_factory=dict)
    pass_environment: tuple[Variable, ...] = ()
    secrets: dict[Variable, Place] = Field(default_factory=dict)
    command: Annotated[tuple[Word, ...], Field(min_length=1)]
    memory: Annotated[Bytes, Field(ge=2**20)] | None = None
    namespace: Namespace = ""
    category: Text | None = None
    expect: tuple[Entry, ...] = ()
    thresholds: dict[Text, Threshold] = Field(default_factory=dict)
    format: Literal["auto", "json", "prometheus", "openmetrics"] = "auto"

    def open_secrets(self) -> dict[str, Secret]:
        """The secrets by variable. Nothing is read yet."""
        return {variable: _open_secret(variable, place) for variable, place in self.secrets.items()}

    @field_validator("command")
    @classmethod
    def _is_there(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        name = command[0]
        path = info.data.get("environment", {}).get("PATH") or os.environ.get("PATH", os.defpath)
        if shutil.which(name, path=path):
            return command
        if "/" in name and Path(name).exists():
            raise ValueError(f"{name} is no program that the daemon's user may execute")
        hint = "; the program and each of its arguments are items of a list" if " " in name else ""
        raise ValueError(f"there is no program {name}{'' if '/' in name else f' in {path}'}{hint}")


class State(msgspec.Struct):
    """What the next run must know: a Selection's events, ``read_text``'s counters, what ``find_missing`` has seen."""

    sent: dict[bytes, int] = {}
    counters: dict[str, float] = {}
    expected: Seen = {}


class Exec:
    """Runs one program. Its metrics are the program's own, so there is no catalogue of them."""

    Settings = ExecSettings
    metrics: tuple[Metric, ...] = ()

    def __init__(self, settings: ExecSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._origin = Origin(settings.category or context.name, settings.namespace, "exec")
        self._secrets = settings.open_secrets()
        self._state = State()
        mask(secrets_in_environment(settings.environment))

    async def collect(self, now: datetime) -> CollectResult:
        """A sample of each usable record or sample that the program prints, a failure for each other one.

        Raises Unavailable when it fails, Rejected when it prints nothing that can be read, TooLarge, ConfigError.
        """
        before = self._state = await self._context.state.read_struct(STATE, State, self._state)
        command = self._settings.command
        stdout, last_lines = await run_program(command, await self._environment(), self._settings.memory, log.info)
        if not stdout.strip():
            raise Rejected(f"{command[0]} printed nothing on stdout{last_lines}")
        work = partial(self._read, stdout, before, now)
        try:
            result, self._state = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Rejected as error:
            raise Rejected(f"{error}{last_lines}") from error
        return result

    def _read(self, body: bytes, before: State, now: datetime) -> tuple[CollectResult, State]:
        settings, counters, form = self._settings, before.counters, self._settings.format
        body = body.removeprefix(codecs.BOM_UTF8)
        for secret in self._secrets.values():
            if secret.known and len(secret.known) >= _SHORTEST_SECRET:
                body = body.replace(secret.known.encode(), MASK.encode())
        expect, thresholds = settings.expect, settings.thresholds
        selection = Selection(self._origin, now, settings.max_age, before.sent, expect, thresholds)
        records: Iterable[Item | BadRecord]
        is_json = body.lstrip()[:1] in (b"[", b"{") or body.startswith(GZIP_MAGIC)
        if form == "json" or (form == "auto" and is_json):
            records = read_records(body, "stdout", now)
        else:
            text = read_text(body, before.counters)
            selection.failures, counters, records = text.failures, text.counters, text.samples
        if records:  # a text may have nothing but what is left out
            selection.add(records, Publication("stdout", "", now))
        result, expected = selection.to_result(before.expected, "output")
        state = State(selection.remember(), counters, expected)
        return replace(result, state={STATE: msgspec.msgpack.encode(state)} if state != before else {}), state

    async def _environment(self) -> Mapping[str, str]:
        """What the program is started with. Raises Unavailable or ConfigError without one of its secrets."""
        own, settings = self._context.environ, self._settings
        environ = {name: own[name] for name in (*_CLEAN, *settings.pass_environment) if name in own}
        environ |= settings.environment
        for name, secret in self._secrets.items():
            value = await secret.get()
            if not value:
                raise (Unavailable if secret.may_pass else ConfigError)(secret.missing)
            environ[name] = value
        return environ


def _open_secret(variable: str, place: str) -> Secret:
    is_path = place.startswith(("/", "./", "../"))
    source = mounted_file(Path(place), f"secrets.{variable}") if is_path else aws_secret(place)
    return Secret(f"secret {variable}", f"put it into {place}", sources=[source])
