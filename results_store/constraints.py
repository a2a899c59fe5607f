"""Constraints on what is to be deployed (pure): what can be constrained, and whether a row keeps it.

A row keeps a constraint where its figure does so at the unfavourable end of its 95 % interval. Where the bound
lies within the interval, that is `uncertain`, and the row does not keep it. A figure without an interval is judged
as it stands. What is not known is never taken for kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from farm import statistics
from farm.errors import BadInput, unknown
from results_store.collate import MIN_REPEATS, Figures, Row, Share

_MIB = 1 << 20


class Judged(StrEnum):
    """What became of a constraint on a row."""

    KEPT = "kept"
    #: The whole interval lies beyond the bound, or the figure where it has none.
    MISSED = "missed"
    #: The bound lies within the interval, whichever side the figure is on.
    UNCERTAIN = "uncertain"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A figure of a row in the metric's unit, with its 95 % interval where it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    #: Why there is no figure.
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that can be constrained."""

    #: The flag that does so, which names the unit.
    flag: str
    #: For people.
    name: str
    unit: str
    #: +1 where more is better: a bound is the least there may be. -1: the most.
    better: int
    read: Callable[[Figures], Reading]
    #: Kinds of devices that have it; on others there is nothing to keep.
    device_kinds: tuple[str, ...] = ("cpu", "cuda")
    #: What a bound may be.
    least: float = 0.0
    most: float = math.inf

    @property
    def key(self) -> str:
        """As programs and Python call it, such as `max_p99_ms`."""
        return self.flag.removeprefix("--").replace("-", "_")

    def reading(self, row: Row) -> Reading:
        """The figure of a row; of one that was not measured, how it ended."""
        return Reading(value=None, why=row.outcome) if row.figures is None else self.read(row.figures)


def _known(value: float | None, why: str, low: float | None = None, high: float | None = None) -> Reading:
    return Reading(value=value, low=low, high=high, why="" if value is not None else why)


def _latency(q: int) -> Callable[[Figures], Reading]:
    floor = f"stated from {statistics.FLOORS[q]} calls in a repeat on"
    why = floor if q == 50 else f"{floor}: measure with --set percentiles=50+{q}"

    def read(figures: Figures) -> Reading:
        found = [getattr(figures.device, f"p{q}{end}") for end in ("", "_low", "_high")]
        value, low, high = (None if seconds is None else seconds * 1e3 for seconds in found)
        return _known(value, why, low, high)

    return read


def _throughput(figures: Figures) -> Reading:
    return _known(figures.throughput, "no call was timed", figures.throughput_low, figures.throughput_high)


def _speedup(figures: Figures) -> Reading:
    found = figures.speedup
    if found is None:
        return Reading(value=None, why="no live control: measure with --protocol standard")
    if found.repeats < MIN_REPEATS:
        return Reading(value=None, why=f"{found.repeats} repeats with a live control, {MIN_REPEATS} are needed")
    return Reading(value=found.value, low=found.low, high=found.high)


def _top1(figures: Figures) -> Reading:
    why = figures.missing.get("accuracy_top1", "no real labels")
    return Reading(value=None, why=why) if figures.top1 is None else _share(figures.top1)


def _share(share: Share) -> Reading:
    return Reading(value=share.value, low=share.low, high=share.high)


def _top1_drop(figures: Figures) -> Reading:
    if figures.top1 is None or figures.baseline_top1 is None:
        return Reading(value=None, why=figures.missing.get("accuracy_top1", "no real labels"))
    return Reading(value=figures.baseline_top1.value - figures.top1.value)


def _bytes(pick: Callable[[Figures], float | None], named: str) -> Callable[[Figures], Reading]:
    def read(figures: Figures) -> Reading:
        value = pick(figures)
        return _known(None if value is None else value / _MIB, figures.missing.get(named, "not observed"))

    return read


def vram_bytes(figures: Figures) -> float | None:
    """The process's as the driver sees it; in a container that hides it, what the allocator held."""
    return figures.vram_process_bytes if figures.vram_process_bytes is not None else figures.vram_allocator_bytes


def _energy(figures: Figures) -> Reading:
    value = figures.energy_per_sample_j
    return _known(value or None, figures.missing.get("energy", "the device does not count it"))


