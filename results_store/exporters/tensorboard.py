"""`tensorboard/`: TensorBoard's event files, a log for each model variant and device; a step is a batch size.

A row that is INVALID has its verdict and reasons there, but no point and no histogram: what a silent fallback
measured must not be taken for the recipe's figure.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from farm.inside import inside
from farm.spec import Cell
from results_store.collate import Collated, Figures, Row
from results_store.exporters import _whole
from results_store.store import JobResult

FILE = "tensorboard"

#: What tells a row, and the measurements in it, from all others: cell, class of the worker, class of the process.
_Key: TypeAlias = tuple[Cell, str | None, str | None]

_MIB = 1 << 20

#: Every scalar, by its tag; TensorBoard groups them by what stands before the stroke.
SCALARS: Mapping[str, Callable[[Figures], float | None]] = {
    "latency_ms/p50": lambda f: _scaled(f.device.p50, 1e3),
    "latency_ms/p90": lambda f: _scaled(f.device.p90, 1e3),
    "latency_ms/p99": lambda f: _scaled(f.device.p99, 1e3),
    "end_to_end_ms/p50": lambda f: _scaled(f.end_to_end.p50, 1e3),
    "throughput/samples_per_s": lambda f: f.throughput,
    "speedup/paired": lambda f: None if f.speedup is None else f.speedup.value,
    "speedup/unpaired": lambda f: f.speedup_unpaired,
    "accuracy/top1_pct": lambda f: None if f.top1 is None else f.top1.value * 100,
    "memory/ram_mib": lambda f: _scaled(f.ram_bytes, 1 / _MIB),
    "model/size_mib": lambda f: f.model_size_bytes / _MIB,
    "model/build_s": lambda f: f.build_s,
}
#: Every histogram of raw samples, by its tag: nanoseconds.
HISTOGRAMS: Mapping[str, Callable[[JobResult], tuple[int, ...]]] = {
    "samples/device_ms": lambda result: result.measurement.samples.device_ns if result.measurement else (),
    "samples/end_to_end_ms": lambda result: result.measurement.samples.end_to_end_ns if result.measurement else (),
}
VERDICT = "verdict"


def write(collated: Collated, path: Path) -> None:
    """Writes every log into a new folder, which then takes the place of the old one."""
    with _whole.folder(path, lambda name: "tfevents" in name) as fresh:
        _write_logs(collated, fresh)


def _write_logs(collated: Collated, folder: Path) -> None:
    # imported late: only who writes such files needs what it needs
    from results_store.exporters import _events

    drawn = {_key_of(row) for row in collated.rows if _is_drawn(row)}
    histograms = {
        key: [_events.histogram(tag, values) for tag, values in samples.items() if values]
        for key, samples in _samples(collated)
        if key in drawn
    }
    for log, rows in _logs(collated.rows).items():
        # TensorBoard drops what it has read of a tag when a step is not beyond the last one
        ordered = sorted(rows, key=lambda row: row.cell.batch_size)
        values = ([*_own_values(row), *histograms.get(_key_of(row), [])] for row in ordered)
        events = (
            _events.event(row.cell.batch_size, _when(row), found)
            for row, found in zip(ordered, values, strict=True)
        )
        _events.save(events, inside(folder, log))


# ---- logs


def _logs(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each log, by its folder. Where rows are of several environment classes, each has its own log."""
    classes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        classes[_variant(row)] |= {name for name in [_class(row)] if name}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        several, own = len(classes[_variant(row)]) > 1, _class(row)
        found[f"{_variant(row)}-{own}" if several and own else _variant(row)].append(row)
    return found


def _variant(row: Row) -> str:
    return f"{row.cell.variant}/{row.cell.device}"


def _class(row: Row) -> str | None:
    """The environment class that measured it, or else of the worker that had it; None without either."""
    return row.figures.environment.key if row.figures else row.environment_key


def _when(row: Row) -> float:
    """Seconds since the epoch; now, for what was not measured."""
    return row.figures.measured_at if row.figures else time.time()


# ---- what a log shows of a row


def _own_values(row: Row) -> Iterator[Any]:
    from results_store.exporters import _events

    yield _events.text(VERDICT, _verdict(row))
    if row.figures is None or not _is_drawn(row):
        return
    for tag, pick in SCALARS.items():
        value = pick(row.figures)
        if value is not None and math.isfinite(value):
            yield _events.scalar(tag, value)


def _is_drawn(row: Row) -> bool:
    return row.figures is not None and not row.is_invalid


def _verdict(row: Row) -> str:
    """The verdict, or how an unmeasured row ended, and why, as Markdown."""
    said = str(row.verdict.level) if row.verdict else row.outcome
    reasons = [*map(str, row.verdict.reasons if row.verdict else ()), *([row.reason] if row.reason else [])]
    lines = [f"**{said}**, {row.repeats_measured} of {row.repeats_wanted} repeats measured"]
    return "\n".join([*lines, "", *(f"- {' '.join(reason.split())}" for reason in reasons)]).strip()


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


# ---- raw samples


def _samples(collated: Collated) -> Iterator[tuple[_Key, dict[str, list[float]]]]:
    """Milliseconds by tag, of all repeats of a row together; those of one cell at a time."""
    for _, results in groupby(collated.measured(), key=lambda result: result.cell_ordinal):
        found: dict[_Key, dict[str, list[float]]] = {}
        for result in results:
            into = found.setdefault(_key_of_result(result), {tag: [] for tag in HISTOGRAMS})
            for tag, pick in HISTOGRAMS.items():
                into[tag] += [ns / 1e6 for ns in pick(result)]
        yield from found.items()


def _key_of(row: Row) -> _Key:
    return row.cell, row.environment_key, row.figures.environment.key if row.figures else None


def _key_of_result(result: JobResult) -> _Key:
    measured = result.measurement
    return result.spec.cell, result.environment_key, measured.environment.key if measured else None
