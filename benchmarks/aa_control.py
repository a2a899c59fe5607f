"""Can the farm's comparisons be trusted? A/A pairs must show no difference, and a real 3 % must be found.

Two live processes, fresh for each pair, hold the very same baseline and are timed in short windows that take
turns, as a cell and its live control are. One such pair gives one repeat's value, the log of the median ratio. In
other pairs one of the two really waits, busily, for 3 % of each call's time within the timed call. What is made of
the windows:

- the standard deviation of the ratio over pairs;
- trials of the very rule of `results_store compare`, at 10 repeats a side as in `standard`: a result against
  another one, with the bias that two more groups of A/A pairs showed. Real trials take disjoint groups in the
  order of measuring (an A/A trial takes two groups, so 400 pairs make 20); many more resample pairs;
- the smallest change that 30 repeats a side, as in `thorough`, find 8 times of 10, by resampling.

    python -m benchmarks.aa_control --keep aa.json                  # about half an hour on 2 cores
    python -m benchmarks.aa_control --pairs 400 --slowed-pairs 200 --keep aa.json
    python -m benchmarks.aa_control --read aa.json                  # the figures again, from what was kept

Goals: a standard deviation of at most 2 %; no difference in 95 of 100 A/A trials; the 3 % in 95 of 100.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import alternating
from farm.spec import JobSpec, Protocol, job
from results_store.compare import Answer, Difference, deviation, differ

SLOWED = 0.03
STANDARD, THOROUGH = 10, 30
GOALS = {"sd": 0.02, "no_difference": 0.95, "found": 0.95}

#: What a process that is forked from the warm one need not import; nothing is computed there.
_WARM = ["torch", "torchvision", "sklearn.datasets", "scipy.stats", "farm.building", "farm.measuring"]
_WARM += ["farm.torch_session", "farm.passes.latency", "farm.runtimes.eager", "farm.datasets.digits"]
_WARM += ["farm.models.torchvision_zoo", "safetensors.torch"]
_RESAMPLED = 4000


def slowed_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The farm's way, but each call takes 3 % longer."""
    watch = alternating.farm_stopwatch(spec)

    def call(batch: Any) -> Any:
        began = time.perf_counter_ns()
        output = watch.call(batch)
        watch.synchronize()  # else, on a GPU, only launching it would be slowed
        until = began + (1 + SLOWED) * (time.perf_counter_ns() - began)
        while time.perf_counter_ns() < until:
            pass
        return output

    return alternating.window_of(replace(watch, call=call))


