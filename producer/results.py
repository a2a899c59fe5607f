"""The results of a run as a table for the terminal: what most people look for first. The CSV has the rest."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from results_store.collate import Row

_MIB = 1 << 20
_STYLES = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def table(rows: Iterable[Row]) -> Table:
    """One line per cell and environment, in the order of the matrix."""
    found = Table(box=None, pad_edge=False)
    found.add_column("variant", no_wrap=True)
    for name in ("batch size", "device", "latency ms", "samples/s", "top-1 %", "size MiB"):
        found.add_column(name, justify="left" if name == "device" else "right")
    found.add_column("verdict")
    for row in rows:
        found.add_row(*_figures(row), _outcome(row))
    return found


def notes(rows: Iterable[Row]) -> list[str]:
    """Why a row is not valid or not measured, a line for each such row."""
    lines = []
    for row in rows:
        reasons = [" ".join(str(reason).split()) for reason in (row.verdict.reasons if row.verdict else ())]
        why = "; ".join([*reasons, *([" ".join(row.reason.split())] if row.reason else [])])
        if why:
            lines.append(f"{row.cell.variant} batch {row.cell.batch_size} {row.cell.device}: {why}")
    return lines


def _figures(row: Row) -> list[Text]:
    figures = row.figures
    values = [row.cell.variant, str(row.cell.batch_size), row.cell.device]
    if figures is None:
        values += ["", "", "", ""]
    else:
        values += [
            _number(figures.device.p50, 1e3, 3),
            _number(figures.throughput, 1, 1),
            _number(None if figures.top1 is None else figures.top1.value, 100, 2),
            _number(figures.model_size_bytes, 1 / _MIB, 2),
        ]
    return [Text(value) for value in values]


def _outcome(row: Row) -> Text:
    """The verdict of what was measured, else how it ended."""
    if row.verdict is None:
        return Text(row.outcome)
    level = str(row.verdict.level)
    return Text(level, style=_STYLES.get(level, ""))


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
