"""The changes of the store's tables from version to version, which Alembic applies in order."""
