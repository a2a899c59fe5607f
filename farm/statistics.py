"""Percentiles, intervals and their floors (pure): what raw samples say, and when they say nothing.

Sources: the floors are MLPerf LoadGen's early-stopping bounds; intervals on percentiles are order
statistics (Conover, Practical Nonparametric Statistics, 3.2); on proportions Wilson's (1927); on medians of
repeats a two-level bootstrap, over repeats and over the samples of each (Davison & Hinkley, 3.8); on differences
of means Welch's (1947); what such a difference can find is Bloom's minimum detectable effect (1995).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

#: A percentile is stated from so many samples on; below, its cell is empty.
FLOORS: Mapping[int, int] = {50: 11, 90: 64, 95: 130, 99: 662}

CONFIDENCE = 0.95
#: Level of all answers together that are given at once. At 95 %, one of 20 equal pairs would be found unequal;
#: beyond 98 %, ten repeats with a standard deviation of 2 % would miss a change of 3 % more than one time of 20.
ANSWERS = 0.98

_RESAMPLES = 1000


def summarize(samples: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, minimum and percentiles, in the unit of the samples.

    None stands where there are too few samples.
    """
    if not samples:
        return dict.fromkeys(("mean", "std", "min", "p50", "p90", "p95", "p99"))
    values = np.asarray(samples, dtype=np.float64)
    stated = [q for q, floor in FLOORS.items() if len(values) >= floor]
    percentiles = dict(zip(stated, np.percentile(values, stated).tolist(), strict=True))
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "min": float(values.min()),
        **{f"p{q}": percentiles.get(q) for q in FLOORS},
    }


def percentile(samples: Sequence[float], q: int) -> float | None:
    """The q-th percentile; None below its floor on samples."""
    if len(samples) < FLOORS[q]:
        return None
    return float(np.percentile(np.asarray(samples, dtype=np.float64), q))


def percentile_interval(samples: Sequence[float], q: int) -> tuple[float, float] | None:
    """The 95 % interval of the q-th percentile by order statistics; None below the percentile's floor."""
    if len(samples) < FLOORS[q]:
        return None
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    low, high = _ranks(len(ordered), q)
    return float(ordered[low]), float(ordered[high])


@functools.lru_cache(maxsize=1024)
def _ranks(samples: int, q: int) -> tuple[int, int]:
    """Places, among so many samples in order, of the ends of the q-th percentile's interval."""
    tail = (1 - CONFIDENCE) / 2
    low, high = (int(np.ceil(special.bdtrik(p, samples, q / 100))) for p in (tail, 1 - tail))
    return max(0, low - 1), min(samples - 1, high)


def relative_half_width(samples: Sequence[float]) -> float | None:
    """Half the width of the median's 95 % interval ÷ the median; None below the median's floor."""
    interval = percentile_interval(samples, 50)
    if interval is None:
        return None
    return (interval[1] - interval[0]) / 2 / float(np.median(np.asarray(samples, dtype=np.float64)))


def change_within(samples: Sequence[float], most: float) -> float | None:
    """The second half's median ÷ the first's − 1, where that is drift: beyond `most` and beyond chance.

    Chance explains it while the two medians' 95 % intervals meet. None where there is no drift, or too few samples
    to tell.
    """
    half = len(samples) // 2
    first, second = samples[:half], samples[half:]
    before, after = (percentile_interval(each, 50) for each in (first, second))
    if before is None or after is None or not (before[1] < after[0] or after[1] < before[0]):
        return None
    change = float(np.median(second) / np.median(first) - 1)
    return change if abs(change) > most else None


