"""Does looking change what is looked at? Telemetry on and off, and a profile pass.

One live process is timed in windows of half a second; in half of them, drawn at random, this process reads host
and device half way, as often as a supervisor does. The figure is the median of the paired ratios of windows with
and without, and has to be within 0.5 % of 1.

A profile pass comes after everything that is timed (a test keeps it there), so it can move nothing. What it would
move is published: pairs of fresh live processes are timed in short windows that take turns, one of the two is
profiled half way, and the figure is by how much their ratio changes with that.

    python -m benchmarks.observers
    python -m benchmarks.observers --rounds 10 --sets 2
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

from benchmarks import alternating
from benchmarks.figures import Figure, print_last
from farm import locks
from farm.spec import JobSpec, Protocol, job
from workers import telemetry

GOAL = 0.005
WINDOW_S = 0.5
#: Of two windows in each pair of processes, before the profile pass and after it.
ROUNDS = 7


def with_telemetry(spec: JobSpec, rounds: int) -> np.ndarray:
    """Latency with telemetry ÷ without, of each round's two windows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(spec, theirs), daemon=True)
    process.start()
    theirs.close()  # else its death would not be noticed
    assert ours.recv() == "ready"
    assert process.pid is not None
    every_s = spec.protocol.telemetry_s
    assert every_s is not None
    order, found = random.Random(0), []
    with telemetry.recorder(every_s, locks.processors(), None) as recorder:
        for _ in range(rounds):
            medians = {}
            for watched in order.sample([True, False], 2):
                ours.send("go")
                if watched and not ours.poll(WINDOW_S / 2):
                    recorder.look(process.pid)
                medians[watched] = ours.recv()
            found.append(medians[True] / medians[False])
    ours.send("stop")
    process.join()
    return np.array(found)


def _serve(spec: JobSpec, pipe: Connection) -> None:
    from farm import allocator

    allocator.apply(spec.recipe.allocator)
    watch = alternating.farm_stopwatch(spec)
    watch.warm_up(spec.protocol)
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(float(np.median(watch.window(lambda _, seconds: seconds >= WINDOW_S).samples_ns)))


def with_profile(spec: JobSpec, sets: int) -> np.ndarray:
    """By how much a process takes longer once it was profiled, beside another that was not, of each set of two."""
    pair = [(profiled_window, spec), (alternating.farm_window, spec)]
    found = []
    for seed in range(sets):
        medians = alternating.rounds(pair, 2 * ROUNDS + 1, seed, alternating.warm())
        ratios = medians[:, 0] / medians[:, 1]
        # The first round warms up.
        found.append(np.median(ratios[ROUNDS + 1 :]) / np.median(ratios[1 : ROUNDS + 1]))
    return np.array(found)


def profiled_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The farm's way, with its profile pass half way."""
    from farm import measuring
    from farm.passes import profile
    from farm.settings import load

    ready = measuring.prepare(spec, load())
    window, taken = alternating.window_of(ready.on_device), 0

    def next_window() -> list[int]:
        nonlocal taken
        # One window before the rounds, and one round more, warm up.
        if taken == ROUNDS + 2:
            profile.run(ready.session, ready.device, ready.on_device.inputs[0], on_gpu=False)
        taken += 1
        return window()

    return next_window


def figure(name: str, ratios: np.ndarray) -> Figure:
    """The median against the goal."""
    median, low, high = alternating.interval(ratios)
    text = f"{median:.4f} ({low:.4f} to {high:.4f})"
    print(f"{name}: {text}", flush=True)
    return Figure(name=name, result=text, goal="1 ± 0.005", reached=abs(median - 1) <= GOAL)


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=120, help="of two windows, with and without telemetry")
    arguments.add_argument("--sets", type=int, default=12, help="of two fresh processes, for the profile pass")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--model", default="densenet121")
    given = arguments.parse_args()
    from farm.measuring import measure

    protocol = Protocol(name="once", paired=False, warmup_max_s=1.0, min_s=0.1, max_s=0.2, accuracy_samples=64)
    spec = job(model=given.model, batch_size=given.batch_size, protocol=protocol)
    measure(spec)
    profiled = figure("calls after a profile pass ÷ before", with_profile(spec, given.sets))
    print_last(
        [
            figure("latency with telemetry ÷ without", with_telemetry(spec, given.rounds)),
            replace(profiled, goal="published: the farm has none", reached=True),
        ]
    )


if __name__ == "__main__":
    main()
