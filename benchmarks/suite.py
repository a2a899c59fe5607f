"""Runs benchmarks one after the other and prints one table of figure, goal and result; `trust` and `load` do."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, read_last

#: By the name of each: its module, and its arguments.
Benchmarks: TypeAlias = Mapping[str, tuple[str, ...]]

#: Columns of a table that goes into a file.
_WIDE = 160


def figures_of(name: str, benchmarks: Benchmarks) -> list[Figure]:
    """Runs a benchmark, shows what it says, and returns its figures; a single one that says so where it failed."""
    module, *arguments = benchmarks[name]
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


def run(about: str | None, title: str, benchmarks: Benchmarks) -> None:
    """Runs what the command line asks for, and prints the table and the figures last.

    Ends with exit code 1 where one falls short or cannot run, with 2 where one is asked for that is not there.

    Args:
        about: what `--help` says.
        title: of the table.
        benchmarks: those there are; all of them run where nothing else is asked for.
    """
    arguments = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--only", default=",".join(benchmarks), help="joined by commas")
    names = arguments.parse_args().only.split(",")
    unknown = [name for name in names if name not in benchmarks]
    if unknown:
        arguments.error(f"no such benchmark: {', '.join(unknown)}; possible: {', '.join(benchmarks)}")
    began, found = time.monotonic(), {}
    for name in names:
        print(f"{name} ({time.monotonic() - began:.0f} s so far)", flush=True)
        found[name] = figures_of(name, benchmarks)
    table = Table("benchmark", "figure", "goal", "result", "", title=title)
    for name, figures in found.items():
        for figure in figures:
            table.add_row(name, figure.name, figure.goal, figure.result, "yes" if figure.reached else "NO")
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)
    reached = all(figure.reached for figures in found.values() for figure in figures)
    by_name = {name: [asdict(figure) for figure in figures] for name, figures in found.items()}
    print(json.dumps({"figures": by_name, "seconds": time.monotonic() - began, "reached": reached}))
    sys.exit(0 if reached else 1)
