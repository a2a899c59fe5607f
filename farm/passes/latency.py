"""The latency pass: device and end-to-end figures of one session, each warmed up."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np

from farm.allocator import Layout
from farm.control import LiveControl
from farm.devices import Device
from farm.measurement import Contention, Control, Samples, Usage
from farm.passes import device_figure
from farm.passes.contention import ContentionWatch
from farm.runtimes import Session
from farm.spec import Protocol
from farm.timing import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What the pass found."""

    samples: Samples
    usage: Usage
    #: None where it was measured without.
    control: Control | None
    #: None where the kernel does not tell.
    contention: Contention | None
    #: Seconds since the epoch.
    timed_from: float
    timed_until: float
    warmup_s: float
    warmup_steady: bool


def stopwatches(
    session: Session, device: Device, inputs: list[np.ndarray], layout: Layout
) -> tuple[Stopwatch, Stopwatch]:
    """The two figures' stopwatches: input and output on the device, and host to host.

    Args:
        session: what is timed.
        device: that it runs on.
        inputs: distinct batches, float32 NCHW.
        layout: of this process's memory, drawn anew for each window that takes turns with a control's.
    """
    on_device = [session.to_device(array) for array in inputs]

    def end_to_end(host: np.ndarray) -> np.ndarray:
        return session.to_host(session.run(session.to_device(host)))

    return (
        Stopwatch(call=session.run, inputs=on_device, synchronize=device.synchronize, lay_out=layout.draw),
        Stopwatch(call=end_to_end, inputs=inputs, synchronize=device.synchronize),
    )


def run(
    device_watch: Stopwatch, end_to_end_watch: Stopwatch, protocol: Protocol, live: LiveControl | None, seed: int
) -> Latency:
    """Warms up until steady, then measures both figures: in turns, or beside a live control one after the other.

    Args:
        device_watch: times the device figure …
        end_to_end_watch: … and this the other one.
        protocol: how long and how often.
        live: the control, loaded, that takes turns with the device figure; ended before the end-to-end figure.
        seed: of the order in which they take turns.

    Raises:
        OutOfMemory, FarmError: the control cannot.
    """
    warm, steady = device_watch.warm_up(protocol)
    others, timed_from, faults = ContentionWatch(), time.time(), _FaultCount()
    if live is None:
        end_to_end_watch.warm_up(protocol)
        device, end_to_end = device_figure.alone(
            device_watch, end_to_end_watch, protocol, at_start=faults.skip, at_look=faults.mark
        )
    else:
        cell_s = float(np.median(warm.samples_ns)) / 1e9
        device = device_figure.paired(
            device_watch, live, protocol, cell_s=cell_s, seed=seed, at_start=faults.skip, at_look=faults.mark
        )
        live.close()
        end_to_end_watch.warm_up(protocol)
        end_to_end = end_to_end_watch.measure(protocol).samples_ns
    return Latency(
        samples=Samples(device_ns=tuple(device.samples_ns), end_to_end_ns=tuple(end_to_end)),
        usage=Usage(
            wall_s=device.wall_s,
            cpu_s=device.cpu_s,
            faults_per_call=faults.per_call,
            faults_by_half=faults.by_half,
        ),
        control=device.control,
        contention=others.read(ours_besides_s=device.control_cpu_s),
        timed_from=timed_from,
        timed_until=time.time(),
        warmup_s=warm.wall_s,
        warmup_steady=steady,
    )


class _FaultCount:
    """Page faults of the timed calls; what lays out memory before a short window has its own."""

    def __init__(self) -> None:
        self._since = _faults()
        #: (calls, faults) so far.
        self._marks = [(0, 0)]

    def skip(self) -> None:
        """What there was since the last mark does not count."""
        self._since = _faults()

    def mark(self, calls: int) -> None:
        """Told how many calls there were so far."""
        now = _faults()
        self._marks.append((calls, self._marks[-1][1] + now - self._since))
        self._since = now

    @property
    def per_call(self) -> float:
        """Faults per call."""
        return _per_call(self._marks[0], self._marks[-1])

    @property
    def by_half(self) -> tuple[float, float]:
        """Faults per call of the two halves, parted at the mark nearest to the middle."""
        middle = min(self._marks, key=lambda mark: abs(mark[0] - self._marks[-1][0] / 2))
        return _per_call(self._marks[0], middle), _per_call(middle, self._marks[-1])


def _per_call(start: tuple[int, int], end: tuple[int, int]) -> float:
    return (end[1] - start[1]) / max(1, end[0] - start[0])


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
