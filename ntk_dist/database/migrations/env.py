"""What Alembic runs: the migrations, on the connection of :mod:`ntk_dist.database.upgrade`."""

from __future__ import annotations

from alembic import context

from ntk_dist.database.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
