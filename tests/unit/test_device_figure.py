"""Windows that take turns, with a clock that the tests turn by hand and a control that says what it did."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from typing import Any, cast

import pytest

from farm.catalogue import parse_recipe
from farm.control import LiveControl, Turn
from farm.passes import device_figure
from farm.passes.device_figure import DeviceFigure
from farm.spec import Protocol
from farm.timing import Stopwatch
from tests.unit.test_timing import MS, Workbench


class Told:
    """A control whose windows are told beforehand; it notes what it was asked."""

    recipe = parse_recipe("baseline")
    loaded_cpu_s = 5.0

    def __init__(self, call_ms: float = 20.0, idle_s: float = 0.0) -> None:
        self.call_s = call_ms / 1e3
        self.idle_s = idle_s
        self.leads: list[bool] = []

    def close(self) -> None:
        pass

    def window(self, *, lead: bool) -> Turn:
        self.leads.append(lead)
        samples = [round(self.call_s * 1e9)] * 3
        return Turn(samples_ns=samples, idle_s=self.idle_s, cpu_s=5.0 + 0.1 * len(self.leads))


def measured(told: Told, call_ms: int = 10, **fields: Any) -> tuple[DeviceFigure, Workbench]:
    bench = Workbench(itertools.repeat(call_ms * MS))
    protocol = Protocol(**{"min_s": 0.1, "max_s": 1.0, "window_s": 0.05, "target_half_width": 0.01, **fields})
    found = device_figure.paired(
        bench.stopwatch(),
        cast(LiveControl, told),
        protocol,
        cell_s=call_ms / 1e3,
        seed=1,
        at_start=lambda: None,
        at_look=lambda calls: None,
    )
    return found, bench


def test_each_round_has_a_window_of_both() -> None:
    found, _ = measured(Told())
    assert found.control is not None
    assert found.control.cell_calls == (5,) * len(found.control.cell_first)
    assert found.control.control_calls == (3,) * len(found.control.cell_first)
    assert found.samples_ns == [10 * MS] * 5 * len(found.control.cell_first)


@pytest.mark.parametrize("fields", [{}, {"max_s": 0.1}, {"window_s": 0.5, "max_s": 0.6}])
def test_there_are_always_rounds_enough_to_judge_the_speed_up(fields: dict[str, Any]) -> None:
    found, _ = measured(Told(), **fields)
    assert found.control is not None
    assert len(found.control.cell_first) >= 11


@pytest.mark.parametrize(
    ("cell_ms", "control_ms", "lead"),
    [(10, 20.0, True), (10, 500.0, True), (500, 20.0, True), (500, 400.0, False)],
)
def test_a_call_goes_before_the_windows_of_both_or_of_neither(cell_ms: int, control_ms: float, lead: bool) -> None:
    told = Told(control_ms)
    found, bench = measured(told, cell_ms)
    assert set(told.leads) == {lead}
    assert len(bench.inputs) == len(found.samples_ns) + lead * len(told.leads)


def test_all_that_the_control_computed_since_it_was_warm_is_ours() -> None:
    told = Told()
    found, _ = measured(told)
    assert found.control_cpu_s == pytest.approx(0.1 * len(told.leads))


def test_what_the_control_computed_while_the_cell_was_timed_is_told() -> None:
    found, _ = measured(Told(idle_s=1.0))
    assert found.control is not None
    assert found.control.control_idle_share > 1


def alone(bench: Workbench) -> tuple[list[int], list[int]]:
    """Nanoseconds of the calls of the device figure and of the other one, both on the bench's clock."""
    device, whole = (
        Stopwatch(call=bench.call, inputs=[name], synchronize=bench.synchronize, clock=bench.clock)
        for name in ("device", "whole")
    )
    protocol = Protocol(min_s=0.5, max_s=1.0, window_s=0.05, target_half_width=0.01)
    found, other = device_figure.alone(device, whole, protocol, at_start=lambda: None, at_look=lambda calls: None)
    return found.samples_ns, other


def test_windows_of_the_two_figures_take_turns_and_each_call_belongs_to_one() -> None:
    bench = Workbench(itertools.repeat(10 * MS))
    device, whole = alone(bench)
    turns = [(name, len(list(calls))) for name, calls in itertools.groupby(bench.inputs)]
    assert turns[:4] == [("device", 5), ("whole", 5)] * 2
    assert len(turns) > 10
    assert (len(device), len(whole)) == (bench.inputs.count("device"), bench.inputs.count("whole"))


def test_a_host_that_becomes_slower_makes_both_figures_slower() -> None:
    device, whole = alone(Workbench(itertools.chain(range(8 * MS, 12 * MS, MS // 25), itertools.repeat(12 * MS))))
    assert max(device) > 1.2 * min(device)
    assert statistics.median(device) == pytest.approx(statistics.median(whole), rel=0.03)


@pytest.mark.parametrize("unsteady", ["device", "whole"])
def test_both_figures_go_on_until_both_have_enough(unsteady: str) -> None:
    def durations() -> Iterator[int]:
        for spread in itertools.cycle([5 * MS, 15 * MS]):
            yield spread if bench.inputs[-1] == unsteady else 10 * MS

    bench = Workbench(durations())
    assert min(map(sum, alone(bench))) >= 900 * MS
