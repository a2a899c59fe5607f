"""What does a fresh process cost when it is forked from a template, and does it measure the same?

Two figures, both through the farm's own template, child and watching:

- how long after the request a child is ready to measure (torch, torchvision and the farm imported, the device
  opened): started anew ÷ forked, medians. It should be 20 times sooner.
- the latency of one cell, forked ÷ started anew: both alive side by side, the one started anew as the forked one's
  live control, in windows that take turns. The median of the ratios of such pairs of processes, with its interval,
  should lie between 0.97 and 1.03.

    python -m benchmarks.isolation --starts 10 --pairs 15
    python -m benchmarks.isolation --pairs 15 --recipe onnxruntime --batch-size 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import alternating
from benchmarks.figures import Figure, print_last
from farm import building, locks, scratch
from farm.locks import Held
from farm.settings import Settings, load
from farm.spec import JobSpec, Protocol, job
from workers import processes, supervisor, watching
from workers.forking import Template
from workers.phase import classify
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
            "alone": False,
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


def ratio(spec: JobSpec, held: Held, forked_from: Template) -> float:
    """Latency of a forked process ÷ that of one started anew, which lives beside it as its control."""
    settings = load()
    with scratch.folder(settings) as temporary:
        ended = watching.run(watched(spec, settings, held, temporary, supervisor.CHILD, forked_from))
    phase = classify(ended, "measure", 600.0)
    if phase.measurement is None:
        sys.exit(f"{phase.outcome}: {phase.reason}\n{phase.log_tail}")
    return 1 / float(np.median(phase.measurement.speedups))


def sooner(spec: JobSpec, held: Held, starts: int) -> Figure:
    """The first figure."""
    with started(spec, held, (*READY, "template")) as made:
        forked = [ready_after_s(spec, held, made) for _ in range(starts)]
    anew = [ready_after_s(spec, held, None) for _ in range(starts)]
    times = float(np.median(anew) / np.median(forked))
    text = f"{times:.0f} × ({np.median(forked) * 1e3:.1f} ms, anew {np.median(anew):.2f} s)"
    return Figure(name="a forked process is ready sooner", result=text, goal="≥ 20 ×", reached=times >= SOONER)


def same(spec: JobSpec, held: Held, pairs: int) -> Figure:
    """The second figure."""
    with started(spec, held, (*READY, "beside")) as made:
        # Each repeat has an order of its own.
        repeats = (spec.model_copy(update={"repeat": number + 1}) for number in range(pairs))
        ratios = np.array([ratio(repeat, held, made) for repeat in repeats])
    print("  forked ÷ anew:", ", ".join(f"{value:.4f}" for value in ratios), flush=True)
    median, low, high = alternating.interval(ratios)
    return Figure(
        name=f"latency forked ÷ anew, {pairs} pairs",
        result=f"{median:.4f} ({low:.4f} to {high:.4f})",
        goal="0.97 to 1.03",
        reached=RATIO[0] <= median <= RATIO[1],
    )


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--starts", type=int, default=10, help="processes of each kind for the first figure")
    arguments.add_argument("--pairs", type=int, default=15, help="pairs of processes for the second")
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--recipe", default="baseline")
    arguments.add_argument("--dataset", default="digits")
    arguments.add_argument("--batch-size", type=int, default=8)
    given = arguments.parse_args()
    protocol = Protocol(name="isolation", profile=False, max_s=3.0, energy_s=0, accuracy_samples=64)
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
        print_last([sooner(spec, held, given.starts), same(spec, held, given.pairs)])


if __name__ == "__main__":
    main()
