"""The energy pass: calls between two steps of the device's own cumulative counter, apart from what was timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Protocol

from farm.devices.nvml import EnergyMeter
from farm.devices.rapl import Rapl
from farm.errors import Unsupported
from farm.measurement import Energy, Environment
from farm.spec import JobSpec
from farm.timing import Stopwatch

#: Each end of the window is late by a call or, where calls are longer than that, by a step of the counter: the
#: window is so many times as long, so that both ends together are 2 % of it at most.
_TIMES_LATENESS = 100
#: A counter that has not moved for so much longer than the protocol's time does not count.
_PATIENCE_S = 10.0


class Meter(Protocol):
    """A cumulative counter of energy."""

    @property
    def scope(self) -> str:
        """Whose energy it counts."""

    @property
    def step_s(self) -> float:
        """At the latest after so long it steps while energy is used."""

    def read(self) -> float:
        """Joules since some moment."""

    def beside(self) -> Mapping[str, float]:
        """What bounds the power now, of `power_limit_w` and `clock_hz` what is told."""

    def close(self) -> None:
        """Gives back what it held open."""


def open_meter(here: Environment) -> Meter:
    """The counter of the device that a measurement runs on.

    Raises:
        Unsupported: it has none that may be read.
    """
    return Rapl() if here.device_uuid is None else EnergyMeter(here.device_uuid)


def run(
    watch: Stopwatch,
    spec: JobSpec,
    here: Environment,
    opener: Callable[[Environment], Meter] = open_meter,
) -> Energy:
    """What calls take, over at least the protocol's time.

    Raises:
        Unsupported: why there is no figure.
    """
    if spec.protocol.energy_s == 0:
        raise Unsupported("the protocol leaves it out")
    if spec.repeat > 0:
        raise Unsupported("told by a cell's first repeat")
    with closing(opener(here)) as meter:
        return metered(watch, meter, spec.protocol.energy_s, spec.batch_size)


def metered(watch: Stopwatch, meter: Meter, at_least_s: float, batch_size: int) -> Energy:
    """Calls from one step of the counter to a later one.

    A driver's counter may step only some ten times a second: what is timed from step to step is as exact as a call
    is short, however coarse the counter. Where calls are long, it goes on for longer.

    Raises:
        Unsupported: the counter does not move.
    """
    first_s, first_calls = _until_step(watch, meter, 0.0)
    began_j = meter.read()
    lateness_s = min(first_s / first_calls, meter.step_s)
    timed_s, calls = _until_step(watch, meter, max(at_least_s, _TIMES_LATENESS * lateness_s))
    joules = meter.read() - began_j
    if joules <= 0:
        raise Unsupported(f"the energy counter did not move within {timed_s:.0f} s")
    return Energy(joules=joules, window_s=timed_s, samples=calls * batch_size, scope=meter.scope, **meter.beside())


def _until_step(watch: Stopwatch, meter: Meter, at_least_s: float) -> tuple[float, int]:
    """Seconds and number of the calls until the counter has stepped after that time, or patience is at its end."""
    last_j: float | None = None

    def enough(samples: list[int], seconds: float) -> bool:
        nonlocal last_j
        if seconds < at_least_s:
            return False
        before_j, last_j = last_j, meter.read()
        return (before_j is not None and last_j != before_j) or seconds >= at_least_s + _PATIENCE_S

    timed = watch.window(enough)
    return timed.wall_s, len(timed.samples_ns)
