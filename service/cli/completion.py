"""Shell completion: click's own, by one command, and the names of the collectors where a command takes one."""

import click
from click.shell_completion import CompletionItem, get_completion_class

from service.cli.options import Options, common


@common
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.command()
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints what the shell must source: eval "$(infra-health completion bash)"."""
    from service.cli import tables

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    root = context.find_root()
    script = kind(root.command, {}, "infra-health", "_INFRA_HEALTH_COMPLETE").source()
    if context.ensure_object(Options).json:
        tables.print_json({"shell": shell, "script": script})
    else:
        click.echo(script)


def collector_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The configured collectors, none where the configuration is wrong: a completion has no place for errors."""
    from service.domain.errors import ConfigError

    try:
        names = context.ensure_object(Options).load().settings.collectors
    except ConfigError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
