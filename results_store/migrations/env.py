"""How alembic runs the migrations: on the connection that it is given, in the transaction it is in."""

from __future__ import annotations

from alembic import context

from results_store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # the caller's transaction holds the lock against other processes: alembic neither begins nor commits
    transactional_ddl=False,
)
context.run_migrations()
