"""A million results as CSV: how fast, and does memory stay as it is?

A PostgreSQL database is filled with the results of 1,000,000 jobs: some are measured through the store, with
calls that are made up, and copied within the database to all other jobs. Then `benchmark_jobs.csv`, a row for each
of them, is written by the store's own exporter, which reads every measurement with its raw samples, judges it and
states its percentiles. Asked is that a process which does so for all of them needs as much memory as for a few.

Beside it, in the same run and over the very same rows: Python's csv module, which gets them ready made, and
PostgreSQL's COPY, which has them as a table. That is what writing alone takes; the speeds are stated, and no goal.

PostgreSQL is a server of its own; or the one that FARM_DATABASE_URL names, where a database is made for this and
taken away. A million results take about 6 GB of disk, there and in the temporary directory.

    python -m benchmarks.export_rows
    python -m benchmarks.export_rows --rows 8000

The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psycopg
import sqlalchemy as sa

from benchmarks import loads
from benchmarks.figures import Figure, print_last
from farm.measurement import Measurement, Outcome
from results_store import collate
from results_store.database import Database
from results_store.exporters import jobs
from results_store.store import Claim, Ending, open_store
from tests import factories

#: The exporter of a row per job.
FORMAT = "jobs"
#: So many results are measured through the store, each with calls of its own, and copied to all others.
MEASURED = 40
#: Timed calls of each.
CALLS = 50
#: Repeats of a cell.
REPEATS = 100
#: Rows of the smaller run, and what the larger one's number is a multiple of.
FEW = len(loads.RECIPES) * REPEATS * 10
GROWS_MIB = 16
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A run that was written."""

    rows: int
    seconds: float
    #: Of processors: the process itself, and the database's server.
    cpu_s: float
    peak_bytes: int

    @property
    def per_s(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def filled(url: str, rows: int) -> str:
    """Makes a run of so many jobs with a result each; its id."""
    cells = rows // REPEATS
    with closing(open_store(url)) as store:
        store.register(factories.worker())
        run_id = store.submit(loads.matrix(cells, repeats=1), again=True).run_id
        for number in range(MEASURED):
            claim = store.claim("cpu@alpha", f"{run_id}.{number:06d}")
            assert claim is not None
            assert store.finish(claim, Ending(outcome=Outcome.OK, measurement=_made_up(claim, number)))
    asked = {"run": run_id, "cells": cells, "measured": MEASURED, "repeats": REPEATS}
    with closing(Database(url)) as database, database.writing() as connection:
        for statement in _COPIES:
            connection.execute(sa.text(statement), asked)
    with closing(Database(url)) as database, database.writing() as connection:
        connection.execute(sa.text("ANALYZE"))
    return run_id


def _made_up(claim: Claim, number: int) -> Measurement:
    """A measurement that nobody made: its calls take some milliseconds, a little more in each."""
    milliseconds = 10 + number / 10
    samples = factories.samples(milliseconds, milliseconds + 1, calls=CALLS)
    return factories.measurement(spec=claim.spec, samples=samples, memory=None)


#: Every job of the matrix is done, then it gets its repeats, and then each of those gets the attempt of one that
#: was measured, and a result.
_COPIES = (
    """
    UPDATE jobs SET state = 'done', outcome = 'ok', attempts = 1, fence = 1
    WHERE job_id LIKE :run || '.%'
    """,
    """
    INSERT INTO jobs (job_id, run_number, ordinal, cell_ordinal, repeat, key, queue, threads, adoptable, state,
                      fence, attempts, outcome)
    SELECT :run || '.' || lpad((number * :cells + job.ordinal)::text, 6, '0'), run_number,
           number * :cells + job.ordinal, cell_ordinal, number, md5(job.key || number), queue, threads, adoptable,
           state, fence, attempts, outcome
    FROM jobs AS job, generate_series(1, :repeats - 1) AS number
    WHERE job_id LIKE :run || '.%'
    """,
    """
    INSERT INTO attempts (attempt_id, job_id, run_number, fence, number, worker_id, environment_key, started_at,
                          ended_at, phase, outcome, measurement, device_ns, end_to_end_ns)
    SELECT job.job_id || '.1', job.job_id, job.run_number, 1, 1, model.worker_id, model.environment_key,
           model.started_at, model.ended_at, model.phase, model.outcome, model.measurement, model.device_ns,
           model.end_to_end_ns
    FROM jobs AS job
    JOIN attempts AS model ON model.job_id = :run || '.' || lpad((job.ordinal % :measured)::text, 6, '0')
    WHERE job.job_id LIKE :run || '.%' AND job.ordinal >= :measured
    """,
    """
    INSERT INTO results (job_id, attempt_id, key, environment_key, outcome, recorded_at)
    SELECT job.job_id, job.job_id || '.1', job.key, attempt.environment_key, 'ok', attempt.ended_at
    FROM jobs AS job JOIN attempts AS attempt ON attempt.attempt_id = job.job_id || '.1'
    WHERE job.job_id LIKE :run || '.%' AND job.ordinal >= :measured
    """,
)


def exported(url: str, run_id: str, folder: str) -> tuple[float, float]:
    """Seconds that the store's own way takes from its tables to the file, and of processors, the server's too."""
    with closing(open_store(url)) as store:
        spent, began = loads.spent_s(url), time.perf_counter()
        collate.export(collate.collate(store, run_id), Path(folder), FORMAT)
        return time.perf_counter() - began, loads.spent_s(url) - spent


def written(url: str, rows: int, folder: Path) -> Exported:
    """A run of so many results, made and then written by a process of its own."""
    began = time.monotonic()
    run_id = filled(url, rows)
    print(f"  {rows:,} results are there, after {time.monotonic() - began:.0f} s", flush=True)
    (seconds, cpu_s), peak = loads.apart(exported, url, run_id, str(folder))
    found = Exported(rows=_rows(folder / jobs.FILE), seconds=seconds, cpu_s=cpu_s, peak_bytes=peak)
    print(
        f"  {found.rows:,} rows in {seconds:.1f} s ({found.per_s:,.0f} a second), "
        f"at most {peak / loads.MIB:.0f} MiB resident",
        flush=True,
    )
    return found


def _rows(file: Path) -> int:
    """Rows with a job of their own, and a p50."""
    with file.open(newline="") as lines:
        return len({row["job_id"] for row in csv.DictReader(lines) if row["latency_p50_ms"]})


def csv_module_s(source: Path, target: Path) -> float:
    """Seconds in which Python's csv module writes the rows of a file that it has read already, some at a time."""
    seconds = 0.0
    with source.open(newline="") as lines, target.open("w", newline="") as file:
        reader, writer = csv.reader(lines), csv.writer(file, lineterminator="\n")
        while chunk := list(islice(reader, 10_000)):
            began = time.perf_counter()
            writer.writerows(chunk)
            seconds += time.perf_counter() - began
    return seconds


def copy_s(url: str, source: Path, target: Path) -> float:
    """Seconds in which PostgreSQL's COPY writes the rows of a file that it has as a table already."""
    with source.open(newline="") as lines:
        header = next(csv.reader(lines))
    columns = ", ".join(f'"{name}" text' for name in header)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE UNLOGGED TABLE copied ({columns})".encode())
        cursor = connection.cursor()
        with source.open("rb") as file, cursor.copy("COPY copied FROM STDIN (FORMAT csv, HEADER)") as into:
            while data := file.read(_CHUNK):
                into.write(data)
        connection.execute("VACUUM ANALYZE copied")
        began = time.perf_counter()
        with target.open("wb") as file, cursor.copy("COPY copied TO STDOUT (FORMAT csv, HEADER)") as out:
            for block in out:
                file.write(block)
        return time.perf_counter() - began


def _require_same(source: Path, *copies: Path) -> None:
    """Passes where the copies have as many lines as their source; else what was timed was something else."""
    counts = [sum(1 for _ in file.open("rb")) for file in (source, *copies)]
    assert len(set(counts)) == 1, f"lines of {source} and its copies: {counts}"


def figures(less: Exported, more: Exported, wanted: int, others: dict[str, float]) -> list[Figure]:
    """What two exports come to, and the seconds of the other ways to write the rows of the larger one."""
    grown = more.peak_bytes - less.peak_bytes
    return [
        Figure(
            name="rows written, each of another job",
            result=f"{more.rows:,}",
            goal=f"{wanted:,}",
            reached=more.rows == wanted,
        ),
        Figure(
            name=f"memory for {more.rows:,} rows − for {less.rows:,}",
            result=f"{grown / loads.MIB:.1f} MiB",
            goal=f"≤ {GROWS_MIB} MiB",
            reached=grown <= GROWS_MIB * loads.MIB,
        ),
        loads.flat("exported", {each.rows: each.cpu_s / each.rows for each in (less, more)}),
        *(
            Figure(
                name=name, result=f"{seconds:.1f} s, {wanted / seconds:,.0f} rows/s", goal="stated", reached=True
            )
            for name, seconds in {"the store's export, all judged": more.seconds, **others}.items()
        ),
    ]


def rows(text: str) -> int:
    """A number of rows, as a flag has it."""
    number = int(text)
    if number < FEW or number % FEW:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of {FEW:,}")
    return number


def main() -> None:
    """Fills databases, writes everything, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rows", type=rows, default=1_000_000)
    given = arguments.parse_args()
    with loads.refusing(), loads.postgresql() as make, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        less, url = written(make(), FEW, folder), make()
        more = written(url, given.rows, folder)
        source, by_module, by_copy = folder / jobs.FILE, folder / "module.csv", folder / "copy.csv"
        others = {
            "Python's csv module, the same rows": csv_module_s(source, by_module),
            "PostgreSQL's COPY, the same rows": copy_s(url, source, by_copy),
        }
        _require_same(source, by_module, by_copy)
    print_last(figures(less, more, given.rows, others), host=loads.host())


if __name__ == "__main__":
    main()
