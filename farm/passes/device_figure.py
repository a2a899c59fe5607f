"""The device figure, in short windows that take turns: with the end-to-end figure's, or with a live control's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from farm.control import LiveControl, Turn
from farm.measurement import Control
from farm.spec import Protocol
from farm.statistics import FLOORS
from farm.timing import Stopwatch, enough_of

#: Windows of two figures that take turns are at least this share of what there is already.
_GROWTH = 0.1


@dataclass(frozen=True, kw_only=True)
class DeviceFigure:
    """What the windows gave."""

    samples_ns: list[int]
    #: Wall and processor time of the cell's windows.
    wall_s: float
    cpu_s: float
    control: Control | None = None
    #: Processor time of the control's process, from the first round to the last.
    control_cpu_s: float = 0.0


def alone(
    watch: Stopwatch,
    end_to_end: Stopwatch,
    protocol: Protocol,
    *,
    at_start: Callable[[], None],
    at_look: Callable[[int], None],
) -> tuple[DeviceFigure, list[int]]:
    """Windows of the two figures take turns until the protocol has enough of both.

    So what the host does meanwhile falls on both alike. Windows grow with what there is already: looking whether
    that is enough costs time.

    Args:
        watch: times the device figure …
        end_to_end: … and this the other one; both are warm.
        protocol: how much is enough.
        at_start: told that a window of the device figure begins.
        at_look: told the number of the device figure's calls so far after each of its windows.

    Returns:
        The device figure, and the nanoseconds of each call of the other one.
    """
    device, whole = parts = _Part(watch), _Part(end_to_end)
    while True:
        seconds = max(min(protocol.window_s, protocol.min_s / 2), _GROWTH * device.wall_s)
        at_start()
        device.window(seconds)
        at_look(len(device.samples_ns))
        whole.window(seconds)
        if all(enough_of(part.samples_ns, part.wall_s, protocol, part.samples_ns) for part in parts):
            break
    return DeviceFigure(samples_ns=device.samples_ns, wall_s=device.wall_s, cpu_s=device.cpu_s), whole.samples_ns


class _Part:
    """One figure's windows so far."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.samples_ns: list[int] = []
        self.wall_s = self.cpu_s = 0.0

    def window(self, seconds: float) -> None:
        """One more, of at least one call."""
        cpu_s = time.process_time()
        timed = self._watch.window(lambda _, spent: spent >= seconds)
        self.cpu_s += time.process_time() - cpu_s
        self.wall_s += timed.wall_s
        self.samples_ns += timed.samples_ns


def paired(
    watch: Stopwatch,
    live: LiveControl,
    protocol: Protocol,
    *,
    cell_s: float,
    seed: int,
    at_start: Callable[[], None],
    at_look: Callable[[int], None],
) -> DeviceFigure:
    """Rounds of two windows, in an order drawn for each, until the protocol has enough.

    Args:
        watch: times the cell.
        live: the control, loaded and warm.
        protocol: how long a window is, and how much is enough.
        cell_s: about how long a call of the cell takes.
        seed: of the order within the rounds.
        at_start: told that a window of the cell begins.
        at_look: told the number of the cell's calls so far after each of its windows.

    Raises:
        OutOfMemory, FarmError: the control could not go on.
    """
    order, rounds = random.Random(seed), Rounds(watch, live, protocol.window_s, cell_s, at_start, at_look)
    while True:
        rounds.round(cell_first=order.random() < 0.5)
        if rounds.enough(protocol):
            return rounds.ended(seed)


class Rounds:
    """Rounds of two windows, the cell's and the control's."""

    def __init__(
        self,
        watch: Stopwatch,
        live: LiveControl,
        window_s: float,
        cell_s: float,
        at_start: Callable[[], None] = lambda: None,
        at_look: Callable[[int], None] = lambda calls: None,
    ) -> None:
        self._watch, self._live, self._window_s = watch, live, window_s
        self._at_start, self._at_look, self._calls = at_start, at_look, 0
        # Alike for both, and for all windows; calls that fill a window have no use for it, and keep their layout.
        self._lead = min(cell_s, live.call_s) < window_s
        self._cells: list[list[int]] = []
        self._controls: list[Turn] = []
        self._cell_first: list[bool] = []
        self._wall_s = self._cpu_s = self._waited_s = self._idle_s = 0.0

    def round(self, cell_first: bool) -> None:
        """One round."""
        self._cell_first.append(cell_first)
        for window in (self._cell, self._control) if cell_first else (self._control, self._cell):
            window()

    def _cell(self) -> None:
        began, cpu_s = time.perf_counter(), time.process_time()
        self._cells.append(self._watch.short_window(self._window_s, lead=self._lead, at_start=self._at_start))
        self._calls += len(self._cells[-1])
        self._at_look(self._calls)
        self._wall_s += time.perf_counter() - began
        self._cpu_s += time.process_time() - cpu_s

    def _control(self) -> None:
        """This process sleeps on its socket meanwhile."""
        began, cpu_s = time.perf_counter(), time.process_time()
        self._controls.append(self._live.window(lead=self._lead))
        self._waited_s += time.perf_counter() - began
        self._idle_s += time.process_time() - cpu_s

    @property
    def samples_ns(self) -> list[int]:
        """The cell's calls so far."""
        return [ns for window in self._cells for ns in window]

    @property
    def ratios(self) -> list[float]:
        """The control's median ÷ the cell's, of each round so far."""
        return [
            float(np.median(turn.samples_ns) / np.median(cell))
            for cell, turn in zip(self._cells, self._controls, strict=True)
        ]

    def enough(self, protocol: Protocol) -> bool:
        """Whether the protocol has enough, by the cell's calls and the interval of the rounds' ratios."""
        samples, ratios = self.samples_ns, self.ratios
        if len(ratios) < FLOORS[50]:
            return False
        return enough_of(samples, sum(samples) / 1e9, protocol, ratios)

    def ended(self, seed: int) -> DeviceFigure:
        """All of them; the orders came from that seed."""
        return DeviceFigure(
            samples_ns=self.samples_ns,
            wall_s=self._wall_s,
            cpu_s=self._cpu_s,
            control_cpu_s=self._controls[-1].cpu_s - self._live.loaded_cpu_s,
            control=Control(
                recipe=self._live.recipe,
                device_ns=tuple(ns for turn in self._controls for ns in turn.samples_ns),
                cell_calls=tuple(map(len, self._cells)),
                control_calls=tuple(len(turn.samples_ns) for turn in self._controls),
                cell_first=tuple(self._cell_first),
                seed=seed,
                cell_idle_share=self._idle_s / self._waited_s,
                control_idle_share=sum(turn.idle_s for turn in self._controls) / self._wall_s,
            ),
        )
