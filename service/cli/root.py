"""``infra-health`` itself: the daemon in the foreground, or one pass with ``--once``."""

import os
import signal
import socket
import sys
from typing import Any

import click

from service.cli.options import Options, common, end, say, told

# Where each command lives; its module is imported when it is used, so that the daemon and --help stay light.
_COMMANDS = {
    "backup": "backup:backup",
    "check": "inspect:check",
    "collect": "collect:collect",
    "compare": "compare:compare",
    "completion": "completion:completion",
    "datadog": "datadog:datadog",
    "diagnose": "diagnose:diagnose",
    "explain": "look:explain",
    "flare": "flare:flare",
    "list": "inspect:list_",
    "list-workflows": "inspect:list_workflows",
    "logs": "look:logs",
    "migrate": "migrate:migrate",
    "pause": "remote:pause",
    "preview": "preview:preview",
    "publish": "snapshots:publish",
    "quota": "quota:quota",
    "resume": "remote:resume",
    "runs": "look:runs",
    "schedule": "schedule:schedule",
    "schema": "snapshots:schema",
    "status": "remote:status",
    "trigger": "remote:trigger",
}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(f"service.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], _COMMANDS, n=1)
            raise click.UsageError(error.message + (f" Did you mean {near[0]!r}?" if near else ""), ctx) from None


@common
@click.group(cls=LazyCommands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Run every enabled collector once, concurrently; submit; exit.")
@click.option("--only", metavar="NAME,...", help="With --once: these collectors only.")
@click.option("--dry-run", is_flag=True, help="With --once: print the samples as JSON, send and keep nothing.")
@click.option("--strict", is_flag=True, help="With --once: a partial run (parts or records left out) exits 1, too.")
@click.pass_context
def main(context: click.Context, once: bool, only: str | None, dry_run: bool, strict: bool) -> None:
    """Collects CI, training and evaluation health and delivers it to Datadog.

    Without a command it runs the daemon in the foreground: SIGTERM or Ctrl-C drains and exits 0, SIGUSR1 runs all
    enabled collectors now, SIGHUP reloads the configuration.

    Exit codes: 0 done; 1 a collector or a delivery failed; 2 usage; 78 bad configuration.
    """
    options = context.ensure_object(Options)
    context.call_on_close(options.exits.close)
    if os.environ.get("NO_COLOR"):
        context.color = False  # and of every command below it; click does not look at the variable
    if context.invoked_subcommand:
        if once or only or dry_run or strict:
            raise click.UsageError("--once, --only, --dry-run and --strict go without a command")
        return
    names = [name.strip() for name in only.split(",") if name.strip()] if only is not None else None
    if names == []:
        # What a script's empty variable makes of it: neither none nor all of them is what it means.
        raise click.UsageError("--only names no collector")
    if not once and (names or dry_run or strict):
        raise click.UsageError("--only, --dry-run and --strict go with --once")
    with told():
        if once:
            from service.cli.collect import run_once

            end(run_once(options, names, push=not dry_run, dry_run=dry_run, strict=strict, output=None))
        end(_daemon(options))


def _daemon(options: Options) -> int:
    # Before the daemon can take it: nothing is begun, so nothing is left to drain. (To the first process of a container
    # a signal without a handler does nothing at all.)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))

    import anyio

    from service.app import run_daemon

    overrides: dict[str, Any] = {}
    loaded = options.load(overrides)
    if options.stage and _is_taken(loaded.settings.http.port):
        overrides = {"http": {"port": 0}}
        loaded = options.load(overrides)
    options.start_logs(loaded)

    def announce(url: str) -> None:
        if options.stage:
            say(f"\n  The status page: {url}\n  Ctrl-C ends the demo.\n", bold=True)

    return anyio.run(run_daemon, lambda: options.load(overrides), loaded, options.environ(), announce)


def _is_taken(port: int) -> bool:
    """Whether something else on this machine listens there: the demo moves aside, a real daemon must not."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
