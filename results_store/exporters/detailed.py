"""`benchmark_results_detailed.csv`: where each cell's time goes, a row for every operator of its profile.

Times are milliseconds per call of the model, with the profiler on: they say where time goes, and the latency
in `benchmark_results.csv` says how much there is of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from farm.measurement import Operator, Profile
from results_store.collate import Collated, Row
from results_store.exporters import _table

FILE = "benchmark_results_detailed.csv"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """An operator of a row's profile."""

    row: Row
    profile: Profile
    operator: Operator
    #: Of all operators that are kept together, in seconds.
    self_s: float


def write(collated: Collated, path: Path) -> None:
    """Writes the operators, of one cell at a time; nothing but a header where none was profiled."""
    _table.write(path, COLUMNS, ((column(line) for column in COLUMNS.values()) for line in _lines(collated)))


def _lines(collated: Collated) -> Iterator[_Line]:
    for row in collated.rows:
        profile = collated.profile(row)
        if profile is not None:
            self_s = sum(operator.self_s for operator in profile.operators)
            for operator in profile.operators:
                yield _Line(row=row, profile=profile, operator=operator, self_s=self_s)


def _ms(pick: Callable[[Operator], float | None]) -> Callable[[_Line], _table.Cell]:
    def column(line: _Line) -> _table.Cell:
        seconds = pick(line.operator)
        return None if seconds is None else seconds * 1e3

    return column


#: Every column and where its value comes from.
COLUMNS: Mapping[str, Callable[[_Line], _table.Cell]] = {
    "model_variant": lambda line: line.row.cell.variant,
    "batch_size": lambda line: line.row.cell.batch_size,
    "device": lambda line: line.row.cell.device,
    "optimization_technique": lambda line: str(line.row.cell.recipe),
    "operator": lambda line: line.operator.name,
    "provider": lambda line: line.operator.provider,
    "calls": lambda line: line.operator.calls,
    "profiled_calls": lambda line: line.profile.calls,
    "host_total_ms": _ms(lambda operator: operator.host_total_s),
    "host_self_ms": _ms(lambda operator: operator.host_self_s),
    "device_total_ms": _ms(lambda operator: operator.device_total_s),
    "device_self_ms": _ms(lambda operator: operator.device_self_s),
    "self_share_pct": lambda line: 100 * line.operator.self_s / line.self_s if line.self_s else None,
    "source": lambda line: line.profile.source,
    "verdict": lambda line: str(line.row.verdict.level) if line.row.verdict else None,
    "environment_key": lambda line: line.row.environment_key,
    "run_id": lambda line: line.row.run_id,
    "cell_key": lambda line: line.row.cell.key,
}
