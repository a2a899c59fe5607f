"""`models/model_info.json`: what each model was made into, as far as what was measured knows it.

By model and recipe: parameters, multiply-accumulates, origin of the weights, and for each cell the input's shape,
the size of its files, how long they took to build and what the build told (opset, nodes of the graph, …).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from farm.recipe import AXES
from results_store.collate import Collated, Figures, Row
from results_store.exporters import _whole
from results_store.exporters.json import finite

FILE = "models/model_info.json"

_CHANNELS = 3


def write(collated: Collated, path: Path) -> None:
    """Writes what was measured; the file is replaced as a whole, its folder is made where it is missing."""
    path.parent.mkdir(exist_ok=True)
    with _whole.file(path) as file:
        found = {"run_id": collated.run_id, "models": finite(_models(collated.rows))}
        json.dump(found, file, indent=1, allow_nan=False)
        file.write("\n")


def _models(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.figures is None:
            continue
        recipes = found.setdefault(row.cell.model, {})
        recipe = recipes.setdefault(str(row.cell.recipe), {**_made(row.figures, row), "cells": []})
        recipe["cells"].append(_cell(row, row.figures))
    return found


def _made(figures: Figures, row: Row) -> dict[str, Any]:
    """What a recipe makes of a model, whatever the batch size and device."""
    return {
        "parameters": figures.parameters,
        "macs": figures.macs,
        "weights": {"asked": row.cell.weights, "origin": figures.evidence.get("weights")},
        "compression": figures.evidence.get("compression"),
        "axes": {axis: row.cell.recipe.on(axis) for axis in AXES},
    }


def _cell(row: Row, figures: Figures) -> dict[str, Any]:
    size = row.cell.image_size
    return {
        "batch_size": row.cell.batch_size,
        "device": row.cell.device,
        "input_shape": [row.cell.batch_size, _CHANNELS, size, size],
        "dtype": figures.evidence.get("dtype"),
        "dataset": row.cell.dataset,
        "model_size_bytes": figures.model_size_bytes,
        "build_s": figures.build_s,
        "build": figures.evidence.get("build"),
        "verdict": str(row.verdict.level) if row.verdict else None,
        "environment_key": row.environment_key,
        "cell_key": row.cell.key,
        "job_id": row.job_id,
    }
