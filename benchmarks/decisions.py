"""From 100,000 cells to a decision: how long, and how much memory?

A SQLite database is filled with the results of 100,000 cells of three repeats each: 80 models, 25 recipes, 50
batch sizes. Some are measured through the store, with calls that are made up, and with a live control and evidence
as large as real ones; they are copied within the database to all other cells. Then the three commands that turn a
run into a decision are run as people run them, each in a process of its own: `collate` (CSV), `recommend --json`
under limits, and `report`. Asked is that none needs more memory than a bound, and that the answer as JSON and the
page stay small. Times, and what each more cell takes, are stated.

    python -m benchmarks.decisions
    python -m benchmarks.decisions --cells 5000
    python -m benchmarks.decisions --commands recommend

It takes 3 GB of disk in the temporary directory and three quarters of an hour. The last line is the figures as
JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import loads
from benchmarks.figures import Figure, print_last
from farm import models
from farm.measurement import Measurement, Outcome
from farm.spec import Matrix
from results_store.database import Database
from results_store.store import Claim, Ending, open_store
from tests import factories

#: Repeats of a cell: as few as claim a difference.
REPEATS = 3
#: So many cells are measured through the store, each with calls and evidence of its own, and copied to all others.
MEASURED = 40
RECIPES = (
    *(
        "+".join(filter(None, choices)) or "baseline"
        for choices in product(
            ("", "channels_last"), ("", "amp", "bf16", "fp16"), ("", "system_malloc", "jemalloc")
        )
    ),
    "torchscript",
)
BATCHES = tuple(range(1, 51))
#: Cells of the smaller run.
FEW = 4 * len(RECIPES) * len(BATCHES)
CALLS = 70

MOST_MIB = 1024
#: What is printed and written may be at most so large, however many cells there are.
JSON_MIB, PAGE_MB = 2, 10

#: The commands, by what people call them; `{run}` and `{folder}` are filled in.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "collate": ("collate", "{run}", "--format", "csv", "--output-dir", "{folder}"),
    "recommend": ("recommend", "{run}", "--max-p90-ms", "1000000", "--min-top1", "0.9", "--json"),
    "report": ("report", "{run}", "--output-dir", "{folder}"),
}


@dataclass(frozen=True, kw_only=True)
class Done:
    """One command over one run."""

    cells: int
    seconds: float
    peak_bytes: int
    #: What came out: the file that was written, or what was printed.
    bytes: int
    #: Cells in it: rows of the CSV, or what the answer or the page counts.
    counted: int


def filled(url: str, cells: int) -> str:
    """Makes a run of so many cells with all their results; its id."""
    with closing(open_store(url)) as store:
        store.register(factories.worker())
        run_id = store.submit(matrix(cells), again=True).run_id
        for number in range(MEASURED):
            claim = store.claim("cpu@alpha", f"{run_id}.{number:06d}")
            assert claim is not None
            assert store.finish(claim, Ending(outcome=Outcome.OK, measurement=made_up(claim, number)))
    asked = {"run": run_id, "cells": cells, "measured": MEASURED, "last": REPEATS - 1, "own": _OWN}
    with closing(Database(url)) as database, database.writing() as connection:
        for statement in _COPIES:
            connection.execute(sa.text(statement), asked)
    return run_id


def matrix(cells: int) -> Matrix:
    """A matrix of so many cells, and one repeat: as many models as it takes."""
    count = cells // (len(RECIPES) * len(BATCHES))
    return Matrix.model_validate(
        {
            "models": models.names()[:count],
            "optimizations": RECIPES,
            "batch_sizes": BATCHES,
            "image_size": 224,
            "protocol": "standard",
            "repeats": 1,
        }
    )


def made_up(claim: Claim, number: int) -> Measurement:
    """A measurement that nobody made, as large as a real one: a live control, and evidence of everything."""
    milliseconds = 10 + number / 10
    return factories.measurement(
        spec=claim.spec,
        samples=factories.samples(milliseconds, milliseconds + 1, calls=CALLS),
        control=factories.baseline_beside(20.0, calls=CALLS),
        telemetry=factories.telemetry(cpu_mhz=2400.0, load=0.1, memory_bytes=2e9, pressure=0.01),
        energy=factories.energy(),
        evidence=evidence(number),
        missing={"vram_usage": "measured on a CPU", "gpu_utilization": "measured on a CPU"},
    )


def evidence(number: int) -> dict[str, Any]:
    """As a compiled recipe's: what was asked, what ran, what was built of what."""
    return {
        "weights": f"trained here on digits, {number} epochs, sha256 {'0123456789abcdef' * 4}",
        "layout_seed": 1_000_003 * number,
        "allocator_asked": "glibc",
        "allocator": "glibc",
        "dtype_asked": "bfloat16",
        "dtype": "bfloat16",
        "convolutions": {"bfloat16": 120, "float32": number % 3},
        "weight_dtypes": {"bfloat16": 6_964_106 - number, "float32": 83_648},
        "matmul_precision": "ieee",
        "batch_norms": 121,
        "channels_last": True,
        "graph_breaks": 0,
        "compiled": True,
        "build": {
            "package": f"{_OWN}.pt2",
            "sha256": f"{number:064x}",
            "kernels": [f"fused_convolution_batch_norm_relu_{n}" for n in range(20)],
            "inductor": {"freezing": True, "max_autotune": False, "cpp_wrapper": True, "threads": 2},
            "opset": 20,
            "graph_nodes": 368 + number,
            "precision_loss": {"logits": 1e-3 * (number + 1), "agreeing": 899},
        },
    }


