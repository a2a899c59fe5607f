"""Processes end at the points where it matters most, exactly there, five times each (`crashes.POINTS`)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.faults import crashes
from tests.faults.farms import Farms

pytestmark = pytest.mark.timeout(900)

CRASHES = 5

#: Passed by the clock, not by jobs: the first of them end the process, while there is something to reconcile.
BY_THE_CLOCK = "reconciled"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where the suite runs whole, a farm for each point; else one that passes all of them, once each."""
    whole = metafunc.config.getoption("--faults", default="short") == "whole"
    points = [(point,) for point in crashes.POINTS] if whole else [tuple(crashes.POINTS)]
    metafunc.parametrize("points", points, ids=[points[0] if len(points) == 1 else "all" for points in points])


@pytest.mark.short("postgresql")
def test_processes_end_at_named_points(farms_of: Farms, points: Sequence[str], whole: bool) -> None:
    scenario = f"ends: {points[0]}" if whole else "ends: at named points"
    chosen = {point: passages(point, CRASHES if whole else 1) for point in points}
    with farms_of.begin(scenario, passages=chosen, lease_s=1.0) as farm:
        farm.start("one", "two")
        # Without messages: the reconciler that ends has those to send which nobody else does.
        farm.submit(12, builds="builds" in points, min_s=0.25, messages=0 if points == (BY_THE_CLOCK,) else 1)
        farm.conclude()
        assert sorted(crashes.struck(farm.folder)) == sorted(point for point in points for _ in chosen[point])


def passages(point: str, crashes: int) -> list[int]:
    """Which passages end the process: the same ones in every run of the suite, among the first of the jobs."""
    if point == BY_THE_CLOCK:
        return list(range(crashes))
    return sorted(random.Random(point).sample(range(2 * crashes), crashes))
