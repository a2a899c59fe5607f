"""Can the numbers be trusted? Every claim about them, measured anew on this host: `make trust`.

Runs the benchmarks below one after the other and prints a table of figure, goal and result. Ends with exit code 1
where one falls short. Takes under an hour on two processors, and wants a quiet host: a busy neighbour is exactly
what it would find.

    make trust
    python -m benchmarks.trust --only known_times,farm_overhead
"""

from __future__ import annotations

from benchmarks import suite

BENCHMARKS: suite.Benchmarks = {
    "known_times": ("known_times",),
    "latency_agreement": ("latency_agreement",),
    "isolation": ("isolation",),
    "observers": ("observers",),
    "clean_runs": ("clean_runs",),
    "paced_runs": ("paced_runs",),
    "farm_overhead": ("farm_overhead", "--only-two"),
    "aa_control": ("aa_control", "--batch-size", "1", "--sets", "150"),
    "aa_control_8": ("aa_control", "--batch-size", "8", "--sets", "50", "--rounds", "20"),
}

if __name__ == "__main__":
    suite.run(__doc__, "Can the numbers be trusted?", BENCHMARKS)
