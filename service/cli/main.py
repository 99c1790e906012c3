"""``infra-health`` itself: the daemon in the foreground, or one pass with ``--once``; and where each command lives."""

import gc
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from service.cli.options import Exit, Options, command, common, errors_reported

# What each command does, by its module, which is imported when it is used: --help and most commands start light.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "Daemon": {
        "operate.status": "Shows what a running daemon does: checks, delivery, GitHub's quota, collectors.",
        "operate.trigger": "Runs collectors now.",
        "operate.pause": "Suspends collectors' schedules, across restarts, too.",
        "operate.resume": "Resumes collectors' schedules.",
        "operate.cancel": "Ends a run that is active.",
    },
    "Look": {
        "explore.explain": "Tells why a check passes or fails: value, condition, since when, evidence.",
        "explore.runs": "Lists the last runs, or shows one with its samples and their delivery.",
        "explore.logs": "Prints the log lines of a run or a collector, or the daemon's last ones.",
        "configure.list": "Lists the collectors with type, schedule and next run.",
        "schedule.schedule": "Prints the next fire times in local and UTC time.",
        "run.preview": "Collects now and shows how that differs from the last run; sends nothing.",
    },
    "Configure": {
        "configure.check": "Validates the configuration: verdict, next runs, series, secrets, warnings.",
        "configure.diagnose": "Asks GitHub, Datadog, AWS and each source whether all is there that it needs.",
        "run.collect": "Runs collectors once by hand.",
        "configure.list-workflows": "Lists a repository's workflows, to fill the workflow lists.",
        "configure.publish": "Checks a snapshot as the collector does and publishes it.",
        "configure.webhook": "Tries the way of GitHub's webhook.",
        "main.completion": "Prints the shell completion.",
    },
    "Datadog": {
        "boards.datadog": "Renders, compares and pushes dashboards, monitors and metadata.",
    },
    "Move": {
        "cutover.migrate": "Turns CronJobs into config.yaml stanzas.",
        "cutover.compare": "Lines up what the CronJobs sent with what the daemon measured.",
        "cutover.backup": "Copies the state to a file, also while a daemon uses it.",
        "cutover.store": "Copies the state to a PostgreSQL that replicas share.",
        "cutover.flare": "Writes a support bundle with secrets masked.",
    },
}
_COMMANDS = {place.partition(".")[2]: (place, does) for group in _GROUPS.values() for place, does in group.items()}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are used, and listed by what they are for."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # Closed by who started us: what is opened first would take their numbers, and be written to.
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as we live
        return super().main(*args, **kwargs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        place, does = _COMMANDS[cmd_name]
        members = vars(import_module(f"service.cli.{place.partition('.')[0]}")).values()
        command = next(each for each in members if isinstance(each, click.Command) and each.name == cmd_name)
        if not (command.help or "").startswith(does):  # a completion asks several times
            command.help = f"{does}\n\n{command.help}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(place.partition(".")[2], does) for place, does in commands.items()])


@common
@click.group(
    cls=LazyCommands,
    commands=_COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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

    \b
    Example: infra-health --once --only ci,training --dry-run
    """
    # What is imported stays, and most commands end at once: looking for garbage took a third of their time, much of it
    # at the interpreter's end. Whoever works longer looks for it (service.cli.run).
    gc.disable()
    context.call_on_close(gc.freeze)
    options = context.ensure_object(Options)
    context.call_on_close(options.exits.close)
    if os.environ.get("NO_COLOR"):
        context.color = False  # and of every command below it; click does not look at the variable
    names = [name.strip() for name in only.split(",") if name.strip()] if only is not None else None
    if context.invoked_subcommand:
        if once or only or dry_run or strict:
            raise click.UsageError("--once, --only, --dry-run and --strict go without a command")
        return
    if names == []:
        # What a script's empty variable makes of it: neither none nor all of them is what it means.
        raise click.UsageError("--only names no collector")
    if not once and (names or dry_run or strict):
        raise click.UsageError("--only, --dry-run and --strict go with --once")
    with errors_reported():
        from service.cli.run import run_daemon, run_once

        if not once:
            context.exit(run_daemon(options))
        if not run_once(options, names, push=not dry_run, dry_run=dry_run, strict=strict, output=None):
            context.exit(Exit.FAILED)


@command(example='eval "$(infra-health completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(options: Options, shell: str) -> None:
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "infra-health", "_INFRA_HEALTH_COMPLETE").source()
    options.show({"shell": shell, "script": script}, lambda: click.echo(script))
