"""How much of the farm's time is measuring? And what do the farm's own processes take while it measures?

A `quick` matrix of 60 jobs (three recipes, twenty repeats; the first of each starts cold and has more passes) runs
in an embedded farm, its artifacts built before. The share of the wall time, from the first claim to the last
result, that lies in warm-up and timed windows has to be at least 80 %; the supervisor may use at most 2 % of a
processor. Then a matrix of 1-thread jobs runs on one worker and on two side by side: two may take at most 0.55 of
the time.

    python -m benchmarks.farm_overhead
    python -m benchmarks.farm_overhead --repeats 3 --model resnet18 --skip-two
    python -m benchmarks.farm_overhead --only-two        # the rest of it comes from `clean_runs`, too

Wants a quiet host. The data directory is FARM_DATA_DIR, as everywhere. The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import closing

from benchmarks.figures import Figure, print_last
from farm.measurement import Measurement
from farm.settings import load
from results_store.store import JobResult, open_store

RECIPES = "baseline,channels_last+amp,onnxruntime"
SHARE, SUPERVISOR, TWO = 0.80, 0.02, 0.55


def run(*arguments: str) -> list[JobResult]:
    """Submits to an embedded farm and waits: the results of the run's jobs and of its controls."""
    command = [sys.executable, "-m", "producer", "submit-matrix", "--local", "--wait", "--again", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    with closing(open_store(load().database)) as store:
        run_id = store.run("latest").run_id
        return [*store.results(run_id), *store.controls(run_id)]


def supervisor_share(results: list[JobResult]) -> float:
    """Share of a processor that the supervisor used while a child's calls were timed, over all jobs."""
    found = [r.measurement.telemetry for r in results if r.measurement and r.measurement.telemetry]
    used = [counter.total for telemetry in found if (counter := telemetry.counters.get("supervisor_cpu_s"))]
    return sum(used) / sum(telemetry.window_s for telemetry in found)


def seconds(results: list[JobResult]) -> tuple[float, float]:
    """(Wall time from the first job's start to the last one's end, of it in warm-up and timed windows.)"""
    found = [result.measurement for result in results if result.measurement is not None]
    if len(found) < len(results):
        raise SystemExit(f"{len(results) - len(found)} of {len(results)} jobs were not measured")
    wall_s = max(m.ended_at for m in found) - min(m.started_at for m in found)
    return wall_s, sum(map(in_windows, found))


def in_windows(measurement: Measurement) -> float:
    """Seconds of warm-up and timed windows."""
    assert measurement.timed_from is not None
    assert measurement.timed_until is not None
    return measurement.warmup_s + measurement.timed_until - measurement.timed_from


def main() -> None:
    """Builds what is missing, runs the matrices, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--recipes", default=RECIPES, help="joined by commas")
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--batch-size", default="8")
    part = arguments.add_mutually_exclusive_group()
    part.add_argument("--skip-two", action="store_true", help="without the two workers")
    part.add_argument("--only-two", action="store_true", help="nothing but the two workers")
    given = arguments.parse_args()
    asked = ["--models", given.model, "--batch-sizes", given.batch_size, "--protocol", "quick"]
    asked += ["--set", "remeasure=0"]
    figures: list[Figure] = []
    if not given.only_two:
        whole = [*asked, "--optimizations", given.recipes]
        run(*whole, "--repeats", "1")
        figures += overhead(run(*whole, "--repeats", str(given.repeats)))
    if not given.skip_two:
        figures.append(two_workers(asked, given.repeats))
    print_last(figures)


def overhead(results: list[JobResult]) -> list[Figure]:
    """Of a `quick` matrix: its share in warm-up and windows, and what the supervisor took meanwhile."""
    used = supervisor_share(results)
    wall_s, timed_s = seconds(results)
    print(f"{len(results)} jobs in {wall_s:.1f} s, {timed_s:.1f} s of it in warm-up and windows")
    print(f"the supervisor used {used:.2%} of a processor while calls were timed")
    share = timed_s / wall_s
    return [
        Figure(
            name=f"share of {len(results)} quick jobs ({wall_s / len(results):.1f} s each) in warm-up and windows",
            result=f"{share:.1%}",
            goal="≥ 80 %",
            reached=share >= SHARE,
        ),
        Figure(name="supervisor's processor", result=f"{used:.2%}", goal="≤ 2 %", reached=used <= SUPERVISOR),
    ]


def two_workers(asked: list[str], repeats: int) -> Figure:
    """1-thread jobs on one worker and on two."""
    single = [*asked, "--optimizations", "baseline,channels_last", "--threads", "1"]
    run(*single, "--repeats", "1")
    one_s, two_s = (
        seconds(run(*single, "--repeats", str(repeats), "--workers", str(workers)))[0] for workers in (1, 2)
    )
    print(f"1-thread jobs: {one_s:.1f} s on one worker, {two_s:.1f} s on two")
    return Figure(
        name="1-thread jobs: time of two workers ÷ of one",
        result=f"{two_s / one_s:.2f}",
        goal="≤ 0.55",
        reached=two_s / one_s <= TWO,
    )


if __name__ == "__main__":
    main()