def median_interval(repeats: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the median over repeats of each repeat's median, by a two-level bootstrap.

    With one repeat it is the order-statistic interval within it: it then says nothing about what varies
    between processes.
    """
    return _over_repeats([samples for samples in repeats if len(samples)], 50, seed)


def percentile_over_repeats(
    repeats: Sequence[Sequence[float]], q: int, seed: int = 0
) -> tuple[float, float] | None:
    """As `median_interval`, of the q-th percentile; repeats below its floor on samples are left out."""
    return _over_repeats([samples for samples in repeats if len(samples) >= FLOORS[q]], q, seed)


def _over_repeats(used: Sequence[Sequence[float]], q: int, seed: int) -> tuple[float, float] | None:
    if not used:
        return None
    if len(used) == 1:
        return percentile_interval(used[0], q)
    draw = np.random.default_rng(seed)
    resampled = np.stack([_resampled(np.asarray(samples, dtype=np.float64), q, draw) for samples in used])
    chosen = draw.integers(0, len(used), size=(_RESAMPLES, len(used)))
    over_repeats = np.median(resampled[chosen, np.arange(_RESAMPLES)[:, None]], axis=1)
    low, high = np.percentile(over_repeats, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def window_ratios(
    cell: Sequence[float], cell_calls: Sequence[int], control: Sequence[float], control_calls: Sequence[int]
) -> list[float]:
    """The control's median ÷ the cell's of each round: how much faster the cell is, (rounds,).

    Args:
        cell: samples of the cell, one window after the other.
        cell_calls: how many of them each round's window has.
        control: samples of the control.
        control_calls: as `cell_calls`.
    """
    ours, theirs = _windows(cell, cell_calls), _windows(control, control_calls)
    return [float(np.median(b) / np.median(a)) for a, b in zip(ours, theirs, strict=True)]


def _windows(samples: Sequence[float], calls: Sequence[int]) -> list[np.ndarray]:
    values = np.asarray(samples, dtype=np.float64)
    return np.split(values, np.cumsum(calls)[:-1]) if len(calls) else []


def paired_ratio(repeats: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float] | None:
    """The ratio over repeats and its 95 % interval, from each repeat's ratios of windows.

    The ratio is exp of the mean over repeats of the median log-ratio of a repeat's rounds. Its interval is
    Student's over repeats, because what varies most lies between processes; with one repeat it is the bootstrap's
    over the rounds, and says nothing about that. None without any.
    """
    used = [np.log(np.asarray(ratios, dtype=np.float64)) for ratios in repeats if len(ratios)]
    if not used:
        return None
    logs = np.array([np.median(rounds) for rounds in used])
    if len(used) > 1:
        middle, low, high = np.exp(mean_interval(logs.tolist()))
        return float(middle), float(low), float(high)
    draw = np.random.default_rng(seed)
    medians = np.median(draw.choice(used[0], size=(_RESAMPLES, len(used[0]))), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(np.exp(logs[0])), float(np.exp(low)), float(np.exp(high))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """The mean and Student's interval of it; two values or more."""
    array = np.asarray(values, dtype=np.float64)
    quantile = special.stdtrit(len(array) - 1, (1 + confidence) / 2)
    middle, half = float(array.mean()), float(quantile * array.std(ddof=1) / np.sqrt(len(array)))
    return middle, middle - half, middle + half


def each_answer(comparisons: int) -> float:
    """The level of each of so many answers, so that all together hold at theirs (Bonferroni)."""
    return 1 - (1 - ANSWERS) / max(1, comparisons)


def widening(values: int, comparisons: int) -> float:
    """How much wider Student's interval of a mean is where it decides one of so many answers."""
    levels = (1 + each_answer(comparisons)) / 2, (1 + CONFIDENCE) / 2
    deciding, shown = (float(special.stdtrit(values - 1, level)) for level in levels)
    return deciding / shown


def welch(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """How far the mean of `b` is above that of `a`, and the interval of that by Welch; two values of each or more.

    A library has it (`scipy.stats.ttest_ind`), but not for values without any spread, whose interval is a point.
    """
    error, freedom = _welch_error(a, b)
    middle = float(np.mean(b) - np.mean(a))
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    return middle, middle - half, middle + half


def detectable(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE, power: float = 0.8
) -> float:
    """The difference of means that `welch` at this confidence finds so often, at the spread and number of both."""
    error, freedom = _welch_error(a, b)
    return float(special.stdtrit(freedom, (1 + confidence) / 2) + special.stdtrit(freedom, power)) * error


def _welch_error(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The standard error of a difference of means, and its degrees of freedom (Welch and Satterthwaite)."""
    shares = np.array([np.var(values, ddof=1) / len(values) for values in (a, b)])
    if not shares.any():
        return 0.0, len(a) + len(b) - 2.0
    freedom = shares.sum() ** 2 / (shares**2 / [len(a) - 1, len(b) - 1]).sum()
    return float(np.sqrt(shares.sum())), float(freedom)


def _resampled(samples: np.ndarray, q: int, draw: np.random.Generator) -> np.ndarray:
    """The q-th percentile of resamples of one repeat, (resamples,), without making the resamples.

    The k-th of n draws lies at a quantile that follows Beta(k, n + 1 - k), so it is drawn at once.
    """
    ordered = np.sort(samples)
    place = 1 + (len(ordered) - 1) * q / 100  # where numpy takes the percentile
    quantiles = draw.beta(place, len(ordered) + 1 - place, size=_RESAMPLES)
    found: np.ndarray = ordered[np.minimum((quantiles * len(ordered)).astype(np.int64), len(ordered) - 1)]
    return found


# The rows of a matrix have few different counts, and scipy takes milliseconds.
@functools.lru_cache(maxsize=10_000)
def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    from scipy import stats  # here, because importing it takes longer than a measuring process should wait

    interval = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
