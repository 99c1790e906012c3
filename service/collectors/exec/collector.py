"""Any program as a collector: a CronJob's command, run on its schedule, whose stdout becomes samples."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial

import anyio.to_thread
import msgspec
import structlog

from service.collectors.exec.output import read_text
from service.collectors.exec.program import run_program
from service.collectors.exec.settings import ExecSettings
from service.collectors.expectation import Seen, find_missing
from service.collectors.records import GZIP_MAGIC, MAX_FAILURES, BadRecord, Item, read_records
from service.collectors.registry import Context
from service.collectors.selection import Origin, Publication, Selection, remember, to_samples
from service.collectors.thresholds import find_unused
from service.config.masking import mask, secrets_in_environment
from service.domain.errors import ConfigError, Rejected, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric

log = structlog.get_logger(__name__)

STATE = "exec"
# The daemon's other variables stay its own: among them are its secrets.
_CLEAN = ("PATH", "HOME", "LANG", "TZ", "DD_ENV", "DD_SERVICE", "DD_VERSION", "DD_SITE")


class State(msgspec.Struct):
    """What the next run must know. ``sent``: the events of a Selection; ``counters``: as ``read_text`` has them;
    ``expected``: as ``find_missing`` has them."""

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
        ended = await run_program(command, await self._environment(), self._settings.memory, log.info)
        if ended.code:
            raise Unavailable(f"{command[0]} {ended.reason}")
        if not ended.stdout.strip():
            raise Rejected(f"{command[0]} printed nothing on stdout{ended.said}")
        work = partial(self._read, ended.stdout, before, now)
        try:
            result, self._state = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Rejected as error:
            raise Rejected(f"{error}{ended.said}") from error
        return result

    def _read(self, body: bytes, before: State, now: datetime) -> tuple[CollectResult, State]:
        failures: list[PartialFailure] = []
        records: Iterable[Item | BadRecord]
        counters = before.counters
        is_json = body.lstrip()[:1] in (b"[", b"{") or body.startswith(GZIP_MAGIC)
        if self._settings.format == "json" or (self._settings.format == "auto" and is_json):
            records = read_records(body, "stdout", now)
        else:
            text = read_text(body, self._settings.format, before.counters)
            failures, counters = text.failures, text.counters
            records = text.samples
        selection, max_age = Selection(), self._settings.max_age
        expect, thresholds = self._settings.expect, self._settings.thresholds
        if records:  # a text may have nothing but what is left out
            publication = Publication("stdout", "", now)
            selection = to_samples(
                *(records, publication, self._origin, now, max_age, before.sent),
                thresholds=thresholds,
                with_names=bool(expect or thresholds),
            )
        missing = find_missing(expect, selection.brought, before.expected, self._origin, "output")
        state = State(remember(before.sent, selection.events, now - max_age), counters, missing.seen)
        unused = find_unused(thresholds, selection.brought)
        failures = [*missing.failures, *unused, *failures, *selection.failures]
        result = CollectResult(
            samples=tuple(selection.samples),
            failures=tuple(failures[:MAX_FAILURES]),
            no_data=(*selection.no_data, *missing.no_data),
            state={STATE: msgspec.msgpack.encode(state)} if state != before else {},
            skipped=len(failures),
        )
        return result, state

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
