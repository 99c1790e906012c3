"""The options that every command has, and what they come to: settings, logs, results, and where errors are reported."""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service import __version__
from service.cli.output import to_json
from service.config.masking import escape_control_characters
from service.domain.errors import ConfigError, HealthError, Unavailable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from service.config.loader import Loaded
    from service.config.settings import Settings
    from service.demo.stage import Stage

Command = TypeVar("Command", bound=Callable[..., Any])

_WATCH_INTERVAL = 2
_COMPLETION_TIMEOUT = 0.5

# What would lead the demo away from its recorded data. (INFRA_HEALTH_HTTP__PORT and the like still hold.)
_NOT_IN_THE_DEMO = (
    *("DD_", "DATADOG_", "GITHUB_", "METTA_GITHUB_", "CI_", "TRAINING_HEALTH_", "EVAL_HEALTH_", "AWS_"),
    *("INFRA_HEALTH_COLLECTORS", "INFRA_HEALTH_DATADOG", "INFRA_HEALTH_GITHUB", "INFRA_HEALTH_AWS"),
    *("INFRA_HEALTH_STATE_DIR", "INFRA_HEALTH_CONFIG"),
)


class Exit(IntEnum):
    """Exit codes; 2 (usage) is click's own."""

    DONE = 0
    FAILED = 1  # a collector or a delivery failed
    CONFIG = 78  # sysexits' EX_CONFIG


@dataclass
class Options:
    """The common options, whether given before or after the command's name."""

    config: Path | None = None
    demo: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    exits: ExitStack = field(default_factory=ExitStack)
    stage: "Stage | None" = None

    def environ(self) -> dict[str, str]:
        """The environment; the demo's addresses and keys stand in front of the user's own."""
        if self.demo and self.stage is None:
            from service.demo.stage import stage

            self.stage = self.exits.enter_context(stage())
        if self.stage is None:
            return dict(os.environ)
        own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_IN_THE_DEMO)}
        return own | self.stage.environ

    def load(self) -> "Loaded":
        """The settings. Raises ConfigError."""
        from service.collectors.registry import settings_of
        from service.config.loader import load

        environ = self.environ()
        return load(self.stage.config if self.stage else self.config, environ, settings_of)

    def open(self, level: str | None) -> "Loaded":
        """The settings, with logs on stderr of ``level`` where neither -q nor -v is given. Raises ConfigError."""
        from service.config import logging, masking
        from service.config.settings import secret_values

        loaded, environ = self.load(), self.environ()
        masking.mask([*secret_values(loaded.settings), *masking.secrets_in_environment(environ)])
        level = "error" if self.quiet else "debug" if self.verbose else level
        logging.configure(loaded.settings, environ, level=level)
        return loaded

    def show(self, value: Any, print_text: Callable[[], None]) -> None:
        """A command's result: as JSON where asked for, else as text. Raises Unavailable when stdout takes no more."""
        try:
            if self.json:
                click.echo(to_json(value))
            else:
                print_text()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Unavailable(f"stdout can't be written: {error.strerror}") from error


def refuse_unknown(settings: "Settings", names: Sequence[str]) -> None:
    """Raises UsageError where one of them is no collector."""
    from service.config.fields import did_you_mean

    for name in names:
        if name not in settings.collectors:
            hint, known = did_you_mean(name, settings.collectors), ", ".join(settings.collectors)
            raise click.UsageError(f"no collector is called {name}{hint}; configured are: {known}")


def message(text: str, colour: str | None = None, **style: Any) -> None:
    """A message for the person at the terminal, on stderr. What others sent in it steers no terminal."""
    click.secho(escape_control_characters(text), err=True, fg=colour, **style)


def read_input(name: str, remedy: str = "") -> bytes:
    """A file that the user named, or ``-``, standard input. Raises ConfigError."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} can't be read: {error.strerror or error}{remedy and f'; {remedy}'}") from error


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turns the errors that a user can mend into one message and the right exit code."""
    try:
        yield
    except (HealthError, ExceptionGroup) as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # task groups wrap what ends them
        if not isinstance(error, HealthError):
            raise
        message(str(error), "red")
        raise click.exceptions.Exit(Exit.CONFIG if isinstance(error, ConfigError) else Exit.FAILED) from error
    except BrokenPipeError:
        # The reader of our output (head, less) is gone: nothing is left to say.
        sys.stderr.close()
        raise click.exceptions.Exit(Exit.DONE) from None


