"""The loop that times, under a clock that the tests turn by hand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from farm.spec import Protocol
from farm.statistics import change_within
from farm.timing import Stopwatch, narrow, steady

MS = 1_000_000


class Workbench:
    """A clock, and a callable that takes the next of these times (in nanoseconds) per call."""

    def __init__(self, durations: Iterator[int], hidden: int = 0) -> None:
        self.now = 0
        self.durations = durations
        self.hidden = hidden
        self.pending = 0
        self.inputs: list[Any] = []

    def clock(self) -> int:
        return self.now

    def call(self, item: Any) -> str:
        self.inputs.append(item)
        self.now += next(self.durations)
        self.pending += self.hidden
        return "output"

    def synchronize(self) -> None:
        self.now += self.pending
        self.pending = 0

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(call=self.call, inputs=["a", "b", "c"], synchronize=self.synchronize, clock=self.clock)


def protocol(**fields: Any) -> Protocol:
    given = {"min_s": 0.1, "max_s": 1.0, "min_calls": 11, "target_half_width": 0.01, "warmup_min_s": 0.0}
    return Protocol(**{**given, **fields})


def test_every_call_is_one_sample_of_exactly_its_time() -> None:
    timed = Workbench(itertools.cycle([5 * MS, 7 * MS])).stopwatch().measure(protocol())
    assert timed.samples_ns[:4] == [5 * MS, 7 * MS, 5 * MS, 7 * MS]
    assert timed.wall_s == pytest.approx(sum(timed.samples_ns) / 1e9)


def test_work_that_the_device_does_after_the_call_returned_is_counted() -> None:
    timed = Workbench(itertools.repeat(1 * MS), hidden=9 * MS).stopwatch().measure(protocol())
    assert set(timed.samples_ns) == {10 * MS}


def test_work_left_over_from_before_is_not_counted() -> None:
    bench = Workbench(itertools.repeat(1 * MS))
    bench.pending = 500 * MS
    assert bench.stopwatch().once() == pytest.approx(0.001)


def test_inputs_take_turns() -> None:
    bench = Workbench(itertools.repeat(10 * MS))
    bench.stopwatch().measure(protocol())
    assert bench.inputs[:5] == ["a", "b", "c", "a", "b"]


def test_inputs_go_on_from_window_to_window() -> None:
    bench = Workbench(itertools.repeat(10 * MS))
    stopwatch = bench.stopwatch()
    for _ in range(4):
        stopwatch.once()
    assert bench.inputs == ["a", "b", "c", "a"]


def test_the_first_call_of_a_short_window_does_not_count() -> None:
    bench = Workbench(itertools.chain([30 * MS], itertools.repeat(10 * MS)))
    assert bench.stopwatch().short_window(0.05) == [10 * MS] * 5


def test_memory_is_laid_out_anew_and_the_first_call_made_before_a_short_window_starts() -> None:
    bench, happened = Workbench(itertools.repeat(10 * MS)), []
    watch = replace(bench.stopwatch(), lay_out=lambda: happened.append(("layout", len(bench.inputs))))
    for _ in range(2):
        watch.short_window(0.02, at_start=lambda: happened.append(("start", len(bench.inputs))))
    assert happened == [("layout", 0), ("start", 1), ("layout", 3), ("start", 4)]


def test_memory_stays_as_it_is_where_no_call_goes_before_the_window() -> None:
    layouts: list[bool] = []
    watch = replace(Workbench(itertools.repeat(300 * MS)).stopwatch(), lay_out=lambda: layouts.append(True))
    watch.short_window(0.17, lead=False)
    assert layouts == []


def test_whether_a_call_counts_does_not_depend_on_how_long_it_takes() -> None:
    slow_first = Workbench(itertools.cycle([300 * MS, 160 * MS, 175 * MS]))
    assert slow_first.stopwatch().short_window(0.17) == [160 * MS, 175 * MS]


def test_a_call_longer_than_the_window_is_the_window() -> None:
    bench = Workbench(itertools.chain([400 * MS], itertools.repeat(300 * MS)))
    assert bench.stopwatch().short_window(0.17) == [300 * MS]
    assert bench.stopwatch().short_window(0.17, lead=False) == [300 * MS]
    assert len(bench.inputs) == 3


def test_calls_go_on_until_the_named_percentiles_can_be_stated() -> None:
    few = Workbench(itertools.repeat(1 * MS)).stopwatch().measure(protocol(min_s=0.05))
    enough = Workbench(itertools.repeat(1 * MS)).stopwatch().measure(protocol(min_s=0.05, percentiles=[99]))
    cut = Workbench(itertools.repeat(10 * MS)).stopwatch().measure(protocol(percentiles=[99]))
    assert len(few.samples_ns) < 662 <= len(enough.samples_ns)
    assert len(cut.samples_ns) < 662


def test_a_steady_callable_is_measured_for_the_minimum_time() -> None:
    timed = Workbench(itertools.repeat(5 * MS)).stopwatch().measure(protocol())
    assert 0.1 <= timed.wall_s <= 0.1 * 1.2


def test_a_wandering_callable_is_measured_until_the_maximum() -> None:
    wander = random.Random(0)
    timed = Workbench(iter(lambda: wander.randrange(1 * MS, 9 * MS), None)).stopwatch().measure(protocol())
    assert 1.0 <= timed.wall_s <= 1.2


def test_a_window_whose_halves_differ_goes_on_until_they_agree() -> None:
    """One slow stretch at the start is a tenth of what follows it, not half."""
    disturbed = itertools.chain([12 * MS] * 8, itertools.repeat(10 * MS))
    timed = Workbench(disturbed).stopwatch().measure(protocol())
    assert change_within(timed.samples_ns, 0.01) is None
    assert 0.16 < timed.wall_s < 1.0


def test_a_window_that_never_stops_drifting_ends_at_the_maximum() -> None:
    slower_and_slower = (MS * (10 + call) // 10 for call in itertools.count())
    timed = Workbench(slower_and_slower).stopwatch().measure(protocol(target_half_width=0.5))
    assert change_within(timed.samples_ns, 0.5) is not None
    assert timed.wall_s >= 1.0


def test_a_slow_callable_is_still_called_the_minimum_number_of_times() -> None:
    timed = Workbench(itertools.repeat(900 * MS)).stopwatch().measure(protocol())
    assert len(timed.samples_ns) >= 11


def test_warm_up_lasts_until_calls_are_steady() -> None:
    slow_start = itertools.chain((MS * i for i in range(50, 10, -2)), itertools.repeat(10 * MS))
    timed, is_steady = Workbench(slow_start).stopwatch().warm_up(protocol(warmup_max_s=60))
    assert is_steady
    assert len(timed.samples_ns) >= 20


def test_warm_up_of_a_callable_that_never_settles_is_capped_and_says_so() -> None:
    growing = (MS * i for i in itertools.count(1))
    timed, is_steady = Workbench(growing).stopwatch().warm_up(protocol(warmup_max_s=2))
    assert not is_steady
    assert timed.wall_s < 3


@pytest.mark.parametrize("rule", [steady, lambda samples: narrow(samples, 0.01)])
def test_a_handful_of_samples_is_never_enough(rule: Callable[[list[int]], bool]) -> None:
    assert not rule([10 * MS] * 5)
