"""Brings a database of an older version to this one. Only this imports alembic."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from service.domain.errors import ConfigError


def upgrade(connection: sa.Connection, revision: str, where: str) -> None:
    """``revision``: of the database now. Raises ConfigError when that is a newer one than this version knows."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    script = ScriptDirectory.from_config(config)
    try:
        script.get_revision(revision)
    except CommandError as error:
        raise ConfigError(
            f"{where} was written by a newer infra-health (schema {revision}, this one knows "
            f"{script.get_current_head()}): run that version again, or give this one a store of its own"
        ) from error
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
