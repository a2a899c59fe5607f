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
from tests.unit.test_device_figure import Told
from tests.unit.test_timing import MS, Workbench

PAGES = 1000


def fault(_: Any = None) -> None:
    """Touches so many pages for the first time."""
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(PAGES):
            fresh[page * mmap.PAGESIZE] = 1


def used(lay_out: Callable[[], None], call: Callable[[Any], None]) -> Usage:
    """Of rounds of a cell whose calls do that, and before whose windows that is done."""
    bench = Workbench(itertools.repeat(10 * MS))

    def both(item: Any) -> None:
        call(item)
        bench.call(item)

    protocol = Protocol(min_s=0.1, max_s=1.0, window_s=0.03, warmup_min_s=0.0, target_half_width=0.01)
    watch = bench.stopwatch()
    cell = replace(watch, call=both, lay_out=lay_out)
    return latency.run(cell, watch, protocol, cast(LiveControl, Told()), seed=1).usage


def test_page_faults_of_timed_calls_count_and_those_of_a_new_layout_do_not() -> None:
    assert used(lambda: None, fault).faults_per_call == pytest.approx(PAGES, rel=0.1)
    assert used(fault, lambda _: None).faults_per_call < PAGES / 10


def test_page_faults_are_told_of_each_half() -> None:
    calls = itertools.count()
    halves = used(lambda: None, lambda _: fault() if next(calls) < 20 else None).faults_by_half
    assert halves[0] > PAGES / 2
    assert halves[1] < PAGES / 10
