"""Whether a host drifted while something was measured there: told by the controls before and after it (pure)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from farm import statistics
from farm.measurement import Measurement
from farm.verdict import Level, Reason

#: Standard deviation of the ratio of two processes that measured the same in the same seconds: what lies between
#: two processes is no drift of the host. Measured by `python -m benchmarks.aa_control`, whose goal it is.
PROCESSES_SD = 0.02

#: Two-sided, 95 %.
_NORMAL = 1.96

#: One device of one host, with all that decides its speed.
_Place: TypeAlias = tuple[str, str | None, str]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a control took at one moment."""

    place: _Place
    #: First timed call, seconds since the epoch.
    at: float
    #: Nanoseconds, with its process's own 95 % interval.
    median: float
    low: float
    high: float


def marks(controls: Iterable[Measurement]) -> list[Mark]:
    """The controls by time; those with too few samples for an interval say nothing."""
    return sorted((mark for control in controls for mark in _mark(control)), key=lambda mark: mark.at)


def drifted(measurement: Measurement, controls: Sequence[Mark]) -> Iterator[Reason]:
    """The last control before a measurement and the first after it are further apart than chance explains.

    Args:
        measurement: what was measured in between.
        controls: by time, of any place; nothing is said where there is not one on either side.
    """
    if not controls:
        return
    here, at = _place(measurement), _began(measurement)
    until = bisect.bisect_right(controls, at, key=lambda mark: mark.at)
    before = _first(controls, range(until - 1, -1, -1), here)
    after = _first(controls, range(until, len(controls)), here)
    if before is None or after is None:
        return
    change = after.median / before.median - 1
    chance = math.hypot(_half_width(before), _half_width(after), _NORMAL * PROCESSES_SD)
    if abs(change) > max(chance, measurement.spec.protocol.target_half_width):
        text = f"the control drifted by {change:+.1%} while this was measured"
        yield Reason(code="unstable", level=Level.SUSPECT, text=text)


def _first(controls: Sequence[Mark], order: Iterable[int], place: _Place) -> Mark | None:
    """The first of the controls at these indices that was measured in this place."""
    return next((controls[index] for index in order if controls[index].place == place), None)


def _half_width(mark: Mark) -> float:
    """Of the interval, as a share of the median."""
    return (mark.high - mark.low) / 2 / mark.median


def _mark(control: Measurement) -> Iterator[Mark]:
    samples = control.samples.device_ns
    median, interval = statistics.percentile(samples, 50), statistics.percentile_interval(samples, 50)
    if median is not None and interval is not None:
        yield Mark(place=_place(control), at=_began(control), median=median, low=interval[0], high=interval[1])


def _place(measurement: Measurement) -> _Place:
    environment = measurement.environment
    return environment.host, environment.device_uuid, environment.key


def _began(measurement: Measurement) -> float:
    return measurement.started_at if measurement.timed_from is None else measurement.timed_from
