"""With what a check's condition compared within an hour: that of a relative one changes.

A program of the version before still writes rows: they may be NULL.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("hours", sa.Column("threshold", sa.Float, nullable=True))
    op.add_column("hours", sa.Column("threshold_low", sa.Float, nullable=True))
