"""The A/A benchmark's own arithmetic: what it makes of windows whose truth is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import aa_control, alternating
from farm.timing import Stopwatch
from results_store.collate import Answer, Speedup, speedup
from tests import factories


def windows(sets: int, sd: float, seed: int = 0) -> np.ndarray:
    """Medians of windows in nanoseconds, (sets, rounds, 3): the third is slower by 3 %."""
    draw = np.random.default_rng(seed)
    control = 1e7 * draw.lognormal(0, 0.2, (sets, 7, 1))
    found: np.ndarray = control * np.exp(draw.normal(0, [0, sd, sd], (sets, 1, 3))) * [1, 1, 1.03]
    return found


def answered(sets: np.ndarray) -> Speedup:
    found = speedup(sets.tolist())
    assert found is not None
    return found.answered()


def reached(sd: float) -> list[bool]:
    return [figure.reached for figure in aa_control.figures(windows(200, sd).tolist())]


def test_sets_that_spread_little_reach_the_goals_and_wide_ones_do_not() -> None:
    assert reached(0.008) == [True, True, True, True]
    # The interval grows with the spread, so A/A trials stay right.
    assert reached(0.03) == [False, True, False, True]


def test_a_biased_pair_is_no_longer_called_equal() -> None:
    biased = windows(200, 0.008) * [1, 1.02, 1]
    assert not aa_control.figures(biased.tolist())[1].reached


def test_real_trials_are_disjoint_groups_judged_as_a_row_is() -> None:
    equal, slowed = (aa_control.ratios(windows(200, 0.008), which) for which in (1, 2))
    assert [found.answer for found in aa_control.real_trials(slowed)] == [Answer.SLOWER] * 20
    assert aa_control.real_trials(equal)[3] == answered(equal[30:40])


def test_the_smallest_slowdown_found_is_found_8_times_of_10() -> None:
    equal = aa_control.ratios(windows(200, 0.01), 1)
    least = aa_control.smallest_found(equal, 30)
    answers = [found.answer for found in aa_control.resampled(equal / (1 + least), 30, seed=1)]
    assert answers.count(Answer.SLOWER) / len(answers) == pytest.approx(0.8, abs=0.03)
    assert least < aa_control.smallest_found(equal, 10)


def test_a_slowed_call_takes_3_percent_longer_within_the_timed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # a clock that each look moves on, so that nothing depends on the host
    clock: Callable[[], int] = itertools.count().__next__

    def call(_: Any) -> None:
        for _ in range(1000):
            clock()

    plain = Stopwatch(call=call, inputs=[None], synchronize=lambda: None, clock=clock)
    monkeypatch.setattr(alternating, "farm_stopwatch", lambda spec: plain)
    monkeypatch.setattr(
        alternating, "window_of", lambda watch: lambda: watch.window(lambda n, _: len(n) >= 3).samples_ns
    )
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    usual = alternating.farm_window(factories.spec())()
    slowed = aa_control.slowed_window(factories.spec())()
    assert np.median(slowed) / np.median(usual) == pytest.approx(1.03, abs=0.005)
