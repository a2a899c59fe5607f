"""`benchmark_jobs.csv`: a row for every job of the matrix, measured or not: what each repeat came to by itself.

`benchmark_results.csv` has what the repeats of a cell say together. Jobs are read one by one, and forgotten once
they are written: a run may have as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from farm import statistics
from farm.measurement import Measurement
from farm.verdict import Verdict
from results_store import collate
from results_store.collate import Collated, Speedup
from results_store.exporters import _table
from results_store.exporters._table import Cell as _Cell
from results_store.store import JobResult

FILE = "benchmark_jobs.csv"
#: It needs no rows.
BY_JOB = True

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a job's measurement comes to."""

    measurement: Measurement
    verdict: Verdict
    #: Nanoseconds by the name of the statistic, None below its floor on samples.
    device: Mapping[str, float | None]
    #: The median, in nanoseconds.
    end_to_end_p50: float | None
    speedup: Speedup | None


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A job; `measured` is None where it was not."""

    result: JobResult
    measured: _Measured | None


def write(collated: Collated, path: Path) -> None:
    """Writes the jobs; the file is replaced as a whole, once everything is on the disk."""
    _table.write(path, COLUMNS, ((column(line) for column in COLUMNS.values()) for line in _lines(collated)))


def _lines(collated: Collated) -> Iterator[_Line]:
    for result in collated.jobs():
        found = result.measurement
        yield _Line(result=result, measured=None if found is None else _measured(found, collated.verdict(found)))


def _measured(found: Measurement, verdict: Verdict) -> _Measured:
    return _Measured(
        measurement=found,
        verdict=verdict,
        device=statistics.summarize(found.samples.device_ns),
        end_to_end_p50=statistics.percentile(found.samples.end_to_end_ns, 50),
        speedup=collate.speedup([found.speedups]),
    )


def _of(pick: Callable[[_Measured], _Cell]) -> Callable[[_Line], _Cell]:
    """A column of what was measured: empty where nothing was."""
    return lambda line: None if line.measured is None else pick(line.measured)


def _ms(pick: Callable[[_Measured], float | None]) -> Callable[[_Line], _Cell]:
    """A column of milliseconds from nanoseconds."""

    def column(measured: _Measured) -> _Cell:
        nanoseconds = pick(measured)
        return None if nanoseconds is None else nanoseconds / 1e6

    return _of(column)


def _speedup(name: str) -> Callable[[_Line], _Cell]:
    return _of(lambda m: getattr(m.speedup, name, None))


def _when(measured: _Measured) -> str:
    return datetime.fromtimestamp(measured.measurement.started_at, UTC).isoformat(timespec="seconds")


#: Every column and where its value comes from.
COLUMNS: Mapping[str, Callable[[_Line], _Cell]] = {
    "job_id": lambda line: line.result.job_id,
    "model_variant": lambda line: line.result.spec.variant,
    "batch_size": lambda line: line.result.spec.batch_size,
    "device": lambda line: line.result.spec.device,
    "optimization_technique": lambda line: str(line.result.spec.recipe),
    "repeat": lambda line: line.result.spec.repeat,
    "outcome": lambda line: collate.outcome([line.result]),
    "verdict": _of(lambda m: str(m.verdict.level)),
    "verdict_reasons": _of(lambda m: "; ".join(map(str, m.verdict.reasons))),
    "reason": lambda line: line.result.reason,
    "latency_mean_ms": _ms(lambda m: m.device["mean"]),
    "latency_std_ms": _ms(lambda m: m.device["std"]),
    "latency_min_ms": _ms(lambda m: m.device["min"]),
    "latency_p50_ms": _ms(lambda m: m.device["p50"]),
    "latency_p90_ms": _ms(lambda m: m.device["p90"]),
    "latency_p95_ms": _ms(lambda m: m.device["p95"]),
    "latency_p99_ms": _ms(lambda m: m.device["p99"]),
    "end_to_end_p50_ms": _ms(lambda m: m.end_to_end_p50),
    "calls": _of(lambda m: len(m.measurement.samples.device_ns)),
    "throughput_samples_sec": _of(lambda m: collate.throughput(m.measurement)),
    "speedup": _speedup("value"),
    "speedup_low": _speedup("low"),
    "speedup_high": _speedup("high"),
    "ram_usage_mb": _of(
        lambda m: (memory.peak_bytes - memory.floor_bytes) / _MIB if (memory := m.measurement.memory) else None
    ),
    "accuracy_samples": _of(lambda m: m.measurement.accuracy.samples),
    "top1_correct": _of(lambda m: m.measurement.accuracy.top1_correct),
    "agreeing": _of(lambda m: m.measurement.accuracy.agreeing),
    "page_faults_per_call": _of(lambda m: m.measurement.usage.faults_per_call),
    "first_call_ms": _of(lambda m: m.measurement.first_call_s * 1e3),
    "warmup_s": _of(lambda m: m.measurement.warmup_s),
    "load_s": _of(lambda m: m.measurement.load_s),
    "attempts": lambda line: line.result.attempts,
    "remeasured": lambda line: line.result.remeasured,
    "measured_by": lambda line: line.result.measured_by,
    "worker": lambda line: line.result.worker_id,
    "model": lambda line: line.result.spec.model,
    "dataset": lambda line: line.result.spec.dataset,
    "image_size": lambda line: line.result.spec.image_size,
    "protocol": lambda line: line.result.spec.protocol.name,
    "environment_key": lambda line: line.result.environment_key,
    "host": _of(lambda m: m.measurement.environment.host),
    "run_id": lambda line: line.result.run_id,
    "measured_at": _of(_when),
}
