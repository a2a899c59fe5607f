"""Reads host and device while a child measures, in the supervisor, and makes a small summary of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from types import MappingProxyType

from farm.devices.host import HostSource
from farm.devices.nvml import GpuSource
from farm.devices.readings import Reading, Source
from farm.errors import Unsupported
from farm.measurement import Grown, Measurement, Spread, Telemetry

_UNSEEN = "no reading fell into the timed windows"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What all sources said at one moment."""

    #: Seconds since the epoch.
    at: float
    readings: tuple[Reading, ...]


class OwnSource:
    """What watching costs: the counter `supervisor_cpu_s`, processor time of this very process."""

    facts: Mapping[str, float] = MappingProxyType({})
    missing: Mapping[str, str] = MappingProxyType({})

    def read(self, pid: int) -> Reading:
        """This process's, whatever it watches."""
        return Reading(counters={"supervisor_cpu_s": time.process_time()})

    def close(self) -> None:
        """Holds nothing open."""


class Recorder:
    """Keeps what the sources say each time it is asked to look."""

    def __init__(
        self,
        every_s: float,
        sources: Sequence[Source],
        *,
        missing: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.every_s = every_s
        self._sources = sources
        self._missing = missing
        self._clock = clock
        self._moments: list[Moment] = []

    def look(self, pid: int) -> None:
        """Reads all sources once, while the session that `pid` leads measures."""
        readings = tuple(source.read(pid) for source in self._sources)
        self._moments.append(Moment(at=self._clock(), readings=readings))

    def attach(self, measurement: Measurement) -> Measurement:
        """The measurement with what was read within its timed windows; all of it where it does not know them."""
        since, until = measurement.timed_from, measurement.timed_until
        within = [
            moment
            for moment in self._moments
            if (since is None or since <= moment.at) and (until is None or moment.at <= until)
        ]
        telemetry = summarize(within, self.every_s).model_copy(
            update={
                "facts": {name: value for source in self._sources for name, value in source.facts.items()},
                "missing": {
                    **self._missing,
                    **{name: why for source in self._sources for name, why in source.missing.items()},
                },
            }
        )
        return measurement.model_copy(update={"telemetry": telemetry, "missing": _missing(measurement, telemetry)})


@contextmanager
def recorder(every_s: float, processors: Sequence[int], gpu_uuid: str | None) -> Iterator[Recorder]:
    """A recorder of these processors, and of the GPU where there is one; its files are open as long as it is."""
    with ExitStack() as held:
        sources: list[Source] = [HostSource(processors), OwnSource()]
        missing = {}
        if gpu_uuid is not None:
            try:
                sources.append(GpuSource(gpu_uuid))
            except Unsupported as error:
                missing["gpu_utilization"] = str(error)
        for source in sources:
            held.callback(source.close)
        yield Recorder(every_s, sources, missing=missing)


def summarize(moments: Sequence[Moment], every_s: float) -> Telemetry:
    """What these moments, in order, come to (pure); a counter needs two of them."""
    readings = [(moment.at, reading) for moment in moments for reading in moment.readings]
    gauges = {name for _, reading in readings for name in reading.gauges}
    counters = {name for _, reading in readings for name in reading.counters}
    flags = sorted(flag for _, reading in readings for flag in reading.flags)
    grown = {
        name: _grown([(at, reading.counters[name]) for at, reading in readings if name in reading.counters])
        for name in sorted(counters)
    }
    return Telemetry(
        every_s=every_s,
        readings=len(moments),
        window_s=moments[-1].at - moments[0].at if moments else 0.0,
        gauges={
            name: _spread([reading.gauges[name] for _, reading in readings if name in reading.gauges])
            for name in sorted(gauges)
        },
        counters={name: growth for name, growth in grown.items() if growth is not None},
        flags={flag: flags.count(flag) for flag in dict.fromkeys(flags)},
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min=min(values), mean=fmean(values), max=max(values), count=len(values))


def _grown(series: Sequence[tuple[float, float]]) -> Grown | None:
    """How a counter's (time, value) grew; what went back for want of resolution counts as nothing."""
    steps = [(later - at, max(0.0, new - old)) for (at, old), (later, new) in pairwise(series) if later > at]
    if not steps:
        return None
    total, rates = max(0.0, series[-1][1] - series[0][1]), [grew / seconds for seconds, grew in steps]
    return Grown(
        total=total,
        rate=total / (series[-1][0] - series[0][0]),
        rate_min=min(rates),
        rate_max=max(rates),
    )


def _missing(measurement: Measurement, telemetry: Telemetry) -> dict[str, str]:
    """Why metrics are empty, now that telemetry may have filled one."""
    missing = {name: why for name, why in measurement.missing.items() if name != "gpu_utilization"}
    if "gpu_utilization" in telemetry.gauges:
        return missing
    if measurement.spec.device_kind == "cpu":
        return dict(measurement.missing)
    return {**missing, "gpu_utilization": telemetry.missing.get("gpu_utilization", _UNSEEN)}
