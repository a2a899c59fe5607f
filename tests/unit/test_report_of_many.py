"""The report of more recipes than its charts have room for: it says what is left out, and its words are of all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from farm.spec import JobSpec
from results_store.collate import export
from results_store.report import charts
from results_store.report.cells import Group, grouped
from results_store.report.observed import observe
from tests import factories
from tests.reports import Page, collated, plausible

#: The more is pruned, the smaller the model, the slower it is, and the longer its start.
RECIPES = ("baseline", *(f"pruning({share / 100:g})" for share in range(10, 70)))


def ended(spec: JobSpec) -> dict[str, Any]:
    share = spec.recipe.share or 0.0
    return {
        **plausible(spec, calls=40, paired=False),
        "samples": factories.samples(10 * (1 + share), 11 * (1 + share), calls=40),
        "model_size_bytes": int((100 - 100 * share) * (1 << 20)),
        "load_s": 0.2 + share,
    }


@cache
def group() -> Group:
    [found] = grouped(collated(ended, recipes=RECIPES, batches=(8,)).rows)
    return found


def chart(name: str) -> charts.Chart:
    found = charts.of_group(group(), observe(collated(ended, recipes=RECIPES, batches=(8,)), group().entries))[
        name
    ]
    return found.get("8") or found["*"]


def test_the_least_and_the_longest_are_those_of_all_also_where_they_have_no_line() -> None:
    size, start = chart("size"), chart("start")
    assert "pruning(0.69)" not in str(size.figure)
    assert size.says.startswith("At batch 8 the least is 31.0 MiB with pruning(0.69).")
    assert "for pruning(0.69)." in start.says
    # a baseline has nothing to pay off
    for found, more in ((size, 31), (start, 31), (chart("spread"), 31), (chart("pays"), 30)):
        assert found.says.endswith(f" The 30 of the highest throughput; {more} more are among all cells.")


def test_every_line_of_the_overview_says_in_which_environment_it_was_measured(tmp_path: Path) -> None:
    def elsewhere(spec: JobSpec) -> dict[str, Any]:
        where = factories.environment(device_model=f"CPU number {spec.batch_size}")
        return {**plausible(spec), "environment": where}

    run = collated(elsewhere, recipes=("baseline",), batches=(1, 2, 4, 8))
    text = Page(export(run, tmp_path, "report")).text
    overview = text.partition("most samples/s with")[2].partition("What it costs")[0]
    # in the table, and once more over the first answer
    assert [overview.count(f"CPU number {size},") for size in (1, 2, 4, 8)] == [2, 1, 1, 1]


def test_recipes_that_are_not_drawn_are_counted_and_the_legend_counts_those_that_are() -> None:
    found = chart("throughput")
    assert found.figure is not None
    names = [trace["name"] for trace in found.figure["data"]]
    # the baseline and six recipes have lines of their own
    assert names[0] == "30 other recipes"
    assert "24 recipes more: in the table, not drawn." in found.says
    assert len(found.cells) == len(RECIPES)