#: Stands in the evidence where every cell has something of its own, which is no other's.
_OWN = "artifact-of-this-cell"

#: Every job of the matrix is done, then it gets its other repeats; then each of those that were not measured gets
#: the attempt of one that was, and a result.
_COPIES = (
    "UPDATE jobs SET state = 'done', outcome = 'ok', attempts = 1, fence = 1 WHERE job_id LIKE :run || '.%'",
    """
    WITH RECURSIVE repeats(number) AS (
        SELECT 1 UNION ALL SELECT number + 1 FROM repeats WHERE number < :last
    )
    INSERT INTO jobs (job_id, run_number, ordinal, cell_ordinal, repeat, key, queue, threads, adoptable, state,
                      fence, attempts, outcome)
    SELECT :run || '.' || printf('%06d', repeats.number * :cells + job.ordinal), run_number,
           repeats.number * :cells + job.ordinal, cell_ordinal, repeats.number, job.key || repeats.number, queue,
           threads, adoptable, state, fence, attempts, outcome
    FROM jobs AS job, repeats
    WHERE job_id LIKE :run || '.%'
    """,
    """
    INSERT INTO attempts (attempt_id, job_id, run_number, fence, number, worker_id, environment_key, started_at,
                          ended_at, phase, outcome, measurement, device_ns, end_to_end_ns, control_ns)
    SELECT job.job_id || '.1', job.job_id, job.run_number, 1, 1, model.worker_id, model.environment_key,
           model.started_at, model.ended_at, model.phase, model.outcome,
           replace(model.measurement, :own, job.job_id), model.device_ns,
           model.end_to_end_ns, model.control_ns
    FROM jobs AS job
    JOIN attempts AS model ON model.job_id = :run || '.' || printf('%06d', job.ordinal % :measured)
    WHERE job.job_id LIKE :run || '.%' AND job.ordinal >= :measured
    """,
    """
    INSERT INTO results (job_id, attempt_id, key, environment_key, outcome, recorded_at)
    SELECT job.job_id, job.job_id || '.1', job.key, attempt.environment_key, 'ok', attempt.ended_at
    FROM jobs AS job JOIN attempts AS attempt ON attempt.attempt_id = job.job_id || '.1'
    WHERE job.job_id LIKE :run || '.%' AND job.ordinal >= :measured
    """,
)


