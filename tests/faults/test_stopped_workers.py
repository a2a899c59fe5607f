"""A worker that stands still for longer than its lease, and wakes when others have done its job."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest
import sqlalchemy as sa

from farm.measurement import Outcome
from results_store.schema import attempts, jobs, results
from tests.faults.farms import PROCESSORS, Farm, Farms, Worker

pytestmark = pytest.mark.timeout(900)

#: Others have done the job by then, or the worker was stopped where it keeps them from it: in a transaction.
OTHERS_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What was stopped, in mid-job."""

    processes: list[psutil.Process]
    job_id: str
    attempt_id: str

    def wake(self) -> None:
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@pytest.mark.skipif(PROCESSORS < 2, reason="a stopped worker has the only processor")
@pytest.mark.short("sqlite")
def test_a_worker_that_wakes_late_writes_no_result(farms_of: Farms, seed: int, whole: bool) -> None:
    stops = 10 if whole else 1
    woken: list[Stopped] = []
    with farms_of.begin("SIGSTOP past the lease", seed=seed) as farm:
        farm.start("one", "two")
        while len(woken) < stops:
            # One job each: what is lost waits behind nothing else.
            farm.submit(2, min_s=0.5)
            stopped = farm.until(lambda: stop_one(farm) or farm.finished())
            if isinstance(stopped, Stopped):
                if others_do(farm, stopped):
                    woken.append(stopped)
                    farm.faults += 1
                stopped.wake()
                farm.until(lambda attempt=stopped.attempt_id: has_ended(farm, attempt))  # type: ignore[misc]
            farm.until(farm.finished)
        farm.conclude()
        late = farm.rows(sa.select(attempts).where(attempts.c.attempt_id.in_([s.attempt_id for s in woken])))
        assert len(late) == stops
        assert all(attempt.stale or attempt.outcome == Outcome.LOST for attempt in late)
        kept = farm.rows(sa.select(results.c.attempt_id))
        assert not {row.attempt_id for row in kept} & {stopped.attempt_id for stopped in woken}


def stop_one(farm: Farm) -> Stopped | None:
    """Stops a worker whose child measures: all of it, as a machine that sleeps, or what serves its jobs alone."""
    measuring = [sighting for sighting in farm.measuring() if farm.workers[sighting.worker].ready]
    if not measuring:
        return None
    chosen = farm.random.choice(measuring)
    processes = farm.random.choice((whole_worker, pool_process))(farm.workers[chosen.worker])
    stopped = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
            stopped.append(process)
    open_attempt = sa.select(attempts.c.attempt_id, attempts.c.job_id).join(
        jobs, sa.and_(jobs.c.job_id == attempts.c.job_id, jobs.c.fence == attempts.c.fence)
    )
    found = farm.rows(open_attempt.where(jobs.c.key == chosen.key, attempts.c.outcome.is_(None)))
    if stopped and found:
        return Stopped(processes=stopped, job_id=found[0].job_id, attempt_id=found[0].attempt_id)
    # It had just come to its end.
    Stopped(processes=stopped, job_id="", attempt_id="").wake()
    return None


def whole_worker(worker: Worker) -> list[psutil.Process]:
    """From the leaves to the root, so that nobody sees another stop."""
    return worker.tree[::-1]


def pool_process(worker: Worker) -> list[psutil.Process]:
    """The process alone: what it started measures on."""
    pid = worker.pool_process
    return [] if pid is None else [psutil.Process(pid)]


def others_do(farm: Farm, stopped: Stopped) -> bool:
    """Whether the job is done meanwhile, by somebody else."""
    wanted = sa.select(results.c.attempt_id).where(results.c.job_id == stopped.job_id)

    def done() -> bool:
        return any(row.attempt_id != stopped.attempt_id for row in farm.rows(wanted))

    with suppress(AssertionError):
        return farm.until(done, within_s=OTHERS_S, every_s=0.05)
    return False


def has_ended(farm: Farm, attempt_id: str) -> bool:
    """Whether it is recorded how the attempt ended, by the one that made it where that is late."""
    [attempt] = farm.rows(sa.select(attempts).where(attempts.c.attempt_id == attempt_id))
    return bool(attempt.stale or attempt.outcome not in (None, Outcome.LOST))
