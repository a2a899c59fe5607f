"""Percentiles, their floors, and intervals: what they cover, and when they say nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest

from farm import statistics


def draws(seed: int, size: int, scale: float = 0.1) -> list[float]:
    found: list[float] = np.random.default_rng(seed).lognormal(0.0, scale, size).tolist()
    return found


@pytest.mark.parametrize(("q", "floor"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_stated_from_its_floor_on(q: int, floor: int) -> None:
    assert statistics.percentile(draws(0, floor - 1), q) is None
    assert statistics.percentile_interval(draws(0, floor - 1), q) is None
    stated = statistics.percentile(draws(0, floor), q)
    interval = statistics.percentile_interval(draws(0, floor), q)
    assert stated is not None
    assert interval is not None
    assert interval[0] <= stated <= interval[1]


def test_a_summary_has_every_figure_and_none_where_there_are_too_few_samples() -> None:
    found = statistics.summarize([float(n) for n in range(1, 102)])
    assert found["mean"] == found["p50"] == 51.0
    assert found["min"] == 1.0
    assert found["p90"] == 91.0
    assert (found["p95"], found["p99"]) == (None, None)
    assert found["std"] == pytest.approx(np.std(range(1, 102), ddof=1))
    assert set(statistics.summarize([]).values()) == {None}
    assert statistics.summarize([1.0])["std"] is None


@pytest.mark.parametrize("q", [50, 90])
def test_order_statistics_cover_the_true_percentile_19_times_of_20(q: int) -> None:
    truth = float(np.quantile(draws(1, 200_000), q / 100))
    intervals = [statistics.percentile_interval(draws(seed, 100), q) for seed in range(400)]
    covered = sum(i[0] <= truth <= i[1] for i in intervals if i is not None)
    assert 0.93 <= covered / 400 <= 0.99


def test_the_bootstrap_over_repeats_covers_the_true_median_although_repeats_differ() -> None:
    # between processes 5 %, within one 1 %: an interval that ignored the repeats would cover hardly ever
    covered = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        repeats = [(draw.normal(1.0, 0.05) * draw.lognormal(0, 0.01, 100)).tolist() for _ in range(15)]
        interval = statistics.median_interval(repeats)
        assert interval is not None
        covered += interval[0] <= 1.0 <= interval[1]
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("q", [50, 90])
def test_resampled_percentiles_are_spread_like_those_of_real_resamples(q: int) -> None:
    samples = np.asarray(draws(3, 101))
    draw = np.random.default_rng(0)
    direct = statistics._resampled(samples, q, draw)
    real = np.percentile(draw.choice(samples, size=(4000, 101)), q, axis=1)
    assert direct.mean() == pytest.approx(real.mean(), rel=0.002)
    assert direct.std() == pytest.approx(real.std(), rel=0.1)


def test_the_bootstrap_is_the_same_every_time_and_takes_milliseconds() -> None:
    repeats = [draws(seed, 50_000) for seed in range(10)]
    started = time.perf_counter()
    first = statistics.median_interval(repeats)
    assert time.perf_counter() - started < 1.0
    assert first == statistics.median_interval(repeats)


def test_one_repeat_has_the_interval_within_it_and_none_at_all_has_none() -> None:
    samples = draws(0, 100)
    assert statistics.median_interval([samples]) == statistics.percentile_interval(samples, 50)
    assert statistics.median_interval([[], samples]) == statistics.percentile_interval(samples, 50)
    assert statistics.median_interval([]) is None
    assert statistics.median_interval([[]]) is None


def test_a_percentile_over_repeats_is_of_those_that_reach_its_floor() -> None:
    many, few = draws(0, 700), draws(1, 600)
    assert statistics.percentile_over_repeats([many, few], 99) == statistics.percentile_interval(many, 99)
    assert statistics.percentile_over_repeats([few], 99) is None
    low, high = statistics.percentile_over_repeats([many, draws(2, 700), draws(3, 700)], 99) or (0.0, 0.0)
    assert 0 < low < high


def test_the_relative_half_width_is_that_of_the_medians_interval() -> None:
    samples = draws(0, 100)
    low, high = statistics.percentile_interval(samples, 50) or (0.0, 0.0)
    assert statistics.relative_half_width(samples) == pytest.approx((high - low) / 2 / np.median(samples))
    assert statistics.relative_half_width(samples[:10]) is None


def test_wilsons_interval_is_the_published_one() -> None:
    # Agresti and Coull (1998): 10 of 10 gives a lower bound of 0.722
    assert statistics.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert statistics.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize("n", [11, 64, 130, 1000])
@pytest.mark.parametrize("q", [50, 90])
def test_the_ranks_of_a_percentiles_interval_are_the_binomials_quantiles(n: int, q: int) -> None:
    from scipy.stats import binom

    found = statistics.percentile_interval(list(range(1, n + 1)), q)
    if found is not None:
        low, high = binom.interval(0.95, n, q / 100)
        assert found == (max(1, low), min(n, high + 1))


def test_welchs_interval_is_scipys() -> None:
    from scipy.stats import ttest_ind

    a, b = draws(0, 10), draws(1, 4, 0.3)
    for confidence in (0.95, 0.999):
        expected = ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
        middle, low, high = statistics.welch(a, b, confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high))
        assert middle == pytest.approx(np.mean(b) - np.mean(a))


def test_values_without_any_spread_have_a_point_for_an_interval() -> None:
    assert statistics.welch([1.0] * 3, [1.5] * 4) == (0.5, 0.5, 0.5)
    assert statistics.detectable([1.0] * 3, [1.5] * 4) == 0.0


def test_what_is_detectable_is_found_as_often_as_it_says() -> None:
    from scipy.stats import nct, t

    a, b = draws(0, 30), draws(1, 30)
    error, freedom = statistics._welch_error(a, b)
    for power in (0.8, 0.95):
        least = statistics.detectable(a, b, power=power)
        assert nct.sf(t.ppf(0.975, freedom), freedom, least / error) == pytest.approx(power, abs=0.005)
