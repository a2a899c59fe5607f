"""`benchmark_results.md`: a table for a README or an issue, with the reasons of what is doubted beneath it.

Figures stand with their 95 % intervals. Those of INVALID rows are struck through: they are shown, and count
nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from results_store.collate import Collated
from results_store.exporters import _whole
from results_store.exporters.csv import COLUMNS as CSV

FILE = "benchmark_results.md"

#: A row by the CSV's names: as it is collated, or as a CSV file has it.
Record: TypeAlias = Mapping[str, str | float | int | None]

#: The CSV's columns that a table is made of.
_READ = (
    "model_variant",
    "batch_size",
    "device",
    *("latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms"),
    *("speedup", "speedup_low", "speedup_high", "speedup_unpaired"),
    *("throughput_samples_sec", "throughput_low", "throughput_high"),
    *("accuracy_top1", "accuracy_top1_low", "accuracy_top1_high"),
    "model_size_mb",
    "verdict",
    "verdict_reasons",
    "outcome",
    "reason",
)
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
        file.write(f"Run {escaped(collated.run_id)}; in parentheses 95 % intervals.\n\n")
        file.writelines(f"{line}\n" for line in table(_records(collated)))
        doubts = [line for record in _records(collated) for line in _doubts(record)]
        if doubts:
            file.write("\n")
            file.writelines(f"{line}\n" for line in doubts)


def _records(collated: Collated) -> Iterator[Record]:
    return ({name: CSV[name](row) for name in _READ} for row in collated.rows)


def table(records: Iterable[Record]) -> Iterator[str]:
    """The lines of the table; columns that a record does not have are empty."""
    yield _line(_COLUMNS)
    yield _line(":--" if name in _LEFT else "--:" for name in _COLUMNS)
    for record in records:
        yield _line(_cells(record))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(record: Record) -> Iterator[str]:
    yield from (_of(record, name) for name in ("model_variant", "batch_size", "device"))
    is_invalid = record.get("verdict") == "INVALID"
    yield from (f"~~{text}~~" if text and is_invalid else text for text in _figures(record))
    yield _of(record, "verdict") or _of(record, "outcome")


def _figures(record: Record) -> Iterator[str]:
    yield _number(record, "latency_p50_ms", 3, "latency_p50_low_ms", "latency_p50_high_ms")
    unpaired = _number(record, "speedup_unpaired", 2)
    yield _number(record, "speedup", 2, "speedup_low", "speedup_high") or (unpaired and f"{unpaired} unpaired")
    yield _number(record, "throughput_samples_sec", 1, "throughput_low", "throughput_high")
    yield _number(record, "accuracy_top1", 2, "accuracy_top1_low", "accuracy_top1_high")
    yield _number(record, "model_size_mb", 1)


def _number(record: Record, name: str, digits: int, *ends: str) -> str:
    """A figure with its interval where that is known; empty where it is not known itself."""
    value, *interval = (record.get(one) for one in (name, *ends))
    if value is None or value == "":
        return ""
    told = f"{float(value):.{digits}f}"
    known = [f"{float(end):.{digits}f}" for end in interval if end is not None and end != ""]
    return f"{told} ({'–'.join(known)})" if len(known) == 2 else told


def _doubts(record: Record) -> Iterator[str]:
    reasons = [_of(record, name) for name in ("verdict_reasons", "reason") if record.get(name)]
    if reasons:
        which = f"{_of(record, 'model_variant')} batch {_of(record, 'batch_size')} {_of(record, 'device')}"
        yield f"- {which}: {'; '.join(reasons)}"


def _of(record: Record, name: str) -> str:
    value = record.get(name)
    return "" if value is None else escaped(str(value))


def escaped(text: str) -> str:
    """A text as Markdown shows it, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
