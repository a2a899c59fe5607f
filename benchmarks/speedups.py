"""How much faster than eager fp32 are the farm's recipes, on DenseNet-121 at 224×224?

All recipes of a batch size, the baseline, and the baseline in a process whose allocator nobody tuned
(`system_malloc`, what most people compare with) are alive at once, each in a process of its own; short windows
take turns in an order drawn at random. A speed-up is the median of the ratios of the windows of one round, with
its interval. How far each recipe's logits are from fp32's is measured beside it.

    python -m benchmarks.speedups --batch-sizes 1,8,32 --rounds 15

Goals, at every batch size: the fastest at least 4.5 times as fast as the baseline (and 6, 6 and 12 times as
fast as under `system_malloc`); without 8 bits and with logits within 3 %, at least 2.5; exact fp32, at least 1.3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks import alternating
from farm.precision import PRECISIONS
from farm.spec import JobSpec, changed, job, preset

RECIPES = (
    "onnxruntime",
    "openvino",
    "channels_last+bf16+compile",
    "bf16+openvino",
    "int8_static+compile",
    "int8_static+openvino",
)
GOALS = {"all": 4.5, "without int8": 2.5, "fp32": 1.3}
#: Against `system_malloc`, by batch size.
UNTOUCHED_GOALS = {1: 6.0, 8: 6.0, 32: 12.0}
LOGITS_ERROR = 0.03

#: Just enough to build and to ask for answers: what is timed here is timed in windows.
SHORT = ("warmup_min_s=0", "warmup_max_s=0.1", "min_s=0.1", "max_s=0.2", "min_calls=1", "accuracy_samples=64")


def logits_error(spec: JobSpec) -> float:
    """Builds what is missing, in a process of its own, and says how far the logits are from fp32's."""
    changed = [f"--set={change}" for change in SHORT]
    command = ["measure", "--model", spec.model, "--recipe", str(spec.recipe), "--dataset", spec.dataset]
    sized = ["--batch-size", str(spec.batch_size), "--image-size", str(spec.image_size)]
    done = subprocess.run(
        [sys.executable, "-m", "farm", *command, *sized, *changed], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["outcome"] != "ok":
        raise SystemExit(f"{spec.variant}: {found['outcome']}: {found['reason']}")
    return float(found["accuracy"]["logits_relative_error"])


def speedups(model: str, batch_size: int, recipes: list[str], count: int, image_size: int) -> dict[str, Any]:
    """Speed-ups of the recipes at one batch size, over the baseline and over the untouched one."""
    names = ["baseline", "system_malloc", *recipes]
    shared: dict[str, Any] = {"model": model, "batch_size": batch_size, "dataset": "synthetic"}
    shared["image_size"] = image_size
    specs = [job(recipe=name, protocol=changed(preset("quick")[0], SHORT), **shared) for name in names]
    errors = [logits_error(spec) for spec in specs]
    medians = alternating.rounds([(alternating.farm_window, spec) for spec in specs], count, seed=batch_size)
    print(f"{model}, batch {batch_size}, {image_size} pixels, {count} rounds")
    print(f"  {'recipe':34} {'over eager':>26} {'over system_malloc':>20} {'logits off by':>14}")
    rows = {}
    for number, (name, spec) in enumerate(zip(names, specs, strict=True)):
        over, low, high = alternating.interval(medians[:, 0] / medians[:, number])
        untouched, _, _ = alternating.interval(medians[:, 1] / medians[:, number])
        print(f"  {name:34} {over:8.2f} ({low:5.2f} to {high:5.2f}) {untouched:20.2f} {errors[number]:14.4f}")
        rows[name] = {
            "over_eager": over,
            "interval": [low, high],
            "over_system_malloc": untouched,
            "logits_relative_error": errors[number],
            "precision": spec.recipe.precision,
        }
    print(flush=True, end="")
    return rows


def judged(batch_size: int, rows: dict[str, Any]) -> dict[str, Any]:
    """The fastest of each kind against its goal."""
    chosen = {name: row for name, row in rows.items() if name not in ("baseline", "system_malloc")}
    near = {
        name: row
        for name, row in chosen.items()
        if not PRECISIONS[row["precision"]].is_int8 and row["logits_relative_error"] <= LOGITS_ERROR
    }
    kinds = {
        "all": chosen,
        "without int8": near,
        "fp32": {name: row for name, row in near.items() if row["precision"] == "fp32"},
    }
    found = {}
    for kind, members in kinds.items():
        name, row = max(members.items(), key=lambda item: item[1]["over_eager"])
        found[kind] = {"recipe": name, "over_eager": round(row["over_eager"], 2), "goal": GOALS[kind]}
        found[kind]["reached"] = row["over_eager"] >= GOALS[kind]
    best = max(row["over_system_malloc"] for row in chosen.values())
    goal = UNTOUCHED_GOALS.get(batch_size)
    found["over system_malloc"] = {"best": round(best, 2), "goal": goal, "reached": goal is None or best >= goal}
    return found


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--batch-sizes", default="1,8,32", help="joined by commas")
    arguments.add_argument("--recipes", default=",".join(RECIPES), help="joined by commas")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--image-size", type=int, default=224)
    arguments.add_argument("--model", default="densenet121")
    given = arguments.parse_args()
    recipes = given.recipes.split(",")
    figures = {}
    for batch_size in map(int, given.batch_sizes.split(",")):
        rows = speedups(given.model, batch_size, recipes, given.rounds, given.image_size)
        figures[batch_size] = judged(batch_size, rows)
    reached = all(kind["reached"] for kinds in figures.values() for kind in kinds.values())
    print(json.dumps({"batch_sizes": figures, "reached": reached}))


if __name__ == "__main__":
    main()
