"""Runs that are cancelled at any moment: what runs stops soon, what was measured is kept."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from results_store.schema import is_open, jobs, results
from results_store.values import State
from tests.faults import invariants
from tests.faults.farms import ROOT, Farm, Farms

pytestmark = pytest.mark.timeout(900)

#: A running job stops within this.
STOP_S = 10.0

JOBS = 8
#: The last ones of a run would take far longer than anybody waits.
LONG = range(5, JOBS)

#: So many of the moments ask as a user does, by `python -m producer cancel`.
BY_HAND = 1


@pytest.mark.short("sqlite")
def test_a_run_is_cancelled_at_any_moment(farms_of: Farms, whole: bool) -> None:
    moments = 20 if whole else 3
    with farms_of.begin("cancelled at any moment") as farm:
        farm.start("one", "two")
        farm.script("time.sleep(600)", repeats=LONG)
        for number in range(moments):
            run_id = farm.submit(JOBS, min_s=0.05)
            farm.rest(farm.random.uniform(0, 1.0))
            before = measured(farm, run_id)
            cancel(farm, run_id, by_hand=number < BY_HAND)
            farm.faults += 1
            farm.until(lambda run_id=run_id: ended(farm, run_id), within_s=STOP_S)  # type: ignore[misc]
            assert before <= measured(farm, run_id)
            farm.until(lambda: not farm.measuring(), within_s=STOP_S)
        farm.conclude(is_done_or_cancelled)


def is_done_or_cancelled(job: Any) -> bool:
    """A job that was not done had to be stopped; a long one cannot have been done."""
    return job.state == State.CANCELLED or (invariants.is_done(job) and job.repeat not in LONG)


def cancel(farm: Farm, run_id: str, *, by_hand: bool) -> None:
    """Cancels the run: as a user, or by what that comes to in the store."""
    if by_hand:
        command = [sys.executable, "-m", "producer", "cancel", run_id]
        subprocess.run(command, cwd=ROOT, env=farm.variables, check=True, capture_output=True, timeout=60)
    else:
        farm.store.cancel(run_id)


def measured(farm: Farm, run_id: str) -> set[tuple[str, str]]:
    """The run's results."""
    wanted = sa.select(results.c.job_id, results.c.attempt_id).where(results.c.job_id.startswith(run_id))
    return {(row.job_id, row.attempt_id) for row in farm.rows(wanted)}


def ended(farm: Farm, run_id: str) -> bool:
    """Whether no job of the run waits or runs."""
    return not farm.rows(sa.select(jobs.c.job_id).where(jobs.c.job_id.startswith(run_id), is_open(jobs)))
