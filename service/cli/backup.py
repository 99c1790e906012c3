"""``backup``: a copy of the state, beside a running daemon or without one."""

from pathlib import Path

import click

from service.cli import tables
from service.cli.options import Options, common, say, told


@common
@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(options: Options, file: Path) -> None:
    """Copies the state (outbox, runs, what collectors remember) to FILE, also while a daemon uses it.

    To restore: stop the daemon and put FILE in place of state.db in the state directory, without a state.db-wal.
    """
    import anyio

    with told():
        loaded = options.load()
        options.start_logs(loaded, level="warning")
        anyio.run(_backup, loaded.settings.state_dir, file)
        size = file.stat().st_size
        if options.json:
            tables.print_json({"file": str(file), "bytes": size})
            return
        say(f"{loaded.settings.state_dir} is backed up to {file} ({size:,} bytes)", fg="green")


async def _backup(directory: Path, file: Path) -> None:
    from service.adapters.store import SqliteStore

    store = await SqliteStore.open_reading(directory)
    try:
        await store.backup(file)
    finally:
        await store.close()
