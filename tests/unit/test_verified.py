"""`docs/verified.md` says of every recipe that comes with the project where it has run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from producer import request

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verified.md"
ROW = re.compile(r"^\| (?:`[^`]+`)? ?\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", ["densenet121-cpu", "densenet121-every-recipe-cpu", "densenet121-gpu"])
def test_every_recipe_of_the_matrices_has_a_row(name: str) -> None:
    rows = {recipe for recipe, _, _ in ROW.findall(PAGE.read_text())}
    matrix = request.matrix({}, PAGE.parents[1] / "matrices" / f"{name}.toml")
    assert {str(recipe) for recipe in matrix.optimizations} - rows == set()


def test_no_recipe_has_two_rows_and_none_says_nothing() -> None:
    rows = ROW.findall(PAGE.read_text())
    recipes = [recipe for recipe, _, _ in rows]
    assert len(recipes) == len(set(recipes)) > 40
    assert all(cpu.strip() and gpu.strip() for _, cpu, gpu in rows)
