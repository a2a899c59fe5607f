"""What does a fresh process cost when it is forked from a template, and does it measure the same?

Two figures, both through the farm's own template, child and watching:

- how long after the request a child is ready to measure (torch, torchvision and the farm imported, the device
  opened): started anew ÷ forked, medians. It should be 20 times sooner.
- the latency of one cell, forked ÷ started anew: the median of the ratios of pairs of processes, which follow each
  other in an order drawn at random, with its interval. It should lie between 0.97 and 1.03. The host's own changes
  between the two processes of a pair are in it: take the pairs on a quiet host.

    python -m benchmarks.isolation --starts 10 --pairs 15
    python -m benchmarks.isolation --pairs 15 --recipe onnxruntime --batch-size 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import alternating
from farm import building, scratch
from farm.measurement import Measurement
from farm.settings import Settings, load
from farm.spec import JobSpec, Protocol, job
from workers import forking, locks, processes, supervisor, watching
from workers.forking import Template
from workers.locks import Held
from workers.watching import Watched

SOONER = 20
RATIO = (0.97, 1.03)

#: A child or a template that gets ready and no further.
READY = (sys.executable, "-m", "benchmarks.ready")


@contextlib.contextmanager
def started(spec: JobSpec, held: Held, command: tuple[str, ...]) -> Iterator[Template]:
    """A template that is ready."""
    settings = load()
    settings.scratch.mkdir(parents=True, exist_ok=True)
    environment = supervisor.child_environment(settings, spec, 1, settings.scratch)
    made = Template(command, environment, held.processors)
    with contextlib.closing(made):
        if not made.wait_ready(lambda: None, 1.0):
            sys.exit(f"no template: {made.said()}")
        yield made


def watched(
    spec: JobSpec,
    settings: Settings,
    held: Held,
    temporary: Path,
    command: tuple[str, ...],
    forked_from: Template | None,
) -> Watched:
    """A measuring process of this spec, as the supervisor has it run."""
    return Watched(
        command=command,
        request={
            "phase": "measure",
            "spec": spec.model_dump(mode="json"),
            "processors": held.processors,
            "build_spent_s": 0.0,
            "alone": True,
        },
        environment=supervisor.child_environment(settings, spec, len(held.processors), temporary),
        descriptors=held.descriptors,
        deadline_s=600.0,
        tick=lambda: None,
        tick_s=5.0,
        template=forked_from,
    )


def ready_after_s(spec: JobSpec, held: Held, forked_from: Template | None) -> float:
    """Seconds from a request until a child is ready."""
    settings = load()
    with scratch.folder(settings) as temporary:
        asked = watched(spec, settings, held, temporary, (*READY, "child"), forked_from)
        begun_ns = time.monotonic_ns()
        ended = watching.run(asked)
    return float(json.loads(ended.result)["ready_ns"] - begun_ns) / 1e9


def latency_s(spec: JobSpec, held: Held, forked_from: Template | None) -> float:
    """The median latency that one process measures."""
    settings = load()
    with scratch.folder(settings) as temporary:
        ended = watching.run(watched(spec, settings, held, temporary, supervisor.CHILD, forked_from))
    phase = supervisor.classify(ended, "measure", 600.0)
    if phase.measurement is None:
        sys.exit(f"{phase.outcome}: {phase.reason}\n{phase.log_tail}")
    return median_s(phase.measurement)


def median_s(measured: Measurement) -> float:
    """Of the calls on the device."""
    return float(np.median(measured.samples.device_ns)) / 1e9


def sooner(spec: JobSpec, held: Held, starts: int) -> dict[str, float]:
    """The first figure."""
    with started(spec, held, (*READY, "template")) as made:
        forked = [ready_after_s(spec, held, made) for _ in range(starts)]
    anew = [ready_after_s(spec, held, None) for _ in range(starts)]
    times = float(np.median(anew) / np.median(forked))
    print(
        f"ready after {np.median(forked) * 1e3:.1f} ms forked, {np.median(anew):.2f} s anew: {times:.0f} × sooner"
    )
    return {"forked_s": float(np.median(forked)), "anew_s": float(np.median(anew)), "times_sooner": times}


def same(spec: JobSpec, held: Held, pairs: int, seed: int) -> dict[str, Any]:
    """The second figure."""
    order, ratios = random.Random(seed), []
    with started(spec, held, forking.TEMPLATE) as made:
        for number in range(pairs):
            found = {}
            for forked_from in order.sample([made, None], 2):
                found[forked_from] = latency_s(spec, held, forked_from)
            ratios.append(found[made] / found[None])
            print(
                f"  pair {number + 1}: {found[made] * 1e3:.2f} ms forked ÷ {found[None] * 1e3:.2f} ms anew",
                flush=True,
            )
    median, low, high = alternating.interval(np.array(ratios))
    print(f"{spec.variant}, batch {spec.batch_size}: {median:.4f}, 95 % interval {low:.4f} to {high:.4f}")
    return {"ratio": median, "interval": [low, high], "pairs": pairs}


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--starts", type=int, default=10, help="processes of each kind for the first figure")
    arguments.add_argument("--pairs", type=int, default=15, help="pairs of processes for the second")
    arguments.add_argument("--seed", type=int, default=0, help="of the order within pairs")
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--recipe", default="baseline")
    arguments.add_argument("--dataset", default="digits")
    arguments.add_argument("--batch-size", type=int, default=8)
    given = arguments.parse_args()
    protocol = Protocol(name="isolation", paired=False, profile=False, max_s=5.0, energy_s=0, accuracy_samples=64)
    spec = job(
        model=given.model,
        recipe=given.recipe,
        dataset=given.dataset,
        batch_size=given.batch_size,
        protocol=protocol,
    )
    settings = load()
    building.build(spec, settings)
    processes.adopt_orphans()
    with locks.hold(settings.lock_dir, len(locks.processors())) as held:
        figures = {**sooner(spec, held, given.starts), **same(spec, held, given.pairs, given.seed)}
    reached = figures["times_sooner"] >= SOONER and RATIO[0] <= figures["ratio"] <= RATIO[1]
    print(json.dumps({"goal": {"times_sooner": SOONER, "ratio": RATIO}, **figures, "reached": reached}))


if __name__ == "__main__":
    main()
