"""The sentence behind a check's value. A program of the version before still writes rows: there are defaults."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("checks", sa.Column("summary", sa.Text, nullable=False, server_default=sa.text("''")))
