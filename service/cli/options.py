"""The options that every command has, and what they come to: settings, logs, and where the errors are told."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from service import __version__

if TYPE_CHECKING:
    from service.config_sources import Loaded
    from service.demo.stage import Stage

Command = TypeVar("Command", bound=Callable[..., Any])


class Exit(IntEnum):
    """Exit codes; 2 (usage) is click's own."""

    DONE = 0
    FAILED = 1  # a collector or a delivery failed
    CONFIG = 78  # sysexits' EX_CONFIG


@dataclass
class Options:
    """What was said before and after the command's name, put together."""

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
        kept = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        return kept | self.stage.environ

    def load(self, overrides: Mapping[str, Any] | None = None) -> "Loaded":
        """The settings. Raises ConfigErrors."""
        from service.collectors import registry
        from service.config_sources import load

        environ = self.environ()
        path = self.stage.config if self.stage else self.config
        types = {name: kind.Settings for name, kind in registry.installed().items()}
        return load(path, environ, types, overrides)

    def start_logs(self, loaded: "Loaded", *, level: str | None = None) -> None:
        """Logs to stderr; ``level`` is the command's own default, which -q and -v change."""
        from service import logs
        from service.config_environment import secrets_in
        from service.config_view import secret_values

        settings = loaded.settings
        chosen = "error" if self.quiet else "debug" if self.verbose else level or settings.log.level
        logs.configure(
            format=settings.log.format,
            level=chosen,
            service=settings.datadog.service,
            env=settings.datadog.env,
            version=settings.datadog.version,
        )
        logs.mask([*secret_values(settings), *secrets_in(self.environ())])


def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Puts what is said before and after the command's name into the same place."""
    if value:
        setattr(context.ensure_object(Options), parameter.name or "", value)


def common(command: Command) -> Command:
    """Gives a command the common options; what is said there wins over what was said before its name."""
    options = (
        click.option(
            "--config",
            callback=keep,
            expose_value=False,
            type=click.Path(path_type=Path, dir_okay=False),
            help="Settings file; else INFRA_HEALTH_CONFIG, else ./config.yaml.",
        ),
        click.option(
            "--demo",
            is_flag=True,
            callback=keep,
            expose_value=False,
            help="Recorded data on loopback: needs no token, no key, no internet.",
        ),
        click.option("--json", is_flag=True, callback=keep, expose_value=False, help="Results as JSON."),
        click.option("-q", "--quiet", is_flag=True, callback=keep, expose_value=False, help="Errors only."),
        click.option("-v", "--verbose", is_flag=True, callback=keep, expose_value=False, help="Debug logs."),
        click.version_option(__version__, prog_name="infra-health"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def say(text: str, **style: Any) -> None:
    """A message for the person at the terminal (stderr)."""
    click.secho(text, err=True, **style)


def end(code: int) -> NoReturn:
    """Ends the command."""
    click.get_current_context().exit(code)
    raise AssertionError("exit returns never")


@contextmanager
def told() -> Iterator[None]:
    """Turns the errors that a user can mend into one message and the right exit code."""
    from service.domain.errors import ConfigError, HealthError

    try:
        yield
    except (HealthError, ExceptionGroup) as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # task groups wrap what ends them
        if not isinstance(error, HealthError):
            raise
        say(str(error), fg="red")
        end(Exit.CONFIG if isinstance(error, ConfigError) else Exit.FAILED)
    except BrokenPipeError:
        # The reader of our output (head, less) is gone: nothing is left to say.
        sys.stderr.close()
        end(Exit.DONE)


# What would lead the demo away from its recorded data. (INFRA_HEALTH_HTTP__PORT and the like still hold.)
_SETTINGS = (
    *("DD_", "DATADOG_", "GITHUB_", "METTA_GITHUB_", "CI_", "TRAINING_HEALTH_", "EVAL_HEALTH_", "AWS_"),
    *("INFRA_HEALTH_COLLECTORS", "INFRA_HEALTH_DATADOG", "INFRA_HEALTH_GITHUB", "INFRA_HEALTH_AWS"),
    *("INFRA_HEALTH_STATE_DIR", "INFRA_HEALTH_CONFIG"),
)


def _is_setting(name: str) -> bool:
    return name.startswith(_SETTINGS)
