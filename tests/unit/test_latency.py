"""The latency pass, with a clock that the tests turn by hand and page faults that really happen."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from farm.control import LiveControl
from farm.measurement import Usage
from farm.passes import latency
from farm.spec import Protocol
from farm.timing import Stopwatch
from tests.unit.test_device_figure import Told
from tests.unit.test_timing import MS, Workbench

PAGES = 1000


def fault(_: Any = None) -> None:
    """Touches so many pages for the first time."""
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(PAGES):
            fresh[page * mmap.PAGESIZE] = 1


def used(
    lay_out: Callable[[], None] = lambda: None,
    call: Callable[[Any], None] = lambda _: None,
    whole: Callable[[Any], None] = lambda _: None,
    live: Told | None = None,
    **fields: float,
) -> Usage:
    """Of a cell whose calls do that, end to end and on the device, and before whose windows that is done."""
    bench = Workbench(itertools.repeat(10 * MS))
    given = {"min_s": 0.5, "max_s": 1.0, "window_s": 0.03, "warmup_min_s": 0.0, "target_half_width": 0.01}
    watch = bench.stopwatch()

    def after(first: Callable[[Any], None]) -> Stopwatch:
        def call(item: Any) -> str:
            first(item)
            return bench.call(item)

        return replace(watch, call=call, lay_out=lay_out)

    protocol = Protocol(**{**given, **fields})
    return latency.run(after(call), after(whole), protocol, cast(LiveControl | None, live), seed=1).usage


def test_page_faults_of_timed_calls_count_and_those_of_a_new_layout_do_not() -> None:
    assert used(call=fault, live=Told()).faults_per_call == pytest.approx(PAGES, rel=0.1)
    assert used(lay_out=fault, live=Told()).faults_per_call < PAGES / 10


def test_page_faults_of_end_to_end_calls_are_not_those_of_the_device_figure() -> None:
    assert used(call=fault).faults_per_call == pytest.approx(PAGES, rel=0.1)
    assert used(whole=fault).faults_per_call < PAGES / 10


@pytest.mark.parametrize("live", [None, Told()])
def test_page_faults_are_told_of_each_half(live: Told | None) -> None:
    calls = itertools.count()
    halves = used(call=lambda _: fault() if next(calls) < 20 else None, live=live).faults_by_half
    assert halves[0] > PAGES / 3
    assert halves[1] < PAGES / 10


def test_there_are_two_halves_even_of_the_shortest_measurement() -> None:
    assert used(call=fault, min_s=0.11, window_s=2.0).faults_by_half == pytest.approx((PAGES, PAGES), rel=0.1)
