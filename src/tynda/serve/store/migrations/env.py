"""Alembic runs this module to apply changes with the connection that it was given."""

from alembic import context

from tynda.serve.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata
)
with context.begin_transaction():
    context.run_migrations()
