"""The loop that times: wall clock around work that is synchronized on both sides, and nothing else.

Pure: clock, synchronize and the callable are passed in. Warm-up is pyperf's idea (the recent window has
become steady), the end of measuring nvbench's (the interval is narrow enough) under LoadGen's minimums.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farm import statistics
from farm.spec import Protocol

#: Nanoseconds of a monotonic clock.
Clock = Callable[[], int]

_NS = 1e9
#: The stop rule is looked at whenever the window has grown by this factor: looking costs time too.
_LOOK_AGAIN = 1.1


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The calls of one window."""

    #: Wall time of every call in nanoseconds, in order.
    samples_ns: list[int]
    #: From the first call's start to the last one's end, in seconds.
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Times calls of one callable on inputs that take turns."""

    call: Callable[[Any], Any]
    inputs: Sequence[Any]
    synchronize: Callable[[], None]
    clock: Clock = time.perf_counter_ns
    #: Called before the call that leads a short window: where things lie in memory can be drawn anew, so that
    #: ratios of windows are not those of a single layout.
    lay_out: Callable[[], None] = lambda: None
    #: Goes on from window to window, so that short ones see all inputs too.
    _turns: Iterator[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turns", itertools.cycle(self.inputs))

    def once(self) -> float:
        """Seconds of a single call."""
        return self.window(lambda samples, _: len(samples) >= 1).samples_ns[0] / _NS

    def window(self, enough: Callable[[list[int], float], bool]) -> Timed:
        """Calls until `enough(samples so far, seconds since the first call)`; at least once."""
        call, synchronize, clock = self.call, self.synchronize, self.clock
        samples: list[int] = []
        inputs = self._turns
        synchronize()
        began = clock()
        while True:
            item = next(inputs)
            before = clock()
            output = call(item)
            synchronize()
            after = clock()
            samples.append(after - before)
            del output  # the last output is freed outside the timed part
            if enough(samples, (after - began) / _NS):
                return Timed(samples_ns=samples, wall_s=(after - began) / _NS)

    def short_window(
        self, seconds: float, *, lead: bool = True, at_start: Callable[[], None] = lambda: None
    ) -> list[int]:
        """Nanoseconds of the calls of a window of this length, at least one.

        Args:
            seconds: how long.
            lead: one call goes before them that does not count: it brings back what others have driven out of the
                caches meanwhile, and touches what a new layout moved. Never to be decided by how long it takes:
                that would select samples.
            at_start: told that what comes before the window is done.
        """
        if lead:
            self.lay_out()
            self.once()
        at_start()
        return self.window(lambda _, spent: spent >= seconds).samples_ns

    def warm_up(self, protocol: Protocol) -> tuple[Timed, bool]:
        """Calls until they are steady, not before the protocol's floor and not after its cap.

        Returns:
            The calls, and whether they had become steady.
        """

        def enough(samples: list[int], seconds: float) -> bool:
            if seconds < protocol.warmup_min_s or len(samples) < protocol.warmup_min_calls:
                return False
            return seconds >= protocol.warmup_max_s or steady(samples)

        timed = self.window(_rarely(enough))
        return timed, steady(timed.samples_ns)

    def measure(self, protocol: Protocol) -> Timed:
        """Calls until there are enough by the protocol's minimums and interval, or its time is up."""
        return self.window(_rarely(lambda samples, seconds: enough_of(samples, seconds, protocol, samples)))


def enough_of(samples: Sequence[int], seconds: float, protocol: Protocol, figure: Sequence[float]) -> bool:
    """Whether a protocol has enough: its minimums, its interval and percentiles, no drift; or its time is up.

    Drift is the verdict's: while it would doubt the window for its halves, calls go on, so that a disturbance that
    passes weighs less and one that stays is seen for longer.

    Args:
        samples: the calls so far.
        seconds: what they took.
        protocol: the minimums, the interval's target, the percentiles and the maximum.
        figure: what the interval is of: the samples themselves, or ratios made from them.
    """
    if len(samples) < protocol.min_calls:
        return False
    if seconds >= protocol.max_s:
        return True
    floor = max((statistics.FLOORS[q] for q in protocol.percentiles), default=0)
    if seconds < protocol.min_s or len(samples) < floor:
        return False
    target = protocol.target_half_width
    return narrow(figure, target) and statistics.change_within(figure, target) is None


def steady(samples: Sequence[int]) -> bool:
    """Whether two halves of the recent window agree: quartiles within 5 %, MAD within 10 % of the median.

    The recent window is the later half of all calls, at least 6 of them.
    """
    recent = np.asarray(samples[-max(6, len(samples) // 2) :], dtype=np.float64)
    if len(recent) < 6:
        return False
    first, second = np.array_split(recent, 2)
    quartiles = np.quantile(first, (0.25, 0.5, 0.75)), np.quantile(second, (0.25, 0.5, 0.75))
    deviations = [np.median(np.abs(half - np.median(half))) for half in (first, second)]
    median = np.median(recent)
    apart = np.abs(quartiles[0] - quartiles[1]) / median
    return bool((apart <= 0.05).all() and abs(deviations[0] - deviations[1]) / median <= 0.10)


def narrow(samples: Sequence[float], target: float) -> bool:
    """Whether the half-width of the median's 95 % interval is at most `target` of the median."""
    half_width = statistics.relative_half_width(samples)
    return half_width is not None and half_width <= target


def _rarely(enough: Callable[[list[int], float], bool]) -> Callable[[list[int], float], bool]:
    """The same rule, looked at only when the window has grown by a tenth since the last look."""
    next_look = 1.0

    def look(samples: list[int], seconds: float) -> bool:
        nonlocal next_look
        if len(samples) < next_look:
            return False
        next_look = len(samples) * _LOOK_AGAIN
        return enough(samples, seconds)

    return look