#: Every metric, by the name of its flag in Python.
METRICS: Mapping[str, Metric] = {
    **{
        f"max_p{q}_ms": Metric(flag=f"--max-p{q}-ms", name=f"p{q} latency", unit="ms", better=-1, read=_latency(q))
        for q in statistics.FLOORS
    },
    "min_throughput": Metric(
        flag="--min-throughput", name="throughput", unit="samples/s", better=1, read=_throughput
    ),
    "min_speedup": Metric(flag="--min-speedup", name="speed-up", unit="times", better=1, read=_speedup),
    "min_top1": Metric(flag="--min-top1", name="top-1", unit="", better=1, read=_top1, most=1),
    "max_top1_drop": Metric(
        flag="--max-top1-drop", name="top-1 lost to fp32", unit="", better=-1, read=_top1_drop, most=1
    ),
    "max_ram_mb": Metric(
        flag="--max-ram-mb", name="RAM", unit="MiB", better=-1, read=_bytes(lambda f: f.ram_bytes, "ram_usage")
    ),
    "max_vram_mb": Metric(
        flag="--max-vram-mb",
        name="VRAM",
        unit="MiB",
        better=-1,
        read=_bytes(vram_bytes, "vram_usage"),
        device_kinds=("cuda",),
    ),
    "max_size_mb": Metric(
        flag="--max-size-mb",
        name="model size",
        unit="MiB",
        better=-1,
        read=_bytes(lambda f: f.model_size_bytes, "model_size"),
    ),
    "max_energy_j": Metric(flag="--max-energy-j", name="energy per sample", unit="J", better=-1, read=_energy),
}


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a metric; without one, only that the metric is known."""

    metric: Metric
    bound: float | None = None

    def __str__(self) -> str:
        return f"known {self.metric.name}" if self.bound is None else f"{self.metric.flag} {self.bound:g}"

    def check(self, row: Row) -> Check:
        """Whether a row keeps it."""
        if self.bound is not None and row.cell.device_kind not in self.metric.device_kinds:
            return Check(row=row, constraint=self, reading=Reading(value=None), judged=Judged.KEPT)
        reading = self.metric.reading(row)
        return Check(row=row, constraint=self, reading=reading, judged=self._judged(reading))

    def _judged(self, reading: Reading) -> Judged:
        if reading.value is None:
            return Judged.UNKNOWN
        if self.beyond(worst_end(reading, self.metric.better)) <= 0:
            return Judged.KEPT
        return Judged.MISSED if self.beyond(worst_end(reading, -self.metric.better)) > 0 else Judged.UNCERTAIN

    def beyond(self, value: float) -> float:
        """How far a value is on the wrong side of the bound, in the metric's unit; 0 or less where it is not."""
        return 0.0 if self.bound is None else (self.bound - value) * self.metric.better


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A constraint on a row."""

    row: Row
    constraint: Constraint
    reading: Reading
    judged: Judged

    @property
    def is_kept(self) -> bool:
        """Whether the row may be chosen as far as this goes."""
        return self.judged is Judged.KEPT

    @property
    def miss(self) -> float | None:
        """How far the unfavourable end lies beyond the bound, in the metric's unit; None where it is not known."""
        if self.reading.value is None:
            return None
        return max(0.0, self.constraint.beyond(worst_end(self.reading, self.constraint.metric.better)))

    @property
    def missed_share(self) -> float:
        """The miss ÷ the bound: what misses of several metrics are compared by; infinite where it is not known."""
        if self.miss is None:
            return math.inf
        return self.miss / self.constraint.bound if self.constraint.bound else math.inf if self.miss else 0.0


def worst_end(reading: Reading, better: int) -> float:
    """The unfavourable end of a figure that is known: of its interval or, without one, itself.

    Args:
        reading: the figure.
        better: +1 where more is better.
    """
    assert reading.value is not None
    ends = [reading.value, *(end for end in (reading.low, reading.high) if end is not None)]
    return min(ends) if better > 0 else max(ends)


def constraint(name: str, bound: float) -> Constraint:
    """The constraint of this name, such as `max_p99_ms`.

    Raises:
        BadInput: no such metric, or not a bound for it.
    """
    if name not in METRICS:
        raise unknown("constraint", name, METRICS)
    metric = METRICS[name]
    if not (math.isfinite(bound) and metric.least <= bound <= metric.most):
        possible = f"between {metric.least:g} and {metric.most:g}" if metric.most < math.inf else "0 or more"
        hint = " A share is meant: 0.95 for 95 %." if metric.most == 1 and bound > 1 else ""
        raise BadInput(f"{metric.flag} {bound:g}: a number is needed, {possible}.{hint}")
    return Constraint(metric=metric, bound=bound)
