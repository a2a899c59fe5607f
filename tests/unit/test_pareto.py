"""The Pareto front: against its definition, on points that are equal, infinite, many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results_store import pareto

#: Few distinct values, so that ties and duplicates are common.
VALUES = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, math.inf])


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[tuple[float, ...]], list[int]]:
    dimensions = draw(st.integers(1, 4))
    points = draw(st.lists(st.tuples(*[VALUES] * dimensions), max_size=40))
    return points, draw(st.lists(st.sampled_from([1, -1]), min_size=dimensions, max_size=dimensions))


def dominates(a: tuple[float, ...], b: tuple[float, ...], better: list[int]) -> bool:
    pairs = [(x * sign, y * sign) for x, y, sign in zip(a, b, better, strict=True)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


@given(questions())
def test_the_front_is_what_no_other_point_dominates(question: tuple[list[tuple[float, ...]], list[int]]) -> None:
    points, better = question
    expected = [n for n, point in enumerate(points) if not any(dominates(o, point, better) for o in points)]
    assert pareto.front(points, better) == expected


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 7))
def test_points_of_more_than_one_chunk_are_compared_with_each_other(
    seed: int, dimensions: int, levels: int
) -> None:
    draw = np.random.default_rng(seed)
    points = [tuple(map(float, row)) for row in draw.integers(0, levels, size=(300, dimensions))]
    better = [int(sign) for sign in draw.choice([-1, 1], dimensions)]
    chunk, pareto._CHUNK = pareto._CHUNK, 16
    try:
        found = pareto.front(points, better)
    finally:
        pareto._CHUNK = chunk
    assert found == [n for n, p in enumerate(points) if not any(dominates(o, p, better) for o in points)]


def test_less_is_better_where_it_is_said() -> None:
    points = [(10.0, 5.0), (10.0, 4.0), (9.0, 3.0), (8.0, 3.0)]
    assert pareto.front(points, [1, -1]) == [1, 2]
    assert pareto.front(points, [1, 1]) == [0]
    assert pareto.front(points, [-1, -1]) == [3]


def test_equal_points_stay_together_and_a_single_one_is_the_front() -> None:
    assert pareto.front([(1.0, 2.0), (0.0, 0.0), (1.0, 2.0)], [1, 1]) == [0, 2]
    assert pareto.front([(math.inf, -math.inf)], [1, -1]) == [0]
    assert pareto.front([], [1, -1]) == []
    assert pareto.front([(-0.0, 1.0, 1.0), (0.0, 1.0, 1.0)], [1, 1, 1]) == [0, 1]


@pytest.mark.parametrize(
    ("points", "better", "why"),
    [
        ([(1.0, math.nan)], [1, 1], "NaN"),
        ([(1.0, 2.0), (1.0,)], [1, 1], "2 values"),
        ([(1.0,)], [0], r"\+1 or -1"),
    ],
)
def test_what_cannot_be_ordered_is_refused(points: list[tuple[float, ...]], better: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        pareto.front(points, better)


@pytest.mark.timeout(120)
def test_a_hundred_thousand_points_are_possible_also_where_a_front_is_long() -> None:
    draw = np.random.default_rng(0)
    many = [tuple(map(float, row)) for row in draw.random((100_000, 4))]
    front = pareto.front(many, [1, -1, 1, -1])
    assert 100 < len(front) < 5_000
    # none of these dominates another: the longest front that there is
    line = [(float(n), float(n)) for n in range(100_000)]
    assert len(pareto.front(line, [1, -1])) == 100_000
