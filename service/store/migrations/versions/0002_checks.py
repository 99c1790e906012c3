"""What more is known of a check: a sentence, whether it is missing, for how many runs it has been as it is, its past;
and with what its condition compared within an hour, as that of a relative one changes.

A program of the version before still writes rows: there are defaults, or they may be NULL.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("checks", sa.Column("summary", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("checks", sa.Column("is_missing", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.add_column("checks", sa.Column("cycles", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("checks", sa.Column("past", sa.Text, nullable=True))
    op.add_column("hours", sa.Column("threshold", sa.Float, nullable=True))
    op.add_column("hours", sa.Column("threshold_low", sa.Float, nullable=True))
