"""Makes collated rows for tests without a store: each with defaults, figures settable in their names' units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from farm import statistics
from farm.verdict import Level, Reason, Verdict
from results_store.collate import ByRepeat, Figures, Latency, Row, Share, speedup
from tests import factories

MIB = 1 << 20
GPU = factories.environment(device_kind="cuda", device_model="NVIDIA H200", driver="580.65")


def row(
    recipe: str = "baseline",
    *,
    batch_size: int = 8,
    device: str = "cpu",
    level: Level = Level.VALID,
    repeats: int = 10,
    spread: float = 0.01,
    seed: int = 0,
    p50_ms: float = 10.0,
    p99_ms: float | None = 12.0,
    faster: float | None = None,
    top1: int | None = 950,
    baseline_top1: int | None = 950,
    vram_mb: float | None = None,
    energy_j: float | None = None,
    size_mb: float = 32.0,
    **fields: Any,
) -> Row:
    """A measured row; its repeats lie around these figures by `spread`, each in its own way.

    Args:
        recipe: as it is written.
        batch_size: of each call.
        device: as in a matrix.
        level: its verdict.
        repeats: how many there are.
        spread: standard deviation of the logs of what they measured.
        seed: of how they differ.
        p50_ms: the median over repeats.
        p99_ms: likewise; None where it is not stated.
        faster: times as fast as the live control; None without one.
        top1: right answers of 1,000; None without labels.
        baseline_top1: of the fp32 model.
        vram_mb: None where it was not observed.
        energy_j: per sample; None where nobody counts it.
        size_mb: of all files.
        fields: of the row.
    """
    logs = np.random.default_rng(seed).normal(0, spread, repeats)
    logs -= np.median(logs)
    times = tuple(float(p50_ms / 1e3 * np.exp(x)) for x in logs)
    # what the host did to both alike is not in the ratio
    ratios = () if faster is None else tuple(float(faster * np.exp(-x)) for x in logs)
    cell = factories.cell(recipe=recipe, batch_size=batch_size, device=device)
    reasons = () if level is Level.VALID else (Reason(code="unstable", level=level, text="the host was busy"),)
    given: dict[str, Any] = {
        "run_id": "20260101-000000-abcd",
        "cell": cell,
        "outcome": "ok",
        "reason": "",
        "verdict": Verdict(reasons=reasons),
        "repeats_wanted": repeats,
        "repeats_measured": repeats,
        "repeats_doubted": 0,
        "repeats_adopted": 0,
        "attempts": repeats,
        "remeasured": 0,
        "environment_key": (GPU if device != "cpu" else factories.environment()).key,
        "job_key": "0" * 64,
        "job_id": "20260101-000000-abcd.000000",
        "job_ids": ("20260101-000000-abcd.000000",),
        "figures": _figures(
            times,
            ratios,
            batch_size=batch_size,
            device=device,
            p99_ms=p99_ms,
            top1=top1,
            baseline_top1=baseline_top1,
            vram_mb=vram_mb,
            energy_j=energy_j,
            size_mb=size_mb,
        ),
    }
    return Row(**{**given, **fields})


def unmeasured(recipe: str = "baseline", outcome: str = "unsupported", reason: str = "", **fields: Any) -> Row:
    """A row of which nothing was measured."""
    found = row(recipe, **fields)
    pending = found.repeats_wanted if outcome == "pending" else 0
    return replace(
        found,
        outcome=outcome,
        reason=reason,
        verdict=None,
        figures=None,
        repeats_measured=0,
        repeats_doubted=0,
        repeats_pending=pending,
    )


def _figures(
    times: tuple[float, ...],
    ratios: tuple[float, ...],
    *,
    batch_size: int,
    device: str,
    p99_ms: float | None,
    top1: int | None,
    baseline_top1: int | None,
    vram_mb: float | None,
    energy_j: float | None,
    size_mb: float,
) -> Figures:
    throughputs = tuple(batch_size / seconds for seconds in times)
    paired = speedup([[ratio] for ratio in ratios])
    missing = {} if top1 is not None else {"accuracy_top1": "synthetic has no real labels"}
    return Figures(
        device=_latency(times, p99_ms),
        end_to_end=_latency(times, p99_ms),
        throughput=float(np.median(throughputs)),
        throughput_low=min(throughputs) if len(throughputs) > 1 else None,
        throughput_high=max(throughputs) if len(throughputs) > 1 else None,
        by_repeat=ByRepeat(
            p50_s=times,
            throughput=throughputs,
            speedup=ratios,
            energy_per_sample_j=() if energy_j is None else (energy_j,),
        ),
        speedup=None if paired is None else paired.answered(),
        control="baseline" if ratios else None,
        speedup_unpaired=None,
        ram_bytes=100.0 * MIB,
        vram_allocator_bytes=None if vram_mb is None else vram_mb * MIB,
        vram_process_bytes=None,
        cpu_utilization=0.9,
        gpu_utilization=None,
        energy_per_sample_j=energy_j,
        power_mean_w=None,
        page_faults_per_call=0.0,
        first_call_s=0.05,
        warmup_s=0.5,
        load_s=0.2,
        build_s=None,
        build_spent_s=None,
        top1=_share(top1),
        top5=None,
        baseline_top1=_share(baseline_top1 if top1 is not None else None),
        agreement=_share(999),
        accuracy_samples=1000,
        logits_relative_error=1e-3,
        model_size_bytes=int(size_mb * MIB),
        parameters=7_978_856,
        macs=None,
        evidence={"weights": "trained here", "build": {"opset": 20}},
        environment=factories.environment() if device == "cpu" else GPU,
        measured_at=1000.0,
        began_at=1000.0,
        missing=missing,
    )


def _latency(times: tuple[float, ...], p99_ms: float | None) -> Latency:
    p50 = float(np.median(times))
    p99 = None if p99_ms is None else p99_ms / 1e3
    return Latency(
        mean=p50,
        std=None,
        min=min(times),
        p50=p50,
        p90=None,
        p95=None,
        p99=p99,
        p50_low=min(times),
        p50_high=max(times),
        p99_low=None if p99 is None else 0.95 * p99,
        p99_high=None if p99 is None else 1.05 * p99,
    )


def _share(right: int | None) -> Share | None:
    if right is None:
        return None
    low, high = statistics.wilson(right, 1000)
    return Share(value=right / 1000, low=low, high=high)
