"""What the page's script decides by, in the reader's browser, as `results_store.recommend` does (pure).

The rule is Python's. What of it does not depend on what the reader asks for is reckoned here, by the very same
functions, and goes into the page's data: of each row the readings with their intervals, what it is ranked by, and
the moments of its repeats; of each group what the controls deviate by. `decide.js` does the rest, and tests in a
browser hold its answers against those of `recommend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from farm import statistics
from farm.verdict import Level
from results_store import recommend
from results_store.collate import MIN_REPEATS, Row
from results_store.constraints import METRICS, Metric
from results_store.question import OBJECTIVES

#: Number, mean and variance of logs; the number alone where there are too few to claim anything.
_Moments: TypeAlias = list[float]

#: What the reader may want; `cost` is throughput with a price, for which the page has a field of its own.
GOALS: Mapping[str, str] = {
    "throughput": "most samples/s",
    "latency": "quickest answer",
    "energy": "least energy",
}
#: The CSV's columns of metrics; what is not there has none.
_COLUMNS = {
    **{f"max_p{q}_ms": f"latency_p{q}_ms" for q in statistics.FLOORS},
    "min_throughput": "throughput_samples_sec",
    "min_speedup": "speedup",
    "min_top1": "accuracy_top1",
    "max_ram_mb": "ram_usage_mb",
    "max_vram_mb": "vram_usage_mb",
    "max_size_mb": "model_size_mb",
    "max_energy_j": "energy_per_sample_j",
}
#: Metrics that are shown in other units than their flags take: (factor, unit).
_SHOWN = {"min_top1": (100, "%"), "max_top1_drop": (100, "points")}


def rule() -> dict[str, Any]:
    """What is the same for every run."""
    return {
        "metrics": {metric.key: _metric(metric) for metric in METRICS.values()},
        "objectives": {
            name: {
                "metric": OBJECTIVES[name].metric.key,
                "takes": OBJECTIVES[name].takes,
                "is_timed": OBJECTIVES[name].metric in recommend.TIMED,
            }
            for name in GOALS
        },
        "axes": [metric.key for metric in recommend.USUAL_AXES],
        "min_repeats": MIN_REPEATS,
        "confidence": statistics.ANSWERS,
    }


def limits(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The fields of the form: those that are asked for most, and the others.

    Args:
        rows: of the run; of percentiles below p99 the highest that they state is among the first.
    """
    found = [row for row in rows if row.is_usable]
    tails = [f"max_p{q}_ms" for q in sorted(statistics.FLOORS, reverse=True)]
    stated = [key for key in tails if any(METRICS[key].reading(row).value is not None for row in found)]
    first = list(dict.fromkeys(("max_p99_ms", *stated[:1], "min_top1")))
    others = [key for key in METRICS if key not in first]
    return [_field(METRICS[key]) for key in first], [_field(METRICS[key]) for key in others]


def of_rows(members: Sequence[Row], shown: Iterable[Row]) -> Iterator[dict[str, Any] | None]:
    """What each row brings into any decision; None for one that nobody chooses.

    Args:
        members: all rows of a place: the live controls of all of them make what a row is ranked by.
        shown: of them, those that are on the page.
    """
    usable = [row for row in members if row.is_usable]
    groups = recommend.alike(usable)
    ranked = {metric.key: recommend.estimates(usable, groups, metric) for metric in recommend.TIMED}
    places = {id(row): n for n, row in enumerate(usable)}
    for row in shown:
        n = places.get(id(row))
        estimates = {} if n is None else {key: column[n] for key, column in ranked.items()}
        yield None if n is None else _basis(row, groups[n], estimates)


def _basis(row: Row, group: int, estimates: dict[str, float | None]) -> dict[str, Any]:
    return {
        "is_valid": row.verdict is not None and row.verdict.level is Level.VALID,
        "alike": group,
        "readings": {metric.key: _reading(row, metric) for metric in METRICS.values()},
        "estimates": estimates,
        "repeats": {name: _moments(recommend.logs(row, OBJECTIVES[name], recommend.REPEATS)) for name in GOALS},
        "ratios": _moments(recommend.logs(row, OBJECTIVES["throughput"], recommend.RATIOS)),
    }


def bias(members: Iterable[Row], batches: Iterable[int]) -> dict[str, float]:
    """What the controls of a place deviate by: with all batch sizes (`any`), and with only one of these."""
    alone: dict[int, list[Row]] = {size: [] for size in batches}
    usable = [row for row in members if row.is_usable]
    for row in usable:
        if row.cell.batch_size in alone:
            alone[row.cell.batch_size].append(row)
    return {"any": recommend.bias(usable), **{str(size): recommend.bias(rows) for size, rows in alone.items()}}


def _metric(metric: Metric) -> dict[str, Any]:
    factor, unit = _SHOWN.get(metric.key, (1, metric.unit))
    return {
        "flag": metric.flag,
        "name": metric.name,
        "column": _COLUMNS.get(metric.key),
        "better": metric.better,
        "factor": factor,
        "unit": unit,
    }


def _field(metric: Metric) -> dict[str, Any]:
    factor, unit = _SHOWN.get(metric.key, (1, metric.unit))
    side = "at least" if metric.better > 0 else "at most"
    most = metric.most * factor
    return {
        "key": metric.key,
        "label": f"{metric.name} {side}, {unit}" if unit else f"{metric.name} {side}",
        "most": most if np.isfinite(most) else None,
    }


def _reading(row: Row, metric: Metric) -> list[float | None] | str | None:
    """A figure with the ends of its interval, why there is none, or None where its device has nothing to keep."""
    if row.cell.device_kind not in metric.device_kinds:
        return None
    found = metric.reading(row)
    return " ".join(found.why.split()) if found.value is None else [found.value, found.low, found.high]


def _moments(logs: Sequence[float]) -> _Moments:
    if len(logs) < MIN_REPEATS:
        return [len(logs)]
    return [len(logs), float(np.mean(logs)), float(np.var(logs, ddof=1))]
