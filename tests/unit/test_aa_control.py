"""The A/A benchmark's own arithmetic: what it makes of windows whose truth is known."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import aa_control, alternating
from farm.timing import Stopwatch
from results_store.compare import Answer, differ
from tests import factories


def windows(pairs: int, ratio: float, sd: float, seed: int) -> list[Any]:
    """Medians of windows in nanoseconds, (pairs, rounds, 2), the cell this much slower than its control."""
    draw = np.random.default_rng(seed)
    between = draw.normal(math.log(ratio), sd, (pairs, 1))
    control = 1e7 * draw.lognormal(0, 0.2, (pairs, 7))
    found: list[Any] = np.stack([control * np.exp(between), control], axis=-1).tolist()
    return found


def test_a_pairs_value_is_the_log_of_the_cells_time_over_its_controls() -> None:
    assert aa_control.logs(windows(4, 1.03, 0.0, seed=0)) == pytest.approx(math.log(1.03))


def test_pairs_that_spread_little_reach_the_goals_and_wide_ones_do_not() -> None:
    def judged(sd: float) -> dict[str, Any]:
        return aa_control.figures({"aa": windows(200, 1.0, sd, 0), "slowed": windows(200, 1.03, sd, 1)})

    good, poor = judged(0.008), judged(0.025)
    assert aa_control.reached(good)
    assert not aa_control.reached(poor)
    assert good["sd"] == pytest.approx(0.008, rel=0.2)
    assert good["slowed_ratio"] == pytest.approx(1.03, abs=0.002)
    assert good["no_difference_in_real_trials"][1] == 10
    assert good["found_in_real_trials"] == [20, 20]
    assert good["thorough_finds"] < good["standard_finds"] < poor["standard_finds"]


def test_the_smallest_slowdown_found_is_found_8_times_of_10() -> None:
    aa = aa_control.logs(windows(200, 1.0, 0.01, 0))
    shift = math.log1p(aa_control.smallest_found(aa, 30))
    answers = [found.answer for found in aa_control.resampled(aa, aa + shift, 30, seed=1)]
    assert answers.count(Answer.SLOWER) / len(answers) == pytest.approx(0.8, abs=0.03)


def test_a_trial_is_the_rule_of_compare_beyond_the_bias_of_its_controls() -> None:
    a, b = np.random.default_rng(0).normal(0, 0.01, (2, 10))
    found = aa_control.trial(a, b, [np.full(10, 0.25), np.full(10, -0.5)])
    assert found == differ(a.tolist(), b.tolist(), bias=0.5)


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


def test_both_kinds_of_pairs_are_spread_evenly() -> None:
    assert "".join(kind[0] for kind in aa_control._order(4, 2)) == "asaasa"
