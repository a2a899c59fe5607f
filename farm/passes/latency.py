"""The latency pass: device and end-to-end figures of one session, each warmed up and measured alone."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import numpy as np

from farm.devices import Device
from farm.measurement import Samples, Usage
from farm.runtimes import Session
from farm.spec import Protocol
from farm.timing import Stopwatch, Timed


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What the pass found."""

    samples: Samples
    usage: Usage
    warmup_s: float
    warmup_steady: bool


def stopwatches(session: Session, device: Device, inputs: list[np.ndarray]) -> tuple[Stopwatch, Stopwatch]:
    """The two figures' stopwatches: input and output on the device, and host to host."""
    on_device = [session.to_device(array) for array in inputs]

    def end_to_end(host: np.ndarray) -> np.ndarray:
        return session.to_host(session.run(session.to_device(host)))

    return (
        Stopwatch(call=session.run, inputs=on_device, synchronize=device.synchronize),
        Stopwatch(call=end_to_end, inputs=inputs, synchronize=device.synchronize),
    )


def run(device_watch: Stopwatch, end_to_end_watch: Stopwatch, protocol: Protocol) -> Latency:
    """Warms up until steady, then measures; first the device figure, then the end-to-end one."""
    warm, steady = device_watch.warm_up(protocol)
    timed, usage = _with_usage(device_watch, protocol)
    end_to_end_watch.warm_up(protocol)
    end_to_end = end_to_end_watch.measure(protocol)
    return Latency(
        samples=Samples(device_ns=tuple(timed.samples_ns), end_to_end_ns=tuple(end_to_end.samples_ns)),
        usage=usage,
        warmup_s=warm.wall_s,
        warmup_steady=steady,
    )


def _with_usage(watch: Stopwatch, protocol: Protocol) -> tuple[Timed, Usage]:
    """Measures, with the process's own accounts read before, after, and now and then between two calls."""
    marks = [(0, _faults())]
    cpu_s = _cpu_s()
    timed = watch.measure(protocol, at_look=lambda calls: marks.append((calls, _faults())))
    cpu_s = _cpu_s() - cpu_s
    marks.append((len(timed.samples_ns), _faults()))
    return timed, Usage(
        wall_s=timed.wall_s,
        cpu_s=cpu_s,
        faults_per_call=_per_call(marks[0], marks[-1]),
        faults_by_half=_by_half(marks),
    )


def _by_half(marks: list[tuple[int, int]]) -> tuple[float, float]:
    """Faults per call of the two halves, parted at the mark nearest to the middle."""
    middle = min(marks, key=lambda mark: abs(mark[0] - marks[-1][0] / 2))
    return _per_call(marks[0], middle), _per_call(middle, marks[-1])


def _per_call(start: tuple[int, int], end: tuple[int, int]) -> float:
    return (end[1] - start[1]) / max(1, end[0] - start[0])


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
