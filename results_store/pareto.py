"""The Pareto front (pure): what no other choice is at least as good as in everything, and better in something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: So many points are compared with so many at once: a table of a MiB, however many there are in all.
_CHUNK = 1024


def front(points: Sequence[tuple[float, ...]], better: Sequence[int]) -> list[int]:
    """Indices, ascending, of the points that no other one dominates. Equal points do not dominate each other.

    Time grows with the number of points × the size of the front; memory does not, beyond the points themselves.

    Args:
        points: each with one value per dimension; infinite ones are in order, and stand for what is not known.
        better: for each dimension +1 where more is better, -1 where less is.

    Raises:
        ValueError: points are not of that many dimensions, a value is NaN, or `better` has something else than ±1.
    """
    if any(sign not in (1, -1) for sign in better):
        raise ValueError(f"Every dimension is better as +1 or -1, not {list(better)}.")
    if any(len(point) != len(better) for point in points):
        raise ValueError(f"Every point needs {len(better)} values, one for each dimension.")
    if not points or not better:
        return list(range(len(points)))
    values = np.asarray(points, dtype=np.float64) * np.asarray(better)
    if np.isnan(values).any():
        raise ValueError("A value is NaN, which is neither better nor worse than another.")
    distinct, place = np.unique(values, axis=0, return_inverse=True)
    kept = np.zeros(len(distinct), dtype=bool)
    kept[_undominated(distinct)] = True
    return [int(index) for index in np.flatnonzero(kept[place.reshape(-1)])]


def _undominated(values: np.ndarray) -> np.ndarray:
    """Which of these distinct points are on the front; more is better, and they are in ascending order.

    Whatever dominates a point comes after it in that order, so they are taken from the last on, and each is
    compared with the front so far and with its own chunk alone.
    """
    order = np.arange(len(values))[::-1]
    if values.shape[1] == 2:  # one pass tells: a front of very many points is usual here
        second = values[order, 1]
        best_before = np.concatenate(([-np.inf], np.maximum.accumulate(second)[:-1]))
        first = np.arange(len(order)) == 0
        return np.compress(first | (second > best_before), order)
    front: list[np.ndarray] = []
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        for known in front:
            chunk = chunk[~_dominated(values[chunk], values[known])]
        front.append(chunk[~_dominated(values[chunk], values[chunk], same=True)])
    return np.concatenate([np.empty(0, dtype=np.int64), *front])


def _dominated(points: np.ndarray, others: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Which points any of the others dominates: they are distinct, so as good in all is better in one."""
    at_least = np.ones((len(points), len(others)), dtype=bool)
    for dimension in range(points.shape[1]):
        at_least &= others[None, :, dimension] >= points[:, dimension, None]
    if same:
        np.fill_diagonal(at_least, False)
    return np.asarray(at_least.any(axis=1))
