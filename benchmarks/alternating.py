"""Several measured things alive at once, each in a process of its own, timed in short windows that take turns.

What the machine does meanwhile falls on all of them alike, so ratios of windows of one round can be trusted where
times cannot. Who waits sleeps on its pipe.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import numpy as np

from farm.spec import JobSpec
from farm.timing import Stopwatch

#: At least so long, and so many calls.
WINDOW_S = 0.17
CALLS = 3

_SPAWN = multiprocessing.get_context("spawn")

#: What a process that is forked from the warm one need not import; nothing is computed there.
_WARM = ["torch", "torchvision", "sklearn.datasets", "scipy.stats", "farm.building", "farm.measuring"]
_WARM += ["farm.torch_session", "farm.passes.latency", "farm.runtimes.eager", "farm.datasets.digits"]
_WARM += ["farm.models.torchvision_zoo", "safetensors.torch"]

#: Loads what a spec asks for and returns what times one window, in nanoseconds per call.
Maker: TypeAlias = Callable[[JobSpec], Callable[[], list[int]]]


def farm_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The farm's way: its session, its stopwatch."""
    return window_of(farm_stopwatch(spec))


def farm_stopwatch(spec: JobSpec) -> Stopwatch:
    """The farm's own, of the device figure, on the session that a job of this spec would time."""
    from farm import measuring
    from farm.settings import load

    return measuring.prepare(spec, load()).on_device


def warm() -> ForkServerContext:
    """Starts fresh processes that need not import what the measuring ones need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WARM)
    return context


def window_of(watch: Stopwatch) -> Callable[[], list[int]]:
    """What times one window with it."""
    return lambda: watch.window(lambda samples, seconds: seconds >= WINDOW_S and len(samples) >= CALLS).samples_ns


def rounds(
    pairs: Sequence[tuple[Maker, JobSpec]],
    count: int,
    seed: int,
    context: SpawnContext | ForkServerContext = _SPAWN,
) -> np.ndarray:
    """Medians of the windows in nanoseconds, (rounds, pairs); the order within a round is drawn anew each time.

    Every process is a fresh one, started as the context does it, and gone at the end.
    """
    pipes: list[Any] = []
    processes: list[BaseProcess] = []
    for make, spec in pairs:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(make, spec, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # else its death would not be noticed
        assert ours.recv() == "ready"
        pipes.append(ours)
    order, medians = random.Random(seed), np.zeros((count, len(pairs)))
    for number in range(count):
        for which in order.sample(range(len(pairs)), len(pairs)):
            pipes[which].send("go")
            medians[number, which] = pipes[which].recv()
    for pipe in pipes:
        pipe.send("stop")
    for process in processes:
        process.join()
    return medians


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """The median of the ratios, and its 95 % interval by bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def _serve(make: Maker, spec: JobSpec, pipe: Connection) -> None:
    """Measures a window whenever it is asked to."""
    from farm import allocator

    allocator.apply(spec.recipe.allocator)
    window = make(spec)
    window()
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(float(np.median(window())))
