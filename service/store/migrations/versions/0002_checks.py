"""The sentence behind a check's value, whether there is none, and for how many runs the check has been as it is.

A program of the version before still writes rows: there are defaults.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("checks", sa.Column("summary", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("checks", sa.Column("is_missing", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.add_column("checks", sa.Column("cycles", sa.Integer, nullable=False, server_default=sa.text("0")))