def run(name: str, url: str, run_id: str, folder: Path, cells: int) -> Done:
    """One of the commands, in a process of its own."""
    words = [word.format(run=run_id, folder=folder) for word in COMMANDS[name]]
    code = (
        "import sys; from benchmarks import loads; from results_store.__main__ import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as ended: code = ended.code\n"
        "print(loads.peak_bytes(), file=sys.stderr); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "FARM_DATABASE_URL": url},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    size, counted = _came_out(name, done.stdout, folder)
    peak = int(done.stderr.split()[-1])
    print(
        f"  {name}: {counted:,} cells in {seconds:.0f} s, at most {peak / loads.MIB:.0f} MiB resident, "
        f"{size / 1e6:.1f} MB came out",
        flush=True,
    )
    return Done(cells=cells, seconds=seconds, peak_bytes=peak, bytes=size, counted=counted)


def _came_out(name: str, printed: str, folder: Path) -> tuple[int, int]:
    """How much a command wrote or printed, and how many cells that is of."""
    if name == "recommend":
        return len(printed.encode()), sum(device["cells"] for device in json.loads(printed)["devices"])
    if name == "collate":
        file = folder / "benchmark_results.csv"
        with file.open(newline="") as lines:
            return file.stat().st_size, sum(bool(row["latency_p50_ms"]) for row in csv.DictReader(lines))
    file = folder / "report.html"
    text = file.read_text(encoding="utf-8")
    said = text.partition("<b>")[2].partition("</b>")[0]
    return file.stat().st_size, int(said.replace(",", ""))


def figures(less: Mapping[str, Done], more: Mapping[str, Done], wanted: int) -> list[Figure]:
    """What the commands come to, over few cells and over many."""
    each = [figure for name, done in more.items() for figure in _bounded(name, less[name], done, wanted)]
    limits = {
        "recommend": (JSON_MIB * loads.MIB, f"≤ {JSON_MIB} MiB"),
        "report": (PAGE_MB * 10**6, f"≤ {PAGE_MB} MB"),
    }
    sizes = [
        Figure(
            name=f"{name}: what comes out of {wanted:,} cells",
            result=f"{more[name].bytes / 1e6:.2f} MB",
            goal=goal,
            reached=more[name].bytes <= most,
        )
        for name, (most, goal) in limits.items()
        if name in more
    ]
    return [*each, *sizes]


def _bounded(name: str, less: Done, more: Done, wanted: int) -> list[Figure]:
    grown = (more.peak_bytes - less.peak_bytes) / max(1, more.cells - less.cells)
    return [
        Figure(
            name=f"{name}: cells", result=f"{more.counted:,}", goal=f"{wanted:,}", reached=more.counted == wanted
        ),
        Figure(
            name=f"{name}: memory for {wanted:,} cells",
            result=f"{more.peak_bytes / loads.MIB:.0f} MiB, {grown / 1024:.1f} KiB for each more",
            goal=f"≤ {MOST_MIB} MiB",
            reached=more.peak_bytes <= MOST_MIB * loads.MIB,
        ),
        Figure(name=f"{name}: time", result=f"{more.seconds:.0f} s", goal="stated", reached=True),
    ]


def cells(text: str) -> int:
    """A number of cells, as a flag has it."""
    number = int(text)
    step = len(RECIPES) * len(BATCHES)
    if number < FEW or number % step or number > step * len(models.names()):
        raise argparse.ArgumentTypeError(
            f"{text} is no multiple of {step:,} from {FEW:,} to {step * len(models.names()):,}"
        )
    return number


def main() -> None:
    """Fills databases, runs the commands, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--cells", type=cells, default=100_000)
    arguments.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = arguments.parse_args()
    found: list[dict[str, Done]] = []
    for count in (FEW, given.cells):
        with loads.sqlite() as url, tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            run_id = filled(url, count)
            took = time.monotonic() - began
            print(f"{count:,} cells of {REPEATS} repeats are there, after {took:.0f} s", flush=True)
            found.append({name: run(name, url, run_id, Path(folder), count) for name in given.commands})
    less, more = found
    print_last(figures(less, more, given.cells), host=loads.host())


if __name__ == "__main__":
    main()
