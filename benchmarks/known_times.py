"""Does the farm measure the time that a call takes? Asked with a runtime whose calls take a known time.

A runtime plug-in waits for exactly so long in every call; `python -m farm measure` measures it like any other.
Its median has to be within 1 % of the known time, or within 20 µs. Then calls that do nothing at all are timed:
what is left is the loop's own cost, which has to be under 5 µs a call.

    python -m benchmarks.known_times --times-s 0.0001,0.001,0.01,0.1,1

"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping

from benchmarks import own_runtime
from benchmarks.figures import Figure, print_last
from farm.timing import Stopwatch

SHARE, SECONDS = 0.01, 20e-6
LOOP_S = 5e-6

VARIABLE = "KNOWN_TIME_S"

PLUGIN = f'''
"""Calls that take as long as {VARIABLE} says."""

import os
import time

import numpy as np

from farm.runtimes import Support

SUPPORT = Support(summary="takes a known time")


class KnownTime:
    def __init__(self, workload, logits):
        self.nanoseconds = round(float(os.environ["{VARIABLE}"]) * 1e9)
        self.logits = logits

    def to_device(self, host):
        return host

    def run(self, on_device):
        end = time.perf_counter_ns() + self.nanoseconds
        while time.perf_counter_ns() < end:
            pass
        return self.logits

    def to_host(self, output):
        return output

    def evidence(self, on_device):
        return {{}}


def load(workload, folder):
    import torch

    with torch.inference_mode():
        return KnownTime(workload, workload.model()(torch.zeros(workload.shape)).numpy())
'''


def measured(seconds: float, variables: Mapping[str, str]) -> dict[str, float]:
    """The two medians of a call that takes so long, in an environment that has the plug-in."""
    sets = ("min_s=0.5", "max_s=2", "accuracy_samples=8", "warmup_max_s=0.5", "profile=false", "energy_s=0")
    command = [sys.executable, "-m", "farm", "measure", "--model", "resnet18", "--image-size", "32"]
    command += ["--dataset", "synthetic", "--recipe", "known_time", *(f"--set={text}" for text in sets)]
    variables = {**variables, VARIABLE: str(seconds)}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])["latency_s"]
    return {figure: figures[figure]["p50"] for figure in ("device", "end_to_end")}


def loop_s() -> float:
    """Seconds that a call which does nothing takes, with all that is around it, over 100,000 of them."""
    nothing = Stopwatch(call=lambda _: None, inputs=[None], synchronize=lambda: None)
    timed = nothing.window(lambda samples, _: len(samples) >= 100_000)
    return timed.wall_s / len(timed.samples_ns)


def main() -> None:
    """Measures each, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--times-s", default="0.0001,0.001,0.01,0.1,1", help="joined by commas")
    given = arguments.parse_args()
    figures = []
    with own_runtime.plugged_in("known_time", PLUGIN) as variables:
        for seconds in map(float, given.times_s.split(",")):
            figures.append(off(seconds, measured(seconds, variables)))
    cost_s = loop_s()
    own = Figure(
        name="the loop's own cost", result=f"{cost_s * 1e6:.2f} µs", goal="< 5 µs", reached=cost_s < LOOP_S
    )
    print_last([*figures, own])


def off(seconds: float, found: dict[str, float]) -> Figure:
    """How far the worse of the two medians is off."""
    print(f"{seconds:8g} s: device {found['device']:.6f} s, end to end {found['end_to_end']:.6f} s", flush=True)
    off_s = max(abs(p50 - seconds) for p50 in found.values())
    return Figure(
        name=f"a call of {seconds:g} s is off by",
        result=f"{off_s / seconds:.2%}, {off_s * 1e6:.1f} µs",
        goal="≤ 1 % or 20 µs",
        reached=off_s <= max(SECONDS, SHARE * seconds),
    )


if __name__ == "__main__":
    main()
