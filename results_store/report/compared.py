"""The page of two runs compared: what changed in the environment, what became faster or slower, and what not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from farm.measurement import Environment
from results_store import compare_table
from results_store.collate import Answer, Row
from results_store.compare import Report
from results_store.report import charts, page

#: Lines of the table: those that changed most; `--json` has all.
_MOST_LISTED = 2500
#: Fields of an environment that are recorded and do not keep results from being compared.
_RECORDED = ("host", "os", "memory_bytes", "commit", "device_uuid")


def write(report: Report, path: Path, tolerated_percent: float = 0.0) -> None:
    """Writes the page; the file is replaced as a whole, once everything is on the disk."""
    told = compare_table.as_json(report, tolerated_percent)
    cells = [
        {**cell, "variant": comparison.cell.variant, "sizes": list(compare_table.sizes(comparison))}
        for cell, comparison in zip(told["cells"], report.comparisons, strict=True)
    ]
    ordered = sorted(cells, key=lambda cell: (not cell["regression"], -abs(cell["change_percent"] or 0.0)))
    counted = Counter(str(comparison.answer) for comparison in report.comparisons)
    data = {
        "columns": {},
        "rows": [],
        "groups": [],
        "run": {"change": {"*": asdict(charts.changes(report.comparisons))}},
        **charts.SCHEME,
    }
    context = {
        "a": report.a,
        "b": report.b,
        "heading": compare_table.heading(report),
        "sentence": told["sentence"],
        "regressions": told["regressions"],
        "counted": {str(answer): counted[str(answer)] for answer in Answer},
        "unlike": report.unlike,
        "recorded": _recorded(report),
        "cells": ordered[:_MOST_LISTED],
        "of": len(cells),
        "medians": _medians,
    }
    page.save("compared.html.j2", path, data, context)


def _recorded(report: Report) -> dict[str, tuple[str, str]]:
    """Fields that do not tell environments apart, and what they are in A and in B, where that is not the same."""
    a, b = (_seen(rows) for rows in zip(*((one.a, one.b) for one in report.comparisons), strict=True))
    return {name: (a[name], b[name]) for name in _RECORDED if a[name] != b[name]}


def _seen(rows: Iterable[Row | None]) -> Mapping[str, str]:
    """Every value of each field, in one line."""
    where = [row.figures.environment for row in rows if row is not None and row.figures is not None]
    return {
        name: ", ".join(dict.fromkeys(_shown(environment, name) for environment in where)) for name in _RECORDED
    }


def _shown(environment: Environment, name: str) -> str:
    value = getattr(environment, name)
    return "none" if value is None else str(value)


def _medians(cell: dict[str, Any]) -> Sequence[str]:
    """The median latency of A and of B in milliseconds, where they were measured."""
    return [
        "–" if not side or side["latency_p50_s"] is None else f"{side['latency_p50_s'] * 1e3:.3f}"
        for side in (cell["a"], cell["b"])
    ]
