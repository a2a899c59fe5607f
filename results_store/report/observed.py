"""What only raw samples tell: how calls spread, and what the controls say of the host. Reads a job at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median

import numpy as np

from farm.measurement import Measurement
from farm.statistics import FLOORS
from results_store.collate import Collated
from results_store.records import run_id_of
from results_store.report.cells import Entry
from results_store.store import JobResult

#: What a distribution is drawn from, in percent.
QUANTILES = (5, 25, 50, 75, 95)
#: More controls than this are drawn as the middle and the spread of so many stretches of time.
MAX_POINTS, STRETCHES = 400, 100


@dataclass(frozen=True, kw_only=True)
class Spread:
    """All timed calls of a row together, device latency."""

    #: Milliseconds, as `QUANTILES`.
    quantiles_ms: tuple[float, ...]
    calls: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What the controls of one device took over time, each relative to the median of those like it."""

    device: str
    #: Minutes since the first control of the run.
    minutes: tuple[float, ...]
    #: How far off that median, in percent.
    percent: tuple[float, ...]
    #: The middle 80 % of each stretch; empty where every control is a point of its own.
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    #: How many controls that were.
    count: int


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was read from the samples."""

    #: By the number of an entry; those with too few calls for a median are left out.
    spreads: dict[int, Spread]
    drifts: tuple[Drift, ...]


def observe(collated: Collated, entries: Iterable[Entry]) -> Observed:
    """Reads every measured job of the run once, and its repeated controls."""
    wanted = {job_id: entry.number for entry in entries for job_id in entry.row.job_ids if entry.is_usable}
    spreads: dict[int, Spread] = {}
    controls = _Controls()
    for _, results in groupby(collated.measured(), key=lambda result: result.cell_ordinal):
        calls: dict[int, array[int]] = {}
        for result in results:
            controls.note(result)
            number, found = wanted.get(result.job_id), result.measurement
            if number is not None and found is not None:
                calls.setdefault(number, array("q")).extend(found.samples.device_ns)
        spreads |= {number: _spread(ns) for number, ns in calls.items() if len(ns) >= FLOORS[50]}
    for result in collated.controls():
        controls.note_repeated(result)
    return Observed(spreads=spreads, drifts=tuple(controls.drifts()))


def _spread(ns: array[int]) -> Spread:
    values = np.percentile(np.frombuffer(ns, dtype=np.int64), QUANTILES) / 1e6
    return Spread(quantiles_ms=tuple(float(f"{value:.6g}") for value in values), calls=len(ns))


@dataclass(kw_only=True)
class _Alike:
    """Controls of the same work: when they began, in seconds, and what they took."""

    at: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("d"))


class _Controls:
    """Medians of controls, by device and by what they ran: three numbers are kept of each."""

    def __init__(self) -> None:
        self._alike: dict[str, dict[str, _Alike]] = {}

    def note(self, result: JobResult) -> None:
        """The live control of a job, where it has one and was measured in this run."""
        found = result.measurement
        if found is not None and found.control is not None and _is_own(result):
            self._add(found, found.control.device_ns, str(found.control.recipe))

    def note_repeated(self, result: JobResult) -> None:
        """A control that was measured between the jobs."""
        found = result.measurement
        if found is not None:
            self._add(found, found.samples.device_ns, str(found.spec.recipe))

    def drifts(self) -> Iterator[Drift]:
        """What each device's controls say; nothing of a device that had not two alike."""
        kept = {
            device: [alike for alike in kinds.values() if len(alike.at) > 1]
            for device, kinds in self._alike.items()
        }
        starts = [at for kinds in kept.values() for alike in kinds for at in alike.at]
        first = min(starts, default=0.0)
        for device, kinds in kept.items():
            if kinds:
                yield _drift(device, kinds, first)

    def _add(self, found: Measurement, ns: tuple[int, ...], recipe: str) -> None:
        if len(ns) < FLOORS[50]:
            return
        spec, environment = found.spec, found.environment
        device = f"{spec.device} ({environment.device_model}, {environment.host})"
        what = (
            f"{environment.key} {environment.device_uuid} {spec.model} {recipe} {spec.batch_size} {spec.weights}"
        )
        alike = self._alike.setdefault(device, {}).setdefault(what, _Alike())
        alike.at.append(found.started_at if found.timed_from is None else found.timed_from)
        alike.took.append(median(ns))


def _drift(device: str, kinds: list[_Alike], first: float) -> Drift:
    at = np.concatenate([np.frombuffer(alike.at) for alike in kinds])
    took = [np.frombuffer(alike.took) for alike in kinds]
    percent = np.concatenate([100 * (values / np.median(values) - 1) for values in took])
    order = np.argsort(at, kind="stable")
    minutes, percent = (at[order] - first) / 60, percent[order]
    if len(order) <= MAX_POINTS:
        return Drift(device=device, minutes=_few(minutes), percent=_few(percent), count=len(order))
    stretches = list(zip(np.array_split(minutes, STRETCHES), np.array_split(percent, STRETCHES), strict=True))
    return Drift(
        device=device,
        minutes=_few([float(np.median(when)) for when, _ in stretches]),
        percent=_few([float(np.median(values)) for _, values in stretches]),
        low=_few([float(np.percentile(values, 10)) for _, values in stretches]),
        high=_few([float(np.percentile(values, 90)) for _, values in stretches]),
        count=len(order),
    )


def _few(values: Iterable[float]) -> tuple[float, ...]:
    """With the digits that a drawing needs."""
    return tuple(round(float(value), 4) for value in values)


def _is_own(result: JobResult) -> bool:
    return result.measured_by is not None and run_id_of(result.measured_by) == result.run_id
