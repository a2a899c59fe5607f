"""`benchmark_samples.csv`: every raw sample, tidy: a row for each timed call of each measurement.

`figure` says what the call is of: `device`, `end_to_end`, or `control`, the baseline alive beside the cell. Calls
are counted from 0 in the order in which they were made; where a control lives, `round` is the pair of windows that
the call was in, so that a round's ratio can be made again. The verdict is the measurement's own. Few measurements
are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

from farm.measurement import Measurement
from farm.verdict import Verdict
from results_store.collate import Collated
from results_store.exporters import _table
from results_store.store import JobResult

FILE = "benchmark_samples.csv"

COLUMNS = (
    "model_variant",
    "batch_size",
    "device",
    "optimization_technique",
    "repeat",
    "figure",
    "round",
    "call",
    "latency_ns",
    "verdict",
    "environment_key",
    "job_id",
    "run_id",
)

BY_JOB = True


def write(collated: Collated, path: Path) -> None:
    """Writes the samples as they are read."""
    lines = (_lines(result, collated.verdict) for result in collated.measured())
    _table.write(path, COLUMNS, chain.from_iterable(lines))


def _lines(result: JobResult, judge: Callable[[Measurement], Verdict]) -> Iterator[tuple[_table.Cell, ...]]:
    found, spec = result.measurement, result.spec
    if found is None:
        return
    what = (spec.variant, spec.batch_size, spec.device, str(spec.recipe), spec.repeat)
    whence = (str(judge(found).level), result.environment_key, result.measured_by, result.run_id)
    for figure, samples, rounds in _figures(found):
        for call, (ns, round_) in enumerate(zip(samples, rounds, strict=False)):
            yield (*what, figure, round_, call, ns, *whence)


def _figures(found: Measurement) -> Iterator[tuple[str, Sequence[int], Iterator[int | None]]]:
    """Each figure's samples, and the round of each call."""
    control = found.control
    yield "device", found.samples.device_ns, _rounds(control.cell_calls if control else ())
    yield "end_to_end", found.samples.end_to_end_ns, _rounds(())
    if control is not None:
        yield "control", control.device_ns, _rounds(control.control_calls)


def _rounds(calls: Sequence[int]) -> Iterator[int | None]:
    """The round of one call after the other; None for those in no round."""
    in_rounds = (repeat(number, count) for number, count in enumerate(calls))
    return chain(chain.from_iterable(in_rounds), repeat(None))
