"""How often do the rules doubt what no neighbour can disturb?

A runtime plug-in computes like torch, and then waits until each call has taken 20 ms: whatever others do to memory
and caches, the call takes as long. An embedded farm measures it again and again, each time in a fresh process,
nothing is measured a second time, and every measurement is judged. At most 5 % may be SUSPECT or INVALID, on any
host that does not take the processor away.

    python -m benchmarks.paced_runs
    python -m benchmarks.paced_runs --repeats 12
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import own_runtime
from benchmarks.clean_runs import SHARE, doubted
from benchmarks.farm_overhead import run
from benchmarks.figures import Figure, print_last
from farm.verdict import judge

PACED = '''
"""torch as it is, in calls that take 20 ms each."""

import time

from farm.runtimes import Support, eager

SUPPORT = Support(summary="torch as it is, in calls that take 20 ms each")


def load(workload, folder):
    session = eager.load(workload, folder)
    at_once = session.run

    def paced(on_device):
        end = time.perf_counter_ns() + 20_000_000
        output = at_once(on_device)
        while time.perf_counter_ns() < end:
            pass
        return output

    session.run = paced
    return session
'''


def figure(repeats: int) -> Figure:
    """Measures and judges, in an environment that has the plug-in."""
    asked = ["--models", "resnet18", "--dataset", "synthetic", "--image-size", "32", "--optimizations", "paced"]
    asked += ["--batch-sizes", "1", "--protocol", "quick", "--repeats", str(repeats)]
    asked += [f"--set={changed}" for changed in ("remeasure=0", "control_every=none", "min_s=0.5")]
    measured = [result.measurement for result in run(*asked)]
    share = doubted([judge(found) for found in measured if found is not None], "runs")
    return Figure(
        name=f"share of {repeats} runs of a known time that is doubted",
        result=f"{share:.1%}",
        goal="≤ 5 %",
        reached=share <= SHARE and None not in measured,
    )


def main() -> None:
    """Starts itself again where the plug-in is; that prints the figure last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=60)
    arguments.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.inside:
        print_last([figure(given.repeats)])
        return
    with own_runtime.plugged_in("paced", PACED) as variables:
        command = [sys.executable, "-m", "benchmarks.paced_runs", "--inside", "--repeats", str(given.repeats)]
        sys.exit(subprocess.run(command, env=variables, check=False).returncode)


if __name__ == "__main__":
    main()
