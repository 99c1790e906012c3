"""``store copy``: from a store of one's own to one that replicas share."""

import click

from service.cli.options import Options, command, message


@click.group(
    help="docs/replicas.md says when to.\n\n\b\nExample: infra-health store copy --to postgresql://USER@HOST/DATABASE"
)
def store() -> None: ...


@command(group=store, example="infra-health store copy --to postgresql://infra_health@db.example.org/infra_health")
@click.option("--to", metavar="URL", help="Of an empty PostgreSQL; else store.url of the settings.")
def copy(options: Options, to: str | None) -> None:
    """Copies slots, pauses, collectors' state, checks and what waits to be sent from SQLite in state_dir.

    The daemon must be stopped; the store in state_dir stays as it is. All or nothing, and only into an empty database.
    """
    from service.config.masking import mask, secrets_in_address
    from service.store.copy import copy_store

    settings = options.open("warning").settings
    if to is None:
        if settings.store.url is None:
            raise click.UsageError("--to URL, or store.url of the settings, says where to")
        to = settings.store.url.get_secret_value()
    mask(secrets_in_address(to))
    counts = copy_store(settings.state_dir, to, is_pooled=settings.store.pooled)
    told = ", ".join(f"{count:,} {table}" for table, count in counts.items() if count) or "nothing"
    options.show({"copied": counts}, lambda: click.echo(f"copied: {told}"))
    message("set store.url (INFRA_HEALTH_STORE__URL) for every replica before any of them starts")
