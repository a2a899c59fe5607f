"""Can a speed-up be trusted? Two equal things must show no difference, and a real 3 % must be found.

Each set is a fresh process with the baseline and its live control, forked by it as in every paired measurement.
The farm's own rounds, of a window of the control and one of the cell, take turns with rounds in which the cell
really waits, busily, for 3 % of each call's time within the timed call. So a set is one repeat of an A/A cell and
one of a cell that is slower by 3 %, in two processes that are as unlike as any two. What is made of the sets:

- the standard deviation of the A/A ratio over sets;
- trials of the very rule by which a row says faster, slower or no difference found, at 10 repeats as in
  `standard`, beyond what 10 other A/A repeats deviate by, which stand for the baseline's own row: real trials take
  disjoint groups of sets in the order of measuring, many more resample sets;
- the smallest change that 10 and, as in `thorough`, 30 repeats find 8 times of 10, by resampling.

    python -m benchmarks.aa_control                                # about 25 minutes on 2 processors
    python -m benchmarks.aa_control --read .farm/aa_control_1.json   # the figures again, from what was kept

A set has as few rounds as there may be, where no more are asked for, in short windows; `standard` goes on from
there until its interval is narrow, so its repeats spread less. Goals: a standard deviation of at most 2 %; no
difference in 95 of 100 A/A trials; the 3 % in 95 of 100.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import alternating
from benchmarks.figures import Figure, print_last
from farm.settings import load
from farm.spec import JobSpec, Protocol, job
from farm.statistics import FLOORS
from farm.timing import Stopwatch
from results_store.collate import Answer, Speedup, speedup

SLOWED = 0.03
STANDARD, THOROUGH = 10, 30
SD, SHARE = 0.02, 0.95

PROTOCOL = Protocol(
    name="aa", warmup_min_s=0.3, warmup_max_s=1.0, window_s=0.1, accuracy_samples=64, profile=False
)

_RESAMPLED = 4000


def slowed(watch: Stopwatch) -> Stopwatch:
    """The same, but each call takes 3 % longer."""

    def call(batch: Any) -> Any:
        began = time.perf_counter_ns()
        output = watch.call(batch)
        watch.synchronize()  # else, on a GPU, only launching it would be slowed
        until = began + (1 + SLOWED) * (time.perf_counter_ns() - began)
        while time.perf_counter_ns() < until:
            pass
        return output

    return replace(watch, call=call)


def ratios_of(spec: JobSpec, rounds: int, seed: int) -> list[list[float]]:
    """Control ÷ cell and control ÷ slowed cell, (2, rounds); in a process that has computed nothing yet."""
    from farm import allocator, control, measuring
    from farm.passes.device_figure import Rounds

    allocator.apply(spec.recipe.allocator)
    settings, order = load(), random.Random(seed)
    with closing(control.fork(spec, settings)) as live:
        live.load()
        cell = measuring.prepare(spec, settings).on_device
        warm_up, _ = cell.warm_up(spec.protocol)
        cell_s = float(np.median(warm_up.samples_ns)) / 1e9
        ways = [Rounds(watch, live, spec.protocol.window_s, cell_s) for watch in (cell, slowed(cell))]
        for _ in range(rounds):
            for way in order.sample(ways, 2):
                way.round(cell_first=order.random() < 0.5)
        return [way.ratios for way in ways]


def _tell(spec: JobSpec, rounds: int, seed: int, pipe: Connection) -> None:
    pipe.send(ratios_of(spec, rounds, seed))


def measured(spec: JobSpec, sets: int, rounds: int) -> dict[str, Any]:
    """The ratios of all rounds, (sets, 2, rounds), and of what."""
    context, found = alternating.warm(), []
    for number in range(sets):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_tell, args=(spec, rounds, number, theirs))
        process.start()
        theirs.close()  # else its death would not be noticed
        found.append(ours.recv())
        process.join()
        if number % 20 == 19:
            print(f"{number + 1} of {sets} sets", flush=True)
    return {"spec": spec.model_dump(mode="json"), "ratios": found}


def trial(repeats: np.ndarray, own: np.ndarray) -> Speedup:
    """What a row would say whose repeats had these ratios, (repeats, rounds), and its baseline's row those."""
    return _speedup(repeats).answered(bias=_bias(own))


def real_trials(sets: np.ndarray, equal: np.ndarray) -> list[Speedup]:
    """Disjoint groups in the order of measuring; what the next group of A/A sets deviates by is the bias."""
    groups = [slice(n, n + STANDARD) for n in range(0, len(sets) - STANDARD + 1, STANDARD)]
    return [
        trial(sets[ours], equal[next_one]) for ours, next_one in zip(groups, [*groups[1:], groups[0]], strict=True)
    ]


def resampled(sets: np.ndarray, equal: np.ndarray, repeats: int, seed: int = 0) -> list[Speedup]:
    """Trials whose repeats are drawn from the sets, and their baseline's from the A/A sets, with replacement."""
    return [trial(sets[ours], equal[own]) for ours, own in _drawn(len(sets), repeats, seed)]


