"""The Pareto front: what is on it, whatever the order, the signs and the ties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from results_store.pareto import front

POINTS = some.lists(some.tuples(*[some.integers(0, 6).map(float)] * 3), max_size=25)
SIGNS = some.tuples(*[some.sampled_from((1, -1))] * 3)


def dominates(one: tuple[float, ...], other: tuple[float, ...], better: tuple[int, ...]) -> bool:
    gains = [sign * (a - b) for sign, a, b in zip(better, one, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def test_more_throughput_and_more_accuracy_are_better() -> None:
    assert front([(10, 0.9), (20, 0.8), (15, 0.7), (5, 0.95)], (1, 1)) == [0, 1, 3]


def test_less_can_be_better() -> None:
    assert front([(10, 0.9), (20, 0.8), (15, 0.7)], (-1, 1)) == [0]


def test_equal_points_do_not_beat_each_other() -> None:
    assert front([(1, 1), (1, 1), (0, 1)], (1, 1)) == [0, 1]


def test_nothing_and_a_single_point() -> None:
    assert front([], (1, 1)) == []
    assert front([(3.0, 4.0)], (1, -1)) == [0]


@given(POINTS, SIGNS)
def test_it_has_exactly_the_points_that_none_dominates(
    points: list[tuple[float, ...]], better: tuple[int, ...]
) -> None:
    expected = [n for n, point in enumerate(points) if not any(dominates(one, point, better) for one in points)]
    assert front(points, better) == expected


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite number"):
        front([(1.0, float("nan"))], (1, 1))
    with pytest.raises(ValueError, match="zip"):
        front([(1.0, 2.0)], (1,))
