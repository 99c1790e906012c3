"""The first tables: service.store.engine.create makes them. What changes them later is a version after this one.

tests/payloads/schema/ has the tables of each released version; a test takes each of them to those of a new store.
"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """No store is older."""
