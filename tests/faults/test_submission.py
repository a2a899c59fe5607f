"""A producer that is killed in the middle of its submission, and what stands there when it submits again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from farm.spec import Matrix
from producer import request
from results_store.database import Database
from results_store.schema import jobs, runs
from tests import databases
from tests.faults import submitting
from tests.faults.farms import FOLDER, Farms, environment
from tests.faults.ledger import Row
from tests.redis_servers import redis_server

pytestmark = pytest.mark.timeout(900)

#: Needs a database without tables.
NO_TABLES = "the tables are half made"
#: The first point at which there is a run to go on with.
COMMITTED = "the run is committed"
POINTS = tuple(point for point in submitting.POINTS if point != NO_TABLES)


@pytest.mark.short("sqlite")
def test_a_submission_that_was_killed_is_made_again_or_gone_on_with(farms_of: Farms, whole: bool) -> None:
    points = POINTS if whole else POINTS[4::3]
    with farms_of.begin("producer killed") as farm:
        farm.start("one", "two")
        for number, point in enumerate(points):
            kill_at(point, number, farm.variables, farm.folder)
            farm.faults += 1
            there = POINTS.index(point) >= POINTS.index(COMMITTED)
            assert (runs_of(number, farm.settings.database) == 1) == there, point
            again = ["resume", "latest"] if there and number % 2 else ["submit-matrix", *command_line(number)]
            produce(again, farm.variables, farm.folder)
        for number in range(len(points)):
            assert runs_of(number, farm.settings.database) == 1
            assert not difference(number, farm.settings.database)
        farm.conclude()


def test_tables_that_were_half_made_are_made_anew(kind: str, tmp_path: Path, rows: list[Row]) -> None:
    with databases.fresh(kind, tmp_path) as url, redis_server(tmp_path / "redis") as redis:
        where = {"FARM_DATA_DIR": str(tmp_path), "FARM_DATABASE_URL": url, "CELERY_BROKER_URL": redis.url}
        variables = {**environment(), **where}
        kill_at(NO_TABLES, 0, variables, tmp_path)
        produce(["submit-matrix", *command_line(0)], variables, tmp_path)
        missing = difference(0, url)
        count = len(matrix(0).plan())
        rows.append(
            Row(
                scenario="producer killed",
                database=kind,
                faults=1,
                jobs=count,
                lost=sum(missing.values()),
                duplicated=0,
                overlapping=0,
            )
        )
        assert not missing


def flags(number: int) -> dict[str, Any]:
    """A small matrix, another one for each number."""
    protocol = ("min_s=0.02", "accuracy_samples=4", "remeasure=0", "control_every=none", f"min_calls={number + 3}")
    return {
        "models": ["mobilenet_v3_small"],
        "dataset": "synthetic",
        "image_size": 32,
        "optimizations": ["baseline,channels_last"],
        "batch_sizes": ["1,2,3"],
        "repeats": 2,
        "protocol": "quick",
        "set": [*protocol],
    }


def matrix(number: int) -> Matrix:
    """What these flags ask for."""
    return request.matrix(flags(number))


def command_line(number: int) -> list[str]:
    """These flags as a user writes them."""
    pairs = [(name, item) for name, value in flags(number).items() for item in _items(value)]
    return [text for name, item in pairs for text in (request.flag(name), str(item))]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def kill_at(point: str, number: int, variables: Mapping[str, str], folder: Path) -> None:
    """Submits, and does not get further than the point."""
    command = [str(FOLDER / "submitting.py"), point, "submit-matrix", *command_line(number)]
    done = run(command, variables, folder)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def produce(arguments: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
    """What a user does next."""
    done = run(["-m", "producer", *arguments], variables, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def run(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [sys.executable, *command],
        env={**variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def runs_of(number: int, url: str) -> int:
    """How many runs of this matrix there are."""
    with closing(Database(url)) as database, database.reading() as connection:
        wanted = sa.select(sa.func.count()).select_from(runs).where(runs.c.matrix_key == matrix(number).key)
        return int(connection.scalar(wanted) or 0)


def difference(number: int, url: str) -> Counter[str]:
    """Keys of the jobs that the matrix has and the store has not, or the other way round."""
    wanted = Counter(spec.key for spec in matrix(number).plan())
    of_matrix = jobs.join(runs, runs.c.number == jobs.c.run_number)
    query = sa.select(jobs.c.key).select_from(of_matrix).where(runs.c.matrix_key == matrix(number).key)
    with closing(Database(url)) as database, database.reading() as connection:
        there = Counter(connection.scalars(query))
    return (wanted - there) + (there - wanted)
