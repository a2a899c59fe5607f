"""The A/A benchmark's own arithmetic: what it makes of windows whose truth is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import aa_control
from farm.timing import Stopwatch
from results_store.collate import Answer, Speedup, speedup


def ratios(sets: int, sd: float, seed: int = 0) -> np.ndarray:
    """Control ÷ cell and control ÷ slowed cell, (sets, 2, rounds): the second is slower by 3 %."""
    draw = np.random.default_rng(seed)
    found: np.ndarray = np.exp(draw.normal(0, sd, (sets, 2, 1)) + draw.normal(0, 1e-4, (sets, 2, 11)))
    return found / [[1], [1.03]]


def plain(sets: np.ndarray) -> Speedup:
    found = speedup(sets.tolist())
    assert found is not None
    return found


def reached(sd: float) -> list[bool]:
    return [figure.reached for figure in aa_control.figures(ratios(200, sd).tolist())]


def test_sets_that_spread_little_reach_the_goals_and_wide_ones_do_not() -> None:
    assert reached(0.008) == [True, True, True, True]
    # The interval grows with the spread, so A/A trials stay right.
    assert reached(0.03) == [False, True, False, True]


def test_what_every_pair_deviates_by_is_no_difference_where_the_baseline_shows_it_too() -> None:
    equal = ratios(200, 0.008)[:, 0]
    biased = equal / 1.02
    assert shares(biased, biased, Answer.SAME) > 0.9
    assert shares(biased, equal, Answer.SAME) < 0.1


def shares(sets: np.ndarray, equal: np.ndarray, wanted: Answer) -> float:
    trials = aa_control.real_trials(sets, equal)
    return sum(found.answer is wanted for found in trials) / len(trials)


def test_real_trials_are_disjoint_groups_judged_as_a_row_is_beyond_the_next_groups_deviation() -> None:
    equal, slowed = np.moveaxis(ratios(200, 0.008), 1, 0)
    assert [found.answer for found in aa_control.real_trials(slowed, equal)] == [Answer.SLOWER] * 20
    assert aa_control.real_trials(slowed, equal)[3] == aa_control.trial(slowed[30:40], equal[40:50])
    # the value and the interval are a row's own
    assert replace(aa_control.trial(equal[30:40], equal[30:40]), answer=Answer.UNKNOWN) == plain(equal[30:40])


def test_the_smallest_slowdown_found_is_found_8_times_of_10() -> None:
    equal = ratios(200, 0.01)[:, 0]
    least = aa_control.smallest_found(equal, 30)
    answers = [found.answer for found in aa_control.resampled(equal / (1 + least), equal, 30, seed=1)]
    assert answers.count(Answer.SLOWER) / len(answers) == pytest.approx(0.8, abs=0.03)
    assert least < aa_control.smallest_found(equal, 10)


def test_a_slowed_call_takes_3_percent_longer_within_the_timed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # a clock that each look moves on, so that nothing depends on the host
    clock: Callable[[], int] = itertools.count().__next__

    def call(_: Any) -> None:
        for _ in range(1000):
            clock()

    plain = Stopwatch(call=call, inputs=[None], synchronize=lambda: None, clock=clock)
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    usual, slowed = (
        watch.window(lambda samples, _: len(samples) >= 3).samples_ns
        for watch in (plain, aa_control.slowed(plain))
    )
    assert np.median(slowed) / np.median(usual) == pytest.approx(1.03, abs=0.005)
