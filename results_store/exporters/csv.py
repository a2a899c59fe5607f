"""`benchmark_results.csv`: thirteen fixed columns first, then everything else worth having."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from farm import statistics
from farm.measurement import GpuFacts
from results_store.collate import Collated, Figures, Latency, Row, Share
from results_store.exporters import _table
from results_store.exporters._table import Cell as _Cell

FILE = "benchmark_results.csv"

_MIB = 1 << 20
#: A percentile, and the ends of its interval.
_ENDS = ("", "_low", "_high")


def write(collated: Collated, path: Path) -> None:
    """Writes the rows; the file is replaced as a whole, once everything is on the disk."""
    _table.write(path, COLUMNS, ((column(row) for column in COLUMNS.values()) for row in collated.rows))


def _measured(pick: Callable[[Figures], _Cell], scale: float = 1) -> Callable[[Row], _Cell]:
    """A column of measured figures: empty where nothing was measured."""

    def column(row: Row) -> _Cell:
        value = None if row.figures is None else pick(row.figures)
        return value if value is None or isinstance(value, str) or scale == 1 else value * scale

    return column


def _latency(prefix: str, of: Callable[[Figures], Latency]) -> dict[str, Callable[[Row], _Cell]]:
    """The columns of one of the two latencies, in milliseconds."""
    return {
        f"{prefix}_{name}_ms": _measured(lambda f, name=name: getattr(of(f), name), 1e3)  # type: ignore[misc]
        for name in ("mean", "std", "min", *(f"p{q}{end}" for q in statistics.FLOORS for end in _ENDS))
    }


def _accuracy(prefix: str, of: Callable[[Figures], Share | None]) -> dict[str, Callable[[Row], _Cell]]:
    """The interval of a share, in percent."""

    def bound(side: str) -> Callable[[Row], _Cell]:
        return _measured(lambda f: getattr(of(f), side, None), 100)

    return {f"{prefix}_low": bound("low"), f"{prefix}_high": bound("high")}


def _speedup() -> dict[str, Callable[[Row], _Cell]]:
    """The ratio to the live control, its interval, and which recipe that was."""

    def part(name: str) -> Callable[[Row], _Cell]:
        return _measured(lambda f: getattr(f.speedup, name, None))

    names = {"speedup": "value", "speedup_low": "low", "speedup_high": "high"}
    return {**{column: part(name) for column, name in names.items()}, "control": _measured(lambda f: f.control)}


def _percent(of: Callable[[Figures], Share | None]) -> Callable[[Row], _Cell]:
    return _measured(lambda f: getattr(of(f), "value", None), 100)


def _package(name: str) -> Callable[[Row], _Cell]:
    return _measured(lambda f: f.environment.packages.get(name))


def _gpu(pick: Callable[[GpuFacts], _Cell]) -> Callable[[Row], _Cell]:
    """A column of what the driver says of the GPU: empty on a CPU, and where it does not say."""
    return _measured(lambda f: None if f.environment.gpu is None else pick(f.environment.gpu))


def _vram(figures: Figures) -> float | None:
    """The process as the driver sees it; in a container that hides it, what the allocator held."""
    return figures.vram_process_bytes if figures.vram_process_bytes is not None else figures.vram_allocator_bytes


def _when(figures: Figures) -> str:
    return datetime.fromtimestamp(figures.measured_at, UTC).isoformat(timespec="seconds")


#: Every column and where its value comes from. The first thirteen are a contract, in name and order.
COLUMNS: Mapping[str, Callable[[Row], _Cell]] = {
    "model_variant": lambda row: row.cell.variant,
    "batch_size": lambda row: row.cell.batch_size,
    "device": lambda row: row.cell.device,
    "ram_usage_mb": _measured(lambda f: f.ram_bytes, 1 / _MIB),
    "vram_usage_mb": _measured(_vram, 1 / _MIB),
    "cpu_utilization_pct": _measured(lambda f: f.cpu_utilization, 100),
    "gpu_utilization_pct": _measured(lambda f: f.gpu_utilization, 100),
    "latency_ms": _measured(lambda f: f.device.p50, 1e3),
    "throughput_samples_sec": _measured(lambda f: f.throughput),
    "accuracy_top1": _percent(lambda f: f.top1),
    "accuracy_top5": _percent(lambda f: f.top5),
    "model_size_mb": _measured(lambda f: f.model_size_bytes, 1 / _MIB),
    "optimization_technique": lambda row: str(row.cell.recipe),
    "outcome": lambda row: row.outcome,
    "verdict": lambda row: str(row.verdict.level) if row.verdict else None,
    "verdict_reasons": lambda row: "; ".join(map(str, row.verdict.reasons)) if row.verdict else None,
    "reason": lambda row: row.reason,
    **_speedup(),
    "speedup_answer": _measured(lambda f: None if f.speedup is None else str(f.speedup.answer)),
    "speedup_unpaired": _measured(lambda f: f.speedup_unpaired),
    **_latency("latency", lambda f: f.device),
    **_latency("end_to_end", lambda f: f.end_to_end),
    "throughput_low": _measured(lambda f: f.throughput_low),
    "throughput_high": _measured(lambda f: f.throughput_high),
    **_accuracy("accuracy_top1", lambda f: f.top1),
    **_accuracy("accuracy_top5", lambda f: f.top5),
    "accuracy_top1_fp32": _percent(lambda f: f.baseline_top1),
    "accuracy_samples": _measured(lambda f: f.accuracy_samples),
    "agreement_top1_pct": _percent(lambda f: f.agreement),
    "logits_relative_error": _measured(lambda f: f.logits_relative_error),
    "first_call_ms": _measured(lambda f: f.first_call_s, 1e3),
    "warmup_s": _measured(lambda f: f.warmup_s),
    "load_s": _measured(lambda f: f.load_s),
    "build_time_s": _measured(lambda f: f.build_s),
    "build_spent_s": _measured(lambda f: f.build_spent_s),
    "vram_allocator_mb": _measured(lambda f: f.vram_allocator_bytes, 1 / _MIB),
    "energy_per_sample_j": _measured(lambda f: f.energy_per_sample_j),
    "power_mean_w": _measured(lambda f: f.power_mean_w),
    "power_limit_w": _gpu(lambda gpu: gpu.power_limit_w),
    "gpu_clock_mhz": _measured(lambda f: f.gpu_clock_hz, 1e-6),
    "arithmetic_limit_pct": _measured(lambda f: f.arithmetic_share, 100),
    "bandwidth_limit_pct": _measured(lambda f: f.bandwidth_share, 100),
    "page_faults_per_call": _measured(lambda f: f.page_faults_per_call),
    "parameters": _measured(lambda f: f.parameters),
    "macs": _measured(lambda f: f.macs),
    "note": _measured(lambda f: f.evidence.get("note")),
    "model": lambda row: row.cell.model,
    "dataset": lambda row: row.cell.dataset,
    "image_size": lambda row: row.cell.image_size,
    "threads": lambda row: row.figures.environment.threads if row.figures else row.cell.threads,
    "protocol": lambda row: row.cell.protocol.name,
    "repeats_wanted": lambda row: row.repeats_wanted,
    "repeats_measured": lambda row: row.repeats_measured,
    "repeats_doubted": lambda row: row.repeats_doubted,
    "repeats_adopted": lambda row: row.repeats_adopted,
    "attempts": lambda row: row.attempts,
    "remeasured": lambda row: row.remeasured,
    "host": _measured(lambda f: f.environment.host),
    "device_model": _measured(lambda f: f.environment.device_model),
    "driver": _measured(lambda f: f.environment.driver),
    "compute_capability": _gpu(
        lambda gpu: None if gpu.compute_capability is None else str(gpu.compute_capability)
    ),
    "gpu_memory_mb": _gpu(lambda gpu: None if gpu.memory_bytes is None else gpu.memory_bytes / _MIB),
    "torch_version": _package("torch"),
    "onnxruntime_version": _package("onnxruntime"),
    "missing": _measured(lambda f: "; ".join(f"{name}: {why}" for name, why in sorted(f.missing.items()))),
    "environment_key": lambda row: row.environment_key,
    "cell_key": lambda row: row.cell.key,
    "job_key": lambda row: row.job_key,
    "job_id": lambda row: row.job_id,
    "job_ids": lambda row: " ".join(row.job_ids),
    "run_id": lambda row: row.run_id,
    "measured_at": _measured(_when),
    "evidence": _measured(lambda f: json.dumps(f.evidence, sort_keys=True)),
}
