"""The results of a run as a table for the terminal: what most people look for first. The CSV has the rest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from rich.table import Table
from rich.text import Text

from farm.verdict import passes
from results_store.collate import Figures, Row

_MIB = 1 << 20
#: Rows that a note names.
_NAMED = 3
_PAIRED = (
    "Times moved while they were measured. --protocol standard measures each recipe beside the baseline, "
    "so that what moves both leaves the speed-up as it is; it takes longer."
)
_STYLES = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def table(rows: Iterable[Row]) -> Table:
    """One line per cell and environment, in the order of the matrix."""
    found = Table(box=None, pad_edge=False)
    found.add_column("variant", no_wrap=True)
    for name in ("batch size", "device", "latency ms", "95 %", "speed-up", "samples/s", "top-1 %", "size MiB"):
        found.add_column(name, justify="left" if name == "device" else "right")
    found.add_column("verdict")
    for row in rows:
        found.add_row(*_figures(row), _outcome(row))
    return found


def notes(rows: Iterable[Row]) -> list[str]:
    """Why rows are not valid or not measured, a line for all that share a reason; and what to do about it."""
    said: dict[str, list[Row]] = {}
    for row in rows:
        reasons = [" ".join(str(reason).split()) for reason in (row.verdict.reasons if row.verdict else ())]
        why = "; ".join([*reasons, *([" ".join(row.reason.split())] if row.reason else [])])
        if why:
            said.setdefault(why, []).append(row)
    lines = [f"{_named(alike)}: {why}" for why, alike in said.items()]
    if any(map(_is_shaken, chain.from_iterable(said.values()))):
        lines.append(_PAIRED)
    return lines


def _named(rows: list[Row]) -> str:
    """The first few by name, the others counted."""
    names = [f"{row.cell.variant} batch {row.cell.batch_size} {row.cell.device}" for row in rows]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_shaken(row: Row) -> bool:
    """Whether its times moved, and a live control might have moved with them, had it one."""
    reasons = row.verdict.reasons if row.verdict else ()
    return not row.cell.protocol.paired and any(r.code == "unstable" and passes(r) for r in reasons)


def _figures(row: Row) -> list[Text]:
    figures = row.figures
    values = [row.cell.variant, str(row.cell.batch_size), row.cell.device]
    if figures is None:
        values += [""] * 6
    else:
        values += [
            _number(figures.device.p50, 1e3, 3),
            _interval(figures.device.p50_low, figures.device.p50_high, 1e3, 3),
            _speedup(figures),
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


def _speedup(figures: Figures) -> str:
    """The ratio to the live control with its interval; without one that of two rows, and says so."""
    if figures.speedup is not None:
        return f"{figures.speedup.value:.2f} ({_interval(figures.speedup.low, figures.speedup.high, 1, 2)})"
    return "" if figures.speedup_unpaired is None else f"{figures.speedup_unpaired:.2f} unpaired"


def _interval(low: float | None, high: float | None, scale: float, digits: int) -> str:
    return "" if low is None or high is None else f"{_number(low, scale, digits)}–{_number(high, scale, digits)}"


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
