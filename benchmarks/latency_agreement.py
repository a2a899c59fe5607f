"""Does the farm's latency agree with an independent loop? Measured with both alive at once, in turns.

Two processes hold the same model. One times a window with the farm's own stopwatch, the other with a bare
loop around `model(x)`; windows of 100 to 250 ms alternate in an order drawn at random, so that what the
machine does meanwhile falls on both alike. The figure is the median of the paired ratios of the windows'
medians, with its interval; it should be within 3 % of 1. Two fresh processes differ by a percent or two however
they measure (where their memory happens to lie), so several pairs of processes are taken.

    python -m benchmarks.latency_agreement --windows 120 --processes 8 --batch-size 8
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from farm.spec import JobSpec, Protocol, job

GOAL = 0.03
WINDOW_S = 0.17


def farm_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The farm's way: its session, its stopwatch."""
    from farm import building, devices, measuring, runtimes
    from farm.passes import latency
    from farm.settings import load

    settings = load()
    here = building.environment_of(spec, settings)
    device = devices.open_device(spec.device_kind, here.threads)
    made = building.materials(spec, settings, here)
    session = runtimes.module(spec.recipe.runtime).load(made.workload, made.artifact and made.artifact.folder)
    inputs = measuring.distinct_inputs(building.test_part(spec, settings), spec)
    watch, _ = latency.stopwatches(session, device, inputs)
    return lambda: watch.window(lambda samples, seconds: seconds >= WINDOW_S and len(samples) >= 3).samples_ns


def bare_window(spec: JobSpec) -> Callable[[], list[int]]:
    """Nothing of the farm but weights and images (what is in them decides speed too): torch, and a loop."""
    import torch

    from farm import building, measuring
    from farm.settings import load

    settings = load()
    model = building.materials(spec, settings, building.environment_of(spec, settings)).workload.model()
    layout = torch.channels_last if spec.recipe.layout == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=layout)
    batches = measuring.distinct_inputs(building.test_part(spec, settings), spec)
    images = torch.tensor(batches[0]).to(memory_format=layout)

    def window() -> list[int]:
        samples: list[int] = []
        end = time.perf_counter() + WINDOW_S
        with torch.inference_mode():
            while time.perf_counter() < end or len(samples) < 3:
                before = time.perf_counter_ns()
                model(images)
                samples.append(time.perf_counter_ns() - before)
        return samples

    return window


def serve(make: Callable[[JobSpec], Callable[[], list[int]]], spec: JobSpec, pipe: Connection) -> None:
    """Measures a window whenever it is asked to; in between the process sleeps on its pipe."""
    from farm import allocator

    allocator.apply(spec.recipe.allocator)
    window = make(spec)
    window()
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(float(np.median(window())))


def paired_ratios(spec: JobSpec, windows: int, seed: int) -> list[float]:
    """Farm ÷ bare loop, for each pair of windows."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Any] = []
    for make in (farm_window, bare_window):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(make, spec, theirs), daemon=True).start()
        assert ours.recv() == "ready"
        pipes.append(ours)
    order, ratios = random.Random(seed), []
    for _ in range(windows):
        medians = [0.0, 0.0]
        for which in order.sample((0, 1), 2):
            pipes[which].send("go")
            medians[which] = pipes[which].recv()
        ratios.append(medians[0] / medians[1])
    for pipe in pipes:
        pipe.send("stop")
    return ratios


def main() -> None:
    """Builds what is missing, measures, and prints the figure last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--windows", type=int, default=120, help="of each kind, over all processes")
    arguments.add_argument("--processes", type=int, default=8, help="pairs of fresh processes")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--recipe", default="baseline", choices=["baseline", "channels_last"])
    arguments.add_argument("--model", default="densenet121")
    given = arguments.parse_args()
    from farm.measuring import measure

    protocol = Protocol(name="once", warmup_max_s=0.1, min_s=0.1, max_s=0.2)
    spec = job(model=given.model, recipe=given.recipe, batch_size=given.batch_size, protocol=protocol)
    measure(spec)
    windows = -(-given.windows // given.processes)
    by_processes = [paired_ratios(spec, windows, seed) for seed in range(given.processes)]
    ratios = np.array(by_processes).ravel()
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    median = float(np.median(ratios))
    print(f"{len(ratios)} pairs of windows, {spec.variant}, batch {spec.batch_size}, {spec.image_size} pixels")
    print("median of each pair of processes:", ", ".join(f"{np.median(pair):.4f}" for pair in by_processes))
    print(f"farm / bare loop: {median:.4f}, 95 % interval {low:.4f} to {high:.4f}, goal 1 ± {GOAL}")
    figure = {"ratio": median, "interval": [low, high], "pairs": len(ratios), "goal": GOAL}
    print(json.dumps({**figure, "reached": abs(median - 1) <= GOAL}))


if __name__ == "__main__":
    main()