def _common_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option that counts before and after the command's name alike."""

    def store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Options), parameter.name or "", value)

    return click.option(*names, callback=store, expose_value=False, **attributes)


def common(command: Command) -> Command:
    """Gives a command the common options; those after its name win over those before it."""
    for option in (
        click.version_option(__version__, prog_name="infra-health"),
        _common_option("-v", "--verbose", is_flag=True, help="Debug logs."),
        _common_option("-q", "--quiet", is_flag=True, help="Errors only."),
        _common_option("--json", is_flag=True, help="Results as JSON."),
        _common_option("--demo", is_flag=True, help="Recorded data on loopback: needs no token, no key, no internet."),
        _common_option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Settings file; else INFRA_HEALTH_CONFIG, else ./config.yaml.",
        ),
    ):
        command = option(command)
    return command


URL = click.option(
    "--url",
    envvar="INFRA_HEALTH_URL",
    help="The daemon's address; else INFRA_HEALTH_URL, else http.host and http.port of the settings. INFRA_HEALTH_TOKEN"
    " is sent, or to read INFRA_HEALTH_READ_TOKEN.",
)
# For a command that asks the daemon: it is carried out again and again.
WATCH = click.option("--watch", is_flag=True, help=f"Show it anew every {_WATCH_INTERVAL} s, until Ctrl-C.")


def command(
    name: str | None = None,
    *,
    example: str,
    group: click.Group | None = None,
    cls: type[click.Command] = click.Command,
    asks_daemon: bool = False,
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with the common options; its errors are reported.

    Its function gets ``Options`` first, may be a coroutine function, and returns False where the exit code is 1. What
    it does in a sentence stands in ``service.cli.main``; the function's docstring, if any, says more.
    ``asks_daemon``: it has ``--url``, and gets the ``Daemon`` as its second argument.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_obj
        def run(options: Options, /, *, watch: bool = False, **arguments: Any) -> None:
            with errors_reported(), ExitStack() as exits:
                given: list[Any] = [options]
                if asks_daemon:
                    from service.cli.client import connect, find_url

                    given.append(exits.enter_context(connect(arguments.pop("url") or find_url(options))))
                if watch and arguments.get("exit_code"):
                    raise click.UsageError("--watch and --exit-code exclude each other")
                show = partial(function, *given, **arguments)
                if watch:
                    _repeat(show)
                elif _carry_out(show) is False:
                    raise click.exceptions.Exit(Exit.FAILED)

        run.__dict__.update(function.__dict__)  # click's decorators keep the parameters there
        text = f"{inspect.getdoc(function) or ''}\n\n\b\nExample: {example}"
        made = (group or click).command(name or function.__name__, cls=cls, help=text)(run)
        return common(URL(made) if asks_daemon else made)

    return decorate


def _carry_out(show: Callable[[], Any]) -> Any:
    done = show()
    if not inspect.iscoroutine(done):
        return done
    import anyio

    return anyio.run(lambda: done)


def _repeat(show: Callable[[], object]) -> None:
    """Shows it on a clear screen again and again, until Ctrl-C, which ends it well."""
    with suppress(KeyboardInterrupt):
        while True:
            click.clear()  # of a terminal; a pipe gets one after the other
            show()
            time.sleep(_WATCH_INTERVAL)


def read_with(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """The callback of an option whose text is read by ``parse``, which raises ValueError or OverflowError."""

    def read(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return parse(text) if text else None
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(str(error)) from None

    return read


def complete_collector(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """The running daemon's collectors for a command that asks it, else the configured ones.

    None where the configuration is wrong: a completion has no place for errors.
    """
    from click.shell_completion import CompletionItem

    from service.cli.client import connect, find_url

    names: list[str] = []
    options = context.ensure_object(Options)
    with suppress(HealthError):
        if "url" in context.params:
            url = context.params["url"] or find_url(options)
            with suppress(HealthError), connect(url, _COMPLETION_TIMEOUT) as daemon:
                names = [each["name"] for each in daemon.collectors()]
        names = names or list(options.load().settings.collectors)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
