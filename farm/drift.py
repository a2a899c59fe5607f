"""Whether a host drifted while something was measured there: told by the controls before and after it (pure)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median_low
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


class Marks:
    """The controls of a run by time; those with too few samples for an interval say nothing."""

    def __init__(self, controls: Iterable[Measurement]) -> None:
        #: By time, of each place.
        self._of: dict[_Place, list[Mark]] = {}
        for mark in sorted((mark for control in controls for mark in _mark(control)), key=lambda mark: mark.at):
            self._of.setdefault(mark.place, []).append(mark)
        #: One that a control really took: between two equal halves of a run lies none.
        self._usual = {place: median_low(mark.median for mark in found) for place, found in self._of.items()}

    def drifted(self, measurement: Measurement) -> Iterator[Reason]:
        """The host was another one while this was measured, as far as its controls can tell.

        The last control before it and the first after it are further apart than chance explains; or the two agree,
        and are as far from what the run's controls usually took: a ratio to what was measured at another time, the
        baseline above all, is then one of two hosts. Nothing is said where there is not one on either side.
        """
        place = _place(measurement)
        found = self._of.get(place, [])
        until = bisect.bisect_right(found, _began(measurement), key=lambda mark: mark.at)
        if not 0 < until < len(found):
            return
        before, after = found[until - 1], found[until]
        chance = math.hypot(_half_width(before), _half_width(after), _NORMAL * PROCESSES_SD)
        most = max(chance, measurement.spec.protocol.target_half_width)
        change = after.median / before.median - 1
        away = (before.median + after.median) / 2 / self._usual[place] - 1
        if abs(change) > most:
            yield _unstable(f"the control drifted by {change:+.1%} while this was measured")
        elif abs(away) > most:
            yield _unstable(f"the control took {away:+.1%} around this, beside its median over the run")


def _unstable(text: str) -> Reason:
    return Reason(code="unstable", level=Level.SUSPECT, text=text)


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
