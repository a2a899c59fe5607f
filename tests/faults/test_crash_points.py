"""Processes end at the points where it matters most, exactly there, five times each (`crashes.POINTS`)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults import crashes
from tests.faults.farms import Farms

pytestmark = pytest.mark.timeout(900)


@pytest.mark.short("postgresql")
def test_processes_end_at_named_points(farms_of: Farms, whole: bool) -> None:
    times, jobs = (5, 60) if whole else (1, 12)
    passages = {point: chosen(number, times) for number, point in enumerate(crashes.POINTS)}
    with farms_of.begin("ends at named points", passages=passages, lease_s=1.0) as farm:
        farm.start("one", "two")
        # Without messages: a reconciler that ends before it has sent any leaves that to the next.
        farm.submit(jobs, builds=True, min_s=0.25, messages=0)
        farm.conclude()
        assert Counter(crashes.struck(farm.folder)) == dict.fromkeys(crashes.POINTS, times)


def chosen(number: int, times: int) -> list[int]:
    """Which passages of a point end the process: other ones for each, the same ones in every run of the suite."""
    return [number % 3 + 2 * time for time in range(times)]
