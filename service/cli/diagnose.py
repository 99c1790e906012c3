"""``diagnose``: is everything there that the daemon needs?"""

import click

from service.cli import tables
from service.cli.options import Exit, Options, common, end, told
from service.domain.logged import harmless

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@common
@click.command()
@click.pass_obj
def diagnose(options: Options) -> None:
    """Looks at GitHub, Datadog, AWS, the clock and the state directory; one line each, with the remedy."""
    import anyio

    from service import diagnose as diagnosis

    with told():
        loaded = options.load()
        options.start_logs(loaded, level="error")
        found = anyio.run(diagnosis.diagnose, loaded.settings, options.environ())
        if options.json:
            tables.print_json([each.as_json() for each in found])
        else:
            for each in found:
                click.echo(f"{each.name:<16}", nl=False)
                click.secho(f"{each.status:<5}", fg=_COLOURS[each.status], nl=False)
                line = each.detail + (f". Remedy: {each.remedy}" if each.remedy else "")
                click.echo(harmless(line.replace("\n", " ")))
        end(Exit.FAILED if any(each.status == "fail" for each in found) else Exit.DONE)
