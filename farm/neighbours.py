"""Whether jobs on disjoint processors of this host disturb each other: measured, with live processes.

One takes short windows alone and beside copies of itself that fill the host, in an order drawn at random; the
ratio of two windows that follow each other knows nothing of drift. `python -m farm.neighbours PROCESSORS` is one
of those processes: for every line with a number of seconds it computes for so long, and answers with its seconds
per call.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from farm import statistics
from farm.errors import FarmError

#: A window is long enough for many calls and short enough for many windows.
WINDOW_S = 0.25
ROUNDS = 16
#: No more processes at once: each takes some hundred MiB.
MOST = 8
#: Neighbours that cost less than this do no harm.
_HARMLESS = 1.05
#: The neighbours begin before and end after the window that they are to disturb.
_OVERLAP_S = 0.05

_ALONE = "jobs with all processors, one worker without --threads"


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How much slower a job is while others run beside it."""

    #: Processors of each job.
    threads: int
    #: Jobs at once, itself among them.
    jobs: int
    #: Time of a call beside the others ÷ alone, the median over rounds and its 95 % interval.
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        slower = f"{self.ratio:.3f} times as long (95 % interval {self.low:.3f} to {self.high:.3f})"
        return f"{self.jobs} jobs at once with {self.threads} threads each: a call takes {slower}"


class Job(Protocol):
    """A live process that computes when it is told to."""

    def begin(self, seconds: float) -> None:
        """Lets it compute for so long."""

    def seconds_per_call(self) -> float:
        """Waits until it is done."""


#: Makes live jobs, one on each group of processors, that are gone when the context ends.
Starter = Callable[[Sequence[Sequence[int]]], contextlib.AbstractContextManager[Sequence[Job]]]


def shares(count: int) -> list[int]:
    """Threads per job that are worth a try on so many processors: few, and half of them; none of a single one.

    Few is one, or as many as `MOST` jobs need to fill the host: what it does when it is full is the question.
    """
    return sorted({-(-count // MOST), count // 2}) if count > 1 else []


def measure(processors: Sequence[int], threads: int, start: Starter | None = None, seed: int = 0) -> Disturbance:
    """How jobs of so many threads disturb each other on these processors.

    Raises:
        FarmError: a process did not answer.
    """
    groups = [processors[at : at + threads] for at in range(0, len(processors) - threads + 1, threads)][:MOST]
    draw = random.Random(seed)
    with (start or living)(groups) as jobs:
        ratios = [_round(jobs, draw) for _ in range(ROUNDS)]
    ratio, low, high = statistics.paired_ratio([ratios]) or (1.0, 1.0, 1.0)
    return Disturbance(threads=threads, jobs=len(groups), ratio=ratio, low=low, high=high)


def advice(found: Sequence[Disturbance], is_busy: bool = False, at_most: int | None = None) -> str:
    """How many workers to start with how many threads: the most jobs at once that do each other no harm.

    Args:
        found: what was measured.
        is_busy: whether others used the host meanwhile: then harm may have been theirs.
        at_most: threads that there is time for, where that is fewer than processors; None is all of them.
    """
    limited = "" if at_most is None else f" --threads {at_most}"
    harmless = [disturbance for disturbance in found if disturbance.high <= _HARMLESS]
    if harmless:
        best = max(harmless, key=lambda disturbance: disturbance.jobs)
        larger = f"larger jobs, one worker with{limited}" if limited else _ALONE
        return (
            f"{best.jobs} times: python -m workers --device cpu --threads {best.threads}\n"
            f"(jobs with {best.threads} threads each; for {larger})"
        )
    undecided = is_busy or any(disturbance.low <= _HARMLESS for disturbance in found)
    again = (
        "\nThe host was too restless to tell more: run this again while nothing else runs here."
        if undecided
        else ""
    )
    how_many = "all processors" if at_most is None else f"the threads that there is time for ({at_most})"
    return f"once, with {how_many}: python -m workers --device cpu{limited}{again}"


def _round(jobs: Sequence[Job], draw: random.Random) -> float:
    """A window alone and one beside the others, whichever comes first; how much longer a call took beside them."""
    alone_first = draw.random() < 0.5
    first = _window(jobs[:1] if alone_first else jobs)
    second = _window(jobs if alone_first else jobs[:1])
    return second / first if alone_first else first / second


def _window(jobs: Sequence[Job]) -> float:
    """Seconds per call of the first job; the others have begun before it and end after it."""
    watched, *others = jobs
    for job in others:
        job.begin(WINDOW_S + 2 * _OVERLAP_S)
    if others:
        time.sleep(_OVERLAP_S)
    watched.begin(WINDOW_S)
    found = watched.seconds_per_call()
    for job in others:
        job.seconds_per_call()
    return found


# ---- the live processes


class _Process:
    """One of them, seen from outside."""

    def __init__(self, processors: Sequence[int]) -> None:
        named = ",".join(map(str, processors))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, named], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, seconds: float) -> None:
        """As a job does."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # found when it is asked for its answer
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()

    def seconds_per_call(self) -> float:
        """As a job does.

        Raises:
            FarmError: it has ended.
        """
        assert self._process.stdout is not None
        try:
            return float(self._process.stdout.readline())
        except ValueError:
            raise FarmError("A process that computes ended early; what it said is above.") from None

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def living(groups: Sequence[Sequence[int]]) -> Iterator[Sequence[Job]]:
    """Processes that have warmed up, each on its processors."""
    with contextlib.ExitStack() as held:
        jobs = [_Process(group) for group in groups]
        for job in jobs:
            held.callback(job.end)
        for job in jobs:
            job.begin(WINDOW_S)
        for job in jobs:
            job.seconds_per_call()
        yield jobs


def main() -> None:
    """One of the processes: a convolution as DenseNet-121 has them, on some images per thread."""
    processors = [int(name) for name in sys.argv[1].split(",")]
    os.sched_setaffinity(0, processors)  # before torch looks how many there are
    import torch

    torch.set_num_threads(len(processors))
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1)
    images = torch.ones(4 * len(processors), 64, 56, 56)
    with torch.inference_mode():
        for line in sys.stdin:
            began, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - began < float(line):
                convolution(images)
                calls += 1
            print((time.perf_counter() - began) / calls, flush=True)


if __name__ == "__main__":
    main()
