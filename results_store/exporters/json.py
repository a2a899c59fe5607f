"""`benchmark_results.json`: the rows with the names and units of `benchmark_results.csv`, not rounded.

Beside what the CSV has, a row holds its cell with the protocol, its environment, and each reason of its verdict.
What could not be observed is null.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from results_store.collate import Collated, Row
from results_store.exporters import _whole
from results_store.exporters.csv import COLUMNS

FILE = "benchmark_results.json"

#: Columns whose text in the CSV is a list or an object here.
_TOLD_APART = ("evidence", "missing", "verdict_reasons", "job_ids")


def write(collated: Collated, path: Path) -> None:
    """Writes the rows, one at a time; the file is replaced as a whole."""
    with _whole.file(path) as file:
        file.write(f'{{"run_id": {json.dumps(collated.run_id)}, "rows": [')
        for n, row in enumerate(collated.rows):
            file.write(",\n" if n else "\n")
            json.dump(as_json(row), file, allow_nan=False)
        file.write("\n]}\n")


def as_json(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    plain = {name: finite(column(row)) for name, column in COLUMNS.items() if name not in _TOLD_APART}
    figures = row.figures
    return plain | {
        "verdict_reasons": [
            {"code": reason.code, "level": str(reason.level), "text": reason.text}
            for reason in (row.verdict.reasons if row.verdict else ())
        ],
        "job_ids": list(row.job_ids),
        "missing": figures.missing if figures else {},
        "evidence": finite(figures.evidence) if figures else None,
        "cell": row.cell.model_dump(mode="json"),
        "environment": figures.environment.model_dump(mode="json") if figures else None,
    }


def finite(value: Any) -> Any:
    """The same without what JSON has no number for: null stands for it."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
