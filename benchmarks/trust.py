"""Can the numbers be trusted? Every claim about them, measured anew on this host: `make trust`.

Runs the benchmarks below one after the other and prints a table of figure, goal and result. Ends with exit code 1
where one falls short. Takes under an hour on two processors, and wants a quiet host: a busy neighbour is exactly
what it would find.

    make trust
    python -m benchmarks.trust --only known_times,farm_overhead
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, read_last

#: The module of each, and its arguments.
BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    "known_times": ("known_times",),
    "latency_agreement": ("latency_agreement",),
    "isolation": ("isolation",),
    "observers": ("observers",),
    "clean_runs": ("clean_runs",),
    "farm_overhead": ("farm_overhead",),
    "aa_control": ("aa_control", "--batch-size", "1", "--sets", "140"),
    "aa_control_8": ("aa_control", "--batch-size", "8", "--sets", "60"),
}


def figures_of(name: str) -> list[Figure]:
    """Runs a benchmark, shows what it says, and returns its figures; a single one that says so where it failed."""
    module, *arguments = BENCHMARKS[name]
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if not line.startswith("{"):
                print(f"  {line}", end="", flush=True)
    try:
        if process.returncode != 0:
            raise ValueError(f"exit code {process.returncode}")
        return read_last("".join(lines))
    except (ValueError, KeyError, TypeError) as error:
        return [Figure(name=name, result=f"failed: {error}", goal="it runs", reached=False)]


def main() -> None:
    """Runs what is asked for, and prints the table and the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--only", default=",".join(BENCHMARKS), help="joined by commas")
    names = arguments.parse_args().only.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        arguments.error(f"no such benchmark: {', '.join(unknown)}; possible: {', '.join(BENCHMARKS)}")
    began, found = time.monotonic(), {}
    for name in names:
        print(f"{name} ({time.monotonic() - began:.0f} s so far)", flush=True)
        found[name] = figures_of(name)
    table = Table("benchmark", "figure", "goal", "result", "", title="Can the numbers be trusted?")
    for name, figures in found.items():
        for figure in figures:
            table.add_row(name, figure.name, figure.goal, figure.result, "yes" if figure.reached else "NO")
    Console().print(table)
    reached = all(figure.reached for figures in found.values() for figure in figures)
    by_name = {name: [asdict(figure) for figure in figures] for name, figures in found.items()}
    print(json.dumps({"figures": by_name, "seconds": time.monotonic() - began, "reached": reached}))
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
