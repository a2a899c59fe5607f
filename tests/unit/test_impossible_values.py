"""What a broken counter or clock says is not known, and keeps no run from its report, its files and its answer."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from farm.measurement import Samples
from farm.spec import JobSpec
from results_store import recommend_table
from results_store.collate import export
from results_store.question import OBJECTIVES, Question
from results_store.recommend import recommend
from tests import factories
from tests.reports import collated, plausible

#: By the column that is empty for it.
IMPOSSIBLE: dict[str, tuple[str, dict[str, Any]]] = {
    "calls that took no time": (
        "throughput_samples_sec",
        {"samples": Samples(device_ns=(0,) * 200, end_to_end_ns=(1,) * 200)},
    ),
    "a control that took no time": ("speedup", {"control": factories.baseline_beside(0.0)}),
    "energy that is no number": ("energy_per_sample_j", {"energy": factories.energy(joules=math.nan)}),
    "energy that was won": ("energy_per_sample_j", {"energy": factories.energy(joules=-1)}),
    "a build that is no number": ("build_time_s", {"build_s": math.nan}),
    "a load without end": ("load_s", {"load_s": math.inf}),
}


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("case", IMPOSSIBLE)
@pytest.mark.parametrize("repeats", [1, 3])
def test_what_cannot_have_been_is_empty_and_all_is_written(tmp_path: Path, case: str, repeats: int) -> None:
    column, fields = IMPOSSIBLE[case]

    def ended(spec: JobSpec) -> dict[str, Any]:
        return plausible(spec) | (fields if str(spec.recipe) == "compile" else {})

    run = collated(ended, recipes=("baseline", "compile"), batches=(8,), repeats=repeats)
    for name in ("csv", "json", "markdown", "model_info", "jobs", "report"):
        assert export(run, tmp_path, name).exists()
    with (tmp_path / "benchmark_results.csv").open(newline="") as file:
        by_recipe = {row["optimization_technique"]: row for row in csv.DictReader(file)}
    assert by_recipe["compile"][column] == ""
    for objective in OBJECTIVES:
        found = recommend(run.rows, Question(objective=objective, prices={"cpu": 0.1}))
        json.dumps(recommend_table.as_json("run", found), allow_nan=False)
        list(recommend_table.shown("run", found))
