"""The Pareto front (pure): which of several choices no other one beats in everything."""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float, ...]], better: Sequence[int]) -> list[int]:
    """Indices of the points that no other point dominates, in the order of the points.

    A point dominates another one where it is no worse in anything and better in something; equal points do not
    dominate each other, so all of them are kept.

    Args:
        points: values of the same quantities, in the same order, each finite.
        better: for each quantity +1 where more is better, -1 where less is.

    Raises:
        ValueError: a value is no finite number, or points and `better` differ in length.
    """
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("a point has a value that is no finite number: leave such points out")
    goods = [tuple(sign * value for sign, value in zip(better, point, strict=True)) for point in points]
    kept: list[int] = []
    # who dominates a point stands before it in this order
    for index in sorted(range(len(goods)), key=goods.__getitem__, reverse=True):
        if not any(_dominates(goods[other], goods[index]) for other in kept):
            kept.append(index)
    return sorted(kept)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
