"""Commands that collect: the daemon in the foreground, ``--once``, ``collect`` and ``preview``."""

import gc
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli import output as out
from service.cli.options import Exit, Options, command, complete_collector, message, refuse_unknown
from service.domain.samples import format_number

if TYPE_CHECKING:
    from service.config.settings import Settings
    from service.daemon.once import Pass, Preview


class _Ended(BaseException):
    """A signal before the daemon can take it. No package of a collector mistakes it for an error of its import."""


def run_daemon(options: Options) -> int:
    """The exit code. Raises ConfigError."""

    def end(*_: object) -> None:
        raise _Ended

    # Before the heavy imports: to the first process of a container a signal without a handler does nothing at all.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))  # they wait until the daemon takes them
    try:
        return _run_daemon(options)
    except _Ended:  # nothing was begun, so nothing is left to drain
        return Exit.DONE


def _run_daemon(options: Options) -> int:
    import anyio

    from service.daemon.daemon import run_daemon as run

    # The demo moves aside where something listens on its port; a real daemon must not.
    if options.demo and _is_port_taken(options.load().settings.http.port) and options.stage:
        options.stage.environ["INFRA_HEALTH_HTTP__PORT"] = "0"
    loaded = options.open(None)
    _collect_garbage()

    def announce(url: str) -> None:
        if options.stage:
            message(f"\n  The status page: {url}\n  Ctrl-C ends the demo.\n", bold=True)
            options.stage.deliver_to(url)

    return anyio.run(run, options.load, loaded, options.environ(), announce)


def _collect_garbage() -> None:
    """The work begins, and with it the search for its garbage, but not among what was imported."""
    gc.freeze()
    gc.enable()


def _is_port_taken(port: int) -> bool:
    """Whether something else on this machine listens there."""
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
) -> bool:
    """With neither --push nor --dry-run nothing is sent."""
    if push and dry_run:
        raise click.UsageError("--push and --dry-run exclude each other")
    return run_once(options, names, push=push, dry_run=dry_run, strict=strict, output=output)


def run_once(
    options: Options, names: Sequence[str] | None, *, push: bool, dry_run: bool, strict: bool, output: Path | None
) -> bool:
    """One pass; prints what it brought. Whether that is good enough for exit code 0. Raises ConfigError."""
    import anyio

    from service.daemon.once import run_pass

    settings = _open(options, names or ())
    progress = options.exits.enter_context(out.show_progress(quiet=options.quiet))
    progress(f"collecting {', '.join(names or settings.collectors)}")

    def report(result: "Pass") -> int:
        progress("")
        samples = [sample.as_json() for each in result.collectors for sample in each.samples]
        if output:
            out.write_json(output, samples)
            message(f"{len(samples):,} samples written to {output}")
        if dry_run:
            click.echo(out.to_json(samples))
        elif options.json or not options.quiet:
            options.show(result.as_json(), lambda: _print_pass(result))
        if not push:
            message("Nothing was sent." if dry_run else "Nothing was sent (use --push to send).")
        is_good = _report_collectors(result, strict) & _report_delivery(result, quiet=options.quiet or not push)
        return Exit.DONE if is_good else Exit.FAILED

    return anyio.run(run_pass, settings, options.environ(), names, push, progress, report) == Exit.DONE


def _open(options: Options, names: Sequence[str]) -> "Settings":
    """The settings, in which these collectors must be."""
    settings = options.open("warning").settings
    refuse_unknown(settings, names)
    _collect_garbage()
    return settings


def _print_pass(result: "Pass") -> None:
    for each in result.collectors:
        title = f"{each.run.collector}: {each.run.outcome} in {each.run.seconds or 0:.1f} s"
        if each.samples:
            out.print_samples([sample.as_json() for sample in each.samples], title)
        elif each.run.outcome and each.run.outcome.succeeded:
            click.echo(f"{title}, no samples\n")


def _report_collectors(result: "Pass", strict: bool) -> bool:
    """Says on stderr what failed; whether that is good enough for exit code 0."""
    is_good = True
    for name, reason in result.waiting.items():
        message(f"{name}: {reason}", "yellow")
    for each in result.collectors:
        run, error = each.run, each.run.error
        if run.outcome is None or not run.outcome.succeeded:
            message(f"{run.collector}: failed: {error}", "red")
            is_good = False
        elif error:
            message(f"{run.collector}: partial, left out: {error}", "yellow")
            is_good = is_good and not strict
    return is_good


def _report_delivery(result: "Pass", *, quiet: bool) -> bool:
    if result.undelivered:
        kept = "They stay stored and go with the next daemon or --once." if result.pending else ""
        trouble = result.trouble or "not in time"
        message(f"{result.delivered:,} points delivered, {result.undelivered:,} not: {trouble}. {kept}", "red")
    elif not quiet:
        message(f"{result.delivered:,} points delivered in {result.seconds:.1f} s.", "green")
    return not result.undelivered


@command(example="infra-health preview training")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_collector)
@click.option("--all", "show_all", is_flag=True, help="Show series that do not change, too.")
async def preview(options: Options, names: tuple[str, ...], show_all: bool) -> bool:
    """Nothing is kept, either. Works beside a running daemon."""
    from service.daemon.once import preview as preview_collectors

    settings = _open(options, names)
    with out.show_progress(quiet=options.quiet) as progress:
        found = await preview_collectors(settings, options.environ(), list(names) or None, progress)

    def print_previews() -> None:
        for each in found:
            _print_preview(each, show_all)

    options.show([each.as_json() for each in found], print_previews)
    for each in found:
        if each.run.error:
            message(f"{each.run.collector}: {each.run.outcome}: {each.run.error}", "yellow")
    message("Nothing was sent or kept.")
    return all(each.run.outcome and each.run.outcome.succeeded for each in found)


def _print_preview(preview: "Preview", show_all: bool) -> None:
    rows = []
    for line in preview.changes:
        if line.change == "same" and not show_all:
            continue
        has_turned = line.status_before and line.status != line.status_before
        rows.append(
            {
                "change": line.change,
                "metric": line.metric,
                "before": format_number(line.value_before),
                "now": format_number(line.value),
                "status": f"{line.status_before} -> {line.status or 'gone'}" if has_turned else line.status,
                "about": out.format_check(line.tags) or line.tags.get("collector", ""),
            }
        )
    counts = Counter(line.change for line in preview.changes)
    text = ", ".join(f"{count:,} {change}" for change, count in counts.items())
    against = f"against run {preview.before}" if preview.before else "no run to compare with yet"
    about = "; ".join(filter(None, (text, against)))
    click.secho(f"{preview.run.collector}: {len(preview.samples):,} samples ({about})", bold=True)
    out.print_table(rows, below="about", optional=("status",))
