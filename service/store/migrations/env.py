"""Run by alembic: the steps of versions/ within the transaction of the caller."""

from alembic import context

from service.store import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.meta,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
