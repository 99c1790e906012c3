"""Commands that collect: the daemon in the foreground, ``--once``, ``collect`` and ``preview``."""

import gc
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli import output as out
from service.cli.options import Exit, Options, command, complete_collector, exit_with, message

if TYPE_CHECKING:
    from service.config.loader import Loaded
    from service.config.settings import Settings
    from service.daemon.once import Pass
    from service.daemon.preview import Preview


class _Ended(BaseException):
    """A signal before the daemon can take it. No package of a collector mistakes it for an error of its import."""


def run_daemon(options: Options) -> int:
    """The exit code. Raises ConfigError."""

    def end(*_: object) -> None:
        raise _Ended

    # Before the heavy imports: to the first process of a container a signal without a handler does nothing at all.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        return _run_daemon(options)
    except _Ended:  # nothing was begun, so nothing is left to drain
        return Exit.DONE


def _run_daemon(options: Options) -> int:
    import anyio

    from service.daemon.daemon import run_daemon as run

    overrides: dict[str, Any] = {}
    loaded = options.load(overrides)
    if options.stage and _is_port_taken(loaded.settings.http.port):
        overrides = {"http": {"port": 0}}
        loaded = options.load(overrides)
    _start_logs(options, loaded)

    def announce(url: str) -> None:
        if options.stage:
            message(f"\n  The status page: {url}\n  Ctrl-C ends the demo.\n", bold=True)

    return anyio.run(run, lambda: options.load(overrides), loaded, options.environ(), announce)


def _start_logs(options: Options, loaded: "Loaded", *, level: str | None = None) -> None:
    """The work begins, and with it the search for its garbage, but not among what was imported."""
    options.start_logs(loaded, level=level)
    gc.freeze()
    gc.enable()


def _is_port_taken(port: int) -> bool:
    """Whether something else on this machine listens there: the demo moves aside, a real daemon must not."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@command(example="infra-health collect ci --dry-run")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_collector)
@click.option("--push", is_flag=True, help="Submit the samples to Datadog.")
@click.option("--dry-run", is_flag=True, help="Print the samples as JSON; send and keep nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the samples here as JSON.")
@click.option("--strict", is_flag=True, help="A partial run (parts or records left out) exits 1, too.")
def collect(
    options: Options, names: tuple[str, ...], push: bool, dry_run: bool, output: Path | None, strict: bool
) -> None:
    """Runs collectors once by hand. With neither flag nothing is sent."""
    if push and dry_run:
        raise click.UsageError("--push and --dry-run exclude each other")
    exit_with(run_once(options, names, push=push, dry_run=dry_run, strict=strict, output=output))


def run_once(
    options: Options, names: Sequence[str] | None, *, push: bool, dry_run: bool, strict: bool, output: Path | None
) -> int:
    """One pass; prints what it brought and returns the exit code. Raises ConfigError."""
    import anyio

    from service.daemon.once import run_pass

    loaded = options.load()
    _refuse_unknown(names, loaded.settings)
    _start_logs(options, loaded, level="warning")
    progress = options.exits.enter_context(out.show_progress(quiet=options.quiet))

    def report(result: "Pass") -> int:
        progress("")
        samples = [sample.as_json() for each in result.collectors for sample in each.samples]
        if output:
            out.write_json(output, samples)
            message(f"{len(samples)} samples written to {output}")
        if dry_run:
            out.print_json(samples)
        elif options.json:
            out.print_json(result.as_json())
        elif not options.quiet:
            _print_pass(result)
        if not push:
            message("Nothing was sent." if dry_run else "Nothing was sent (use --push to send).")
        is_good = _report_collectors(result, strict) & _report_delivery(result, options.quiet or not push)
        return Exit.DONE if is_good else Exit.FAILED

    return anyio.run(run_pass, loaded.settings, options.environ(), names, push, progress, report)


def _print_pass(result: "Pass") -> None:
    for each in result.collectors:
        run = each.run
        title = f"{run.collector}: {run.outcome} in {run.seconds or 0:.1f} s"
        if each.samples:
            out.print_samples(title, [sample.as_json() for sample in each.samples])
        else:
            click.echo(f"{title}, no samples" + (f": {out.escape(run.error)}" if run.error else "") + "\n")


def _report_collectors(result: "Pass", strict: bool) -> bool:
    """Says on stderr what failed; whether that is good enough for exit code 0."""
    is_good = True
    for name, reason in result.waiting.items():
        message(f"{name}: {reason}", fg="yellow")
    for each in result.collectors:
        run, error = each.run, out.escape(each.run.error or "")
        if run.outcome is None or not run.outcome.succeeded:
            message(f"{run.collector}: failed: {error}", fg="red")
            is_good = False
        elif error:
            message(f"{run.collector}: partial, left out: {error}", fg="yellow")
            is_good = is_good and not strict
    return is_good


def _report_delivery(result: "Pass", quiet: bool) -> bool:
    if result.undelivered:
        kept = "They stay stored and go with the next daemon or --once." if result.pending else ""
        trouble = result.trouble or "not in time"
        message(f"{result.delivered} points delivered, {result.undelivered} not: {trouble}. {kept}", fg="red")
    elif not quiet:
        message(f"{result.delivered} points delivered in {result.seconds:.1f} s.", fg="green")
    return not result.undelivered


@command(example="infra-health preview training")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_collector)
@click.option("--all", "show_all", is_flag=True, help="Show series that do not change, too.")
def preview(options: Options, names: tuple[str, ...], show_all: bool) -> None:
    """Collects now and shows how that differs from the last run; nothing is sent or kept. Works beside a daemon."""
    import anyio

    from service.daemon.preview import preview as preview_collectors

    loaded = options.load()
    _refuse_unknown(names, loaded.settings)
    _start_logs(options, loaded, level="warning")
    with out.show_progress(quiet=options.quiet) as progress:
        found = anyio.run(preview_collectors, loaded.settings, options.environ(), list(names) or None, progress)
    if options.json:
        out.print_json([each.as_json() for each in found])
    for each in found:
        if not options.json:
            _print_preview(each, show_all)
        if each.run.error:
            message(f"{each.run.collector}: {each.run.outcome}: {out.escape(each.run.error)}", fg="yellow")
    message("Nothing was sent or kept.")
    is_good = all(each.run.outcome and each.run.outcome.succeeded for each in found)
    exit_with(Exit.DONE if is_good else Exit.FAILED)


def _print_preview(each: "Preview", show_all: bool) -> None:
    counts = {word: sum(line.change == word for line in each.changes) for word in ("same", "changed", "new", "gone")}
    text = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    against = f"against run {each.before}" if each.before else "no run to compare with yet"
    rows = []
    for line in each.changes:
        if line.change == "same" and not show_all:
            continue
        has_turned = line.status_before and line.status != line.status_before
        status = f"{line.status_before} -> {line.status or 'gone'}" if has_turned else line.status
        values = out.format_number(line.value_before), out.format_number(line.value)
        about = out.format_check(line.tags) or line.tags.get("collector", "")
        rows.append((line.change, line.metric, *values, status, about))
    title = f"{each.run.collector}: {len(each.samples)} samples ({text}; {against})"
    out.print_table(title, ("change", "metric", "before", "now", "status", "about"), rows)


def _refuse_unknown(names: Sequence[str] | None, settings: "Settings") -> None:
    if unknown := [name for name in names or () if name not in settings.collectors]:
        known = ", ".join(settings.collectors)
        raise click.UsageError(f"no collector is called {', '.join(unknown)}; configured are: {known}")
