"""Migrations of the schema, applied when a store is opened."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from farm.errors import BadInput
from results_store.database import Database
from results_store.schema import REVISION

#: Any number that nobody else locks.
_LOCK = 0x6661726D


def migrate(database: Database) -> str | None:
    """Brings the schema to `REVISION`; safe when many processes do it at once.

    Returns:
        The revision found, None in an empty database.

    Raises:
        BadInput: the schema is of a newer farm than this one.
    """
    with database.reading() as connection:
        found = _revision(connection)
    return found if found == REVISION else database.transact(_upgrade)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: sa.Connection) -> str | None:
    # imported late: most openings find nothing to do, and need not wait for it
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    found = _revision(connection)  # again: another process may just have done it
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise BadInput(
            f"The database has schema {found}, this farm knows none newer than {REVISION}: a newer farm "
            f"has opened it. Take that one, or set FARM_DATABASE_URL to another database."
        )
    if found != REVISION:
        command.upgrade(config, REVISION)
    return found