def smallest_found(equal: np.ndarray, repeats: int) -> float:
    """The slowdown that is found 8 times of 10, as a share of the time.

    A slowdown moves the interval of the log-ratio and leaves its width, so each trial finds one that brings the
    high end below the bias; the least that 8 of 10 find is a quantile of these.
    """
    draws = _drawn(len(equal), repeats, 0)
    ends = [_speedup(equal[ours]).deciding()[1] + _bias(equal[own]) for ours, own in draws]
    return float(np.expm1(np.quantile(ends, 0.8)))


def _speedup(repeats: np.ndarray) -> Speedup:
    found = speedup(repeats.tolist())
    assert found is not None
    return found


def _bias(own: np.ndarray) -> float:
    """How far the log-ratio of these repeats of a cell that is its own control is from 0."""
    return abs(math.log(_speedup(own).value))


def _drawn(sets: int, repeats: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(seed)
    for _ in range(_RESAMPLED):
        ours, own = draw.integers(sets, size=(2, repeats))
        yield ours, own


def figures(ratios: Sequence[Any] | np.ndarray) -> list[Figure]:
    """All that is published, from the ratios of all rounds, (sets, 2, rounds)."""
    equal, slowed = np.moveaxis(np.asarray(ratios, dtype=np.float64), 1, 0)
    logs = np.median(np.log(equal), axis=1)
    sd = float(np.expm1(logs.std(ddof=1)))
    same = _share(resampled(equal, equal, STANDARD), Answer.SAME)
    found = _share(resampled(slowed, equal, STANDARD), Answer.SLOWER)
    least = smallest_found(equal, STANDARD), smallest_found(equal, THOROUGH)
    print(f"{len(equal)} sets: A/A ratio {np.exp(logs.mean()):.4f}, slowed {_middle(slowed):.4f}")
    return [
        Figure(name="A/A ratio, sd over sets", result=f"{sd:.2%}", goal="≤ 2 %", reached=sd <= SD),
        Figure(
            name="A/A trials that say 'no difference found'",
            result=f"{same:.1%} resampled, {_counted(equal, equal, Answer.SAME)} real",
            goal="≥ 95 %",
            reached=same >= SHARE,
        ),
        Figure(
            name="trials that find a call slowed by 3 %, standard",
            result=f"{found:.1%} resampled, {_counted(slowed, equal, Answer.SLOWER)} real",
            goal="≥ 95 %",
            reached=found >= SHARE,
        ),
        Figure(
            name="smallest slowdown found 8 times of 10",
            result=f"{least[0]:.2%} at {STANDARD} repeats, {least[1]:.2%} at {THOROUGH}",
            goal="published",
            reached=True,
        ),
    ]


def _middle(sets: np.ndarray) -> float:
    return float(np.exp(np.median(np.log(sets), axis=1).mean()))


def _share(trials: Sequence[Speedup], wanted: Answer) -> float:
    return sum(found.answer is wanted for found in trials) / len(trials)


def _counted(sets: np.ndarray, equal: np.ndarray, wanted: Answer) -> str:
    trials = real_trials(sets, equal)
    return f"{sum(found.answer is wanted for found in trials)} of {len(trials)}"


def prepared(model: str, dataset: str, batch_size: int) -> JobSpec:
    """The baseline, with all that it needs built."""
    from farm.measuring import measure

    once = PROTOCOL.model_copy(update={"min_s": 0.1, "max_s": 0.2, "paired": False})
    spec = job(model=model, dataset=dataset, batch_size=batch_size, protocol=once)
    measure(spec)
    return spec.model_copy(update={"protocol": PROTOCOL})


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--sets", type=int, default=200, help="of two fresh processes each")
    arguments.add_argument("--rounds", type=int, default=FLOORS[50], help="of two windows each way, in each set")
    arguments.add_argument("--batch-size", type=int, default=1)
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--dataset", default="digits")
    arguments.add_argument(
        "--keep",
        type=Path,
        metavar="PATH",
        help="write the ratios of all rounds there, as JSON  [default: .farm/aa_control_BATCHSIZE.json]",
    )
    arguments.add_argument("--read", type=Path, metavar="PATH", help="measure nothing: take what was kept there")
    given = arguments.parse_args()
    if given.sets < 2 * STANDARD:
        arguments.error(f"--sets must be {2 * STANDARD} or more: so many make a trial and its baseline's row")
    if given.read is not None:
        made = json.loads(given.read.read_text())
    else:
        made = measured(prepared(given.model, given.dataset, given.batch_size), given.sets, given.rounds)
        kept = given.keep or load().data_dir / f"aa_control_{given.batch_size}.json"
        kept.write_text(json.dumps(made))
        print(f"the ratios of all rounds: {kept}")
    print_last(figures(made["ratios"]))


if __name__ == "__main__":
    main()
