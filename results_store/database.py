"""The connection to SQLite or PostgreSQL: engines, transactions, and errors that say what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite

from farm.errors import BadInput, Unreachable

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_S = 5
#: Deadlock and serialization failure: PostgreSQL asks to do the transaction again.
_AGAIN = ("40P01", "40001")
#: Errors that PostgreSQL counts as the statement's own, and that the operator can mend.
_MENDABLE = {
    "42501": "Let the role of FARM_DATABASE_URL own the database, or GRANT it USAGE and CREATE on its schema.",
    "42P07": "Another program's tables are in this database: set FARM_DATABASE_URL to one of the farm's own.",
}
_MAX_TRIES = 5
#: With no answer for so long a connection is dead: a worker must not hang on a cable that was pulled.
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 10_000}
#: A client that vanished, or stands still, in mid-transaction keeps others from what it has locked for so long.
#: None of ours takes a fraction of it between two statements.
IDLE_IN_TRANSACTION_S = 60
_WRITES = {"farm_writes": True}
#: What libpq takes behind the question mark, too.
_SECRETS = ("password", "sslpassword")


class Database:
    """Transactions on one database. Usable from many threads, and after a fork in either process."""

    def __init__(self, url: str) -> None:
        """Nothing is opened yet.

        Raises:
            BadInput: the URL is malformed or names another kind of database.
        """
        self.url = parse(url)
        self._engine: sa.Engine | None = None
        self._pid = 0

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process, made when it is first needed.

        A connection must not cross a fork, so a forked child gets an engine of its own and leaves the
        parent's connections alone.
        """
        if self._engine is None or self._pid != os.getpid():
            if self._engine is not None:
                self._engine.dispose(close=False)
            self._engine = _sqlite_engine(self.url) if self.is_sqlite else _postgresql_engine(self.url)
            self._pid = os.getpid()
        return self._engine

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; on SQLite it has the write lock from its start."""
        with self.explained(), self.engine.connect() as connection:
            connection.execution_options(**_WRITES)
            with connection.begin():
                yield connection

    def transact(
        self, function: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`function(connection, …)` in one writing transaction, again where PostgreSQL asks for it."""
        for _ in range(_MAX_TRIES - 1):
            try:
                with self.writing() as connection:
                    return function(connection, *args, **kwargs)
            except _AskedAgain:
                continue
        with self.writing() as connection:
            return function(connection, *args, **kwargs)

    def close(self) -> None:
        """Closes the connections of this process."""
        if self._engine is not None:
            self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the driver's errors into the farm's: the one place where that is done.

        Raises:
            Unreachable: the database does not answer, or not as one; never with the password.
        """
        try:
            yield
        except exc.DBAPIError as error:
            sqlstate = getattr(error.orig, "sqlstate", None)
            ours = isinstance(error, exc.IntegrityError | exc.ProgrammingError | exc.DataError)
            if ours and sqlstate not in _MENDABLE:
                raise  # a fault of ours, not of the database
            text = self._without_password(str(error.orig).strip())
            if sqlstate in _AGAIN:
                raise _AskedAgain(text) from error
            raise Unreachable(self._advice(text, sqlstate)) from None
        except exc.TimeoutError:
            raise Unreachable(f"{self._name}: no free connection. Try again.") from None

    @property
    def _name(self) -> str:
        shown = self.url.difference_update_query(_SECRETS)
        return f"Database {shown.render_as_string(hide_password=True)}"

    def _without_password(self, text: str) -> str:
        given = [value for name in _SECRETS for value in self.url.normalized_query.get(name, ())]
        for secret in filter(None, (self.url.password, *given)):
            text = text.replace(secret, "***")
        return text

    def _advice(self, text: str, sqlstate: str | None) -> str:
        if (mend := _MENDABLE.get(sqlstate or "")) is not None:
            text, advice = text.partition("\n")[0], mend  # the rest quotes the statement
        elif not self.is_sqlite:
            advice = "Check that PostgreSQL runs and that FARM_DATABASE_URL is right."
        elif "not a database" in text:
            advice = "Another file has this name: move it away, or set FARM_DATABASE_URL or FARM_DATA_DIR."
        elif "malformed" in text:
            advice = (
                "The file is damaged: save what `sqlite3 FILE .recover` still reads, then move it away; the farm "
                "makes a new one."
            )
        elif "already exists" in text:
            advice = "Another program's tables are in this file: set FARM_DATABASE_URL or FARM_DATA_DIR."
        elif "locked" in text:
            advice = "Another process holds it; where several hosts share it, use PostgreSQL."
        else:
            advice = "Check that its directory exists, can be written and is not full; or set FARM_DATA_DIR."
        return f"{self._name} does not answer: {text}. {advice}"


class _AskedAgain(Unreachable):
    """PostgreSQL undid the transaction so that another could go on; the same one may now succeed."""


def parse(url: str) -> sa.URL:
    """The URL, with the driver that is used for it.

    Raises:
        BadInput: malformed, or another kind of database. The URL is not repeated: it may hold a password.
    """
    forms = "sqlite:////folder/farm.db or postgresql://user:password@host/database"
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        raise BadInput(f"FARM_DATABASE_URL cannot be read as a URL. Write {forms}.") from None
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise BadInput(f"FARM_DATABASE_URL: a database in memory cannot be shared. Write {forms}.")
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise BadInput(f"FARM_DATABASE_URL: {backend!r} is no database that the farm knows. Write {forms}.")


def make_directory(url: sa.URL) -> None:
    """Makes the directory of a SQLite file where it is missing.

    Raises:
        Unreachable: it cannot be made.
    """
    folder = Path(str(url.database)).resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unreachable(
            f"Directory {folder} of the database cannot be made: {error.strerror}. "
            f"Set FARM_DATA_DIR or FARM_DATABASE_URL to a place that can be written."
        ) from None


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is not IMMEDIATE, so it must begin nothing
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    with suppress(sqlite3.OperationalError):  # another process is just switching it, and it stays switched
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would fail at once, not wait
    writes = connection.get_execution_options().get("farm_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "benchmark-farm", **_KEEPALIVE}
    given = {name: value for name, value in arguments.items() if name not in url.query}
    engine = sa.create_engine(url, connect_args=given, pool_pre_ping=True, pool_size=2, max_overflow=8)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: Any, _: Any) -> None:
    # not as an option of the connection: a pooler between us and the server may refuse those
    setting = ("idle_in_transaction_session_timeout", f"{IDLE_IN_TRANSACTION_S}s")
    connection.execute("SELECT set_config(%s, %s, false)", setting)
    connection.commit()


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that can update instead: the same words, but each dialect's own."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