def measured(spec: JobSpec, pairs: int, slowed_pairs: int, rounds: int) -> dict[str, Any]:
    """Medians of all windows in nanoseconds, by kind: (pairs, rounds, 2), the cell first; kinds take turns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WARM)
    makers = {"aa": alternating.farm_window, "slowed": slowed_window}
    windows: dict[str, list[Any]] = {"aa": [], "slowed": []}
    for seed, kind in enumerate(_order(pairs, slowed_pairs)):
        pair = [(makers[kind], spec), (alternating.farm_window, spec)]
        # the first round warms up
        windows[kind].append(alternating.rounds(pair, rounds + 1, seed, context)[1:].tolist())
        print(f"\r{seed + 1} of {pairs + slowed_pairs} pairs", end="", flush=True)
    print()
    return {"spec": spec.model_dump(mode="json"), "windows_ns": windows}


def _order(pairs: int, slowed_pairs: int) -> list[str]:
    """Both kinds spread evenly, so that drift falls on both alike."""
    places = [(n / pairs, "aa") for n in range(pairs)] + [
        (n / slowed_pairs, "slowed") for n in range(slowed_pairs)
    ]
    return [kind for _, kind in sorted(places)]


def logs(windows: Sequence[Any]) -> np.ndarray:
    """A value for each pair, as `compare` takes one for each repeat: log of the cell's time ÷ its control's."""
    medians = np.asarray(windows, dtype=np.float64).reshape(len(windows), -1, 2)
    found: np.ndarray = np.median(np.log(medians[..., 0] / medians[..., 1]), axis=1)
    return found


def trial(a: np.ndarray, b: np.ndarray, controls: Sequence[np.ndarray]) -> Difference:
    """One comparison, as of a run of one recipe and its baseline with another such run."""
    return differ(a.tolist(), b.tolist(), bias=deviation([control.tolist() for control in controls]))


def real_trials(aa: np.ndarray, slowed: np.ndarray | None = None) -> list[Answer]:
    """Disjoint groups in the order of measuring; the A/A pairs that tell the bias are the next two groups."""
    groups = _groups(aa)
    controls = [[groups[(n + 2) % len(groups)], groups[(n + 3) % len(groups)]] for n in range(len(groups))]
    if slowed is None:
        chosen = range(0, len(groups) - 1, 2)
        return [trial(groups[n], groups[n + 1], controls[n]).answer for n in chosen]
    return [trial(a, b, c).answer for a, b, c in zip(groups, _groups(slowed), controls, strict=False)]


def _groups(pairs: np.ndarray) -> list[np.ndarray]:
    return [pairs[n : n + STANDARD] for n in range(0, len(pairs) - STANDARD + 1, STANDARD)]


def resampled(aa: np.ndarray, b: np.ndarray, repeats: int, seed: int = 0) -> list[Difference]:
    """Trials whose groups are drawn from the pairs, with replacement."""
    draw = np.random.default_rng(seed)
    return [
        trial(draw.choice(aa, repeats), draw.choice(b, repeats), list(draw.choice(aa, (2, repeats))))
        for _ in range(_RESAMPLED)
    ]


def smallest_found(aa: np.ndarray, repeats: int) -> float:
    """The slowdown that is found 8 times of 10, as a share.

    A shift of B's logs moves the interval and leaves its width, so each trial finds a shift from its own
    bias − low on; the least that 8 of 10 find is a quantile of these.
    """
    needed = [found.bias - found.low for found in resampled(aa, aa, repeats)]
    return float(np.expm1(np.quantile(needed, 0.8)))


def figures(windows: dict[str, list[Any]]) -> dict[str, Any]:
    """All that is published, from the windows."""
    aa, slowed = logs(windows["aa"]), logs(windows["slowed"])
    same = [found.answer for found in resampled(aa, aa, STANDARD)]
    slower = [found.answer for found in resampled(aa, slowed, STANDARD)]
    return {
        "pairs": len(aa),
        "slowed_pairs": len(slowed),
        "sd": float(np.expm1(aa.std(ddof=1))),
        "mean_ratio": float(np.exp(aa.mean())),
        "slowed_ratio": float(np.exp(slowed.mean())),
        "no_difference": _share(same, Answer.SAME),
        "no_difference_in_real_trials": _counted(real_trials(aa), Answer.SAME),
        "found": _share(slower, Answer.SLOWER),
        "found_in_real_trials": _counted(real_trials(aa, slowed), Answer.SLOWER),
        "standard_finds": smallest_found(aa, STANDARD),
        "thorough_finds": smallest_found(aa, THOROUGH),
    }


def _share(answers: Sequence[Answer], wanted: Answer) -> float:
    return answers.count(wanted) / len(answers)


def _counted(answers: Sequence[Answer], wanted: Answer) -> list[int]:
    return [answers.count(wanted), len(answers)]


def reached(found: dict[str, Any]) -> bool:
    """Whether the goals are."""
    return bool(
        found["sd"] <= GOALS["sd"]
        and found["no_difference"] >= GOALS["no_difference"]
        and found["found"] >= GOALS["found"]
    )


def show(found: dict[str, Any]) -> None:
    """The figures, for people."""
    same, slower = found["no_difference_in_real_trials"], found["found_in_real_trials"]
    print(f"{found['pairs']} A/A pairs: ratio {found['mean_ratio']:.4f}, sd {found['sd']:.2%}, goal ≤ 2 %")
    print(f"  no difference in {found['no_difference']:.1%} of trials, goal ≥ 95 %; real: {same[0]} of {same[1]}")
    print(f"{found['slowed_pairs']} pairs slowed by {SLOWED:.0%}: ratio {found['slowed_ratio']:.4f}")
    print(f"  found in {found['found']:.1%} of trials, goal ≥ 95 %; real: {slower[0]} of {slower[1]}")
    print("smallest slowdown that is found 8 times of 10:")
    print(f"  {found['standard_finds']:.2%} at {STANDARD} repeats, {found['thorough_finds']:.2%} at {THOROUGH}")


def prepared(model: str, dataset: str, batch_size: int) -> JobSpec:
    """The baseline, with all that it needs built."""
    from farm.measuring import measure

    protocol = Protocol(
        name="once", warmup_max_s=0.1, warmup_min_s=0.1, min_s=0.1, max_s=0.2, paired=False, accuracy_samples=64
    )
    spec = job(model=model, dataset=dataset, batch_size=batch_size, protocol=protocol)
    measure(spec)
    return spec


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=200, help="A/A pairs of fresh processes")
    arguments.add_argument("--slowed-pairs", type=int, default=200, help="pairs of which one is slowed by 3 %%")
    arguments.add_argument("--rounds", type=int, default=7, help="of two windows, in each pair")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--dataset", default="digits")
    arguments.add_argument("--keep", type=Path, metavar="PATH", help="write all windows' medians there, as JSON")
    arguments.add_argument("--read", type=Path, metavar="PATH", help="measure nothing: take what was kept there")
    given = arguments.parse_args()
    if min(given.pairs, given.slowed_pairs) < 2:
        arguments.error("--pairs and --slowed-pairs must be 2 or more")
    if given.read is not None:
        made = json.loads(given.read.read_text())
    else:
        spec = prepared(given.model, given.dataset, given.batch_size)
        made = measured(spec, given.pairs, given.slowed_pairs, given.rounds)
    if given.keep is not None:
        given.keep.write_text(json.dumps(made))
    found = figures(made["windows_ns"])
    show(found)
    print(json.dumps({"goals": GOALS, **found, "reached": reached(found)}))


if __name__ == "__main__":
    main()
