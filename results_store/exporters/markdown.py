"""`benchmark_results.md`: a table for a README or an issue, with the reasons of what is doubted beneath it.

Figures stand with their 95 % intervals. Those of INVALID rows are struck through: they are shown, and count
nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from results_store.collate import Collated, Figures, Row
from results_store.exporters import _whole

FILE = "benchmark_results.md"

_MIB = 1 << 20
_COLUMNS = (
    "variant",
    "batch size",
    "device",
    "latency p50, ms",
    "speed-up",
    "samples/s",
    "top-1, %",
    "size, MiB",
    "verdict",
)
_LEFT = ("variant", "device", "verdict")
#: What Markdown, or the HTML that may stand in it, would take for something else than text.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~#&])")


def write(collated: Collated, path: Path) -> None:
    """Writes the table; the file is replaced as a whole."""
    with _whole.file(path) as file:
        file.writelines(f"{line}\n" for line in _lines(collated))


def _lines(collated: Collated) -> Iterator[str]:
    yield f"Run {_text(collated.run_id)}; in parentheses 95 % intervals."
    yield ""
    yield _line(_COLUMNS)
    yield _line(":--" if name in _LEFT else "--:" for name in _COLUMNS)
    for row in collated.rows:
        yield _line(_cells(row))
    doubts = [line for row in collated.rows for line in _doubts(row)]
    if doubts:
        yield ""
        yield from doubts


def _line(cells: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> Iterator[str]:
    yield from (_text(row.cell.variant), str(row.cell.batch_size), _text(row.cell.device))
    figures = _figures(row.figures) if row.figures else [""] * 5
    yield from (f"~~{text}~~" if text and row.is_invalid else text for text in figures)
    yield str(row.verdict.level) if row.verdict else _text(row.outcome)


def _figures(figures: Figures) -> list[str]:
    device, top1 = figures.device, figures.top1
    return [
        _number(device.p50, 3, 1e3, device.p50_low, device.p50_high),
        _speedup(figures),
        _number(figures.throughput, 1, 1, figures.throughput_low, figures.throughput_high),
        "" if top1 is None else _number(top1.value, 2, 100, top1.low, top1.high),
        _number(figures.model_size_bytes, 1, 1 / _MIB),
    ]


def _speedup(figures: Figures) -> str:
    found = figures.speedup
    if found is not None:
        return _number(found.value, 2, 1, found.low, found.high)
    return f"{_number(figures.speedup_unpaired, 2)} unpaired" if figures.speedup_unpaired is not None else ""


def _number(
    value: float | None, digits: int, scale: float = 1, low: float | None = None, high: float | None = None
) -> str:
    if value is None:
        return ""
    interval = "" if low is None or high is None else f" ({low * scale:.{digits}f}–{high * scale:.{digits}f})"
    return f"{value * scale:.{digits}f}{interval}"


def _doubts(row: Row) -> Iterator[str]:
    reasons = [*map(str, row.verdict.reasons if row.verdict else ()), *([row.reason] if row.reason else [])]
    if reasons:
        which = f"{row.cell.variant} batch {row.cell.batch_size} {row.cell.device}"
        yield f"- {_text(which)}: {_text('; '.join(reasons))}"


def _text(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
