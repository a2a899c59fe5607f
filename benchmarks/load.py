"""Does the farm bear very many jobs, workers and results? Measured on this host: `make load`.

Runs the benchmarks below one after the other and prints a table of figure, goal and result. Ends with exit code 1
where one falls short, or cannot run because a PostgreSQL or a Redis is missing. Takes under an hour on
two processors.

    make load
    python -m benchmarks.load --only submission
"""

from __future__ import annotations

from benchmarks import suite

BENCHMARKS: suite.Benchmarks = {
    "submission": ("submission",),
    "claims": ("claims",),
    "export_rows": ("export_rows",),
}

if __name__ == "__main__":
    suite.run(__doc__, "Does it bear the load?", BENCHMARKS)
