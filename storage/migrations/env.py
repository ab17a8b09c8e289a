"""Runs the migrations on the connection that `Database.upgrade` hands in."""

from alembic import context

from storage.models import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
