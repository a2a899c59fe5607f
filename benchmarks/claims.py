"""Can 32 workers claim at once? Jobs a second, none idle while work waits, none lost, none done twice.

So many processes claim jobs from one PostgreSQL and finish each at once with a measurement that took no time:
`Store.claim` and `Store.finish`, as a worker's supervisor calls them, with nothing of the queue and the devices
around them. Asked is:

- all together claim at least 100 jobs a second;
- none is idle while work waits: nobody is told that there is nothing to do while a job waits that another one
  claims later;
- every job has one result, from one claim;
- a job takes as much of the processors, the server's too, among 100,000 as among 1,000.

A measured run is claimed from its first job to its last. Smaller ones are measured three times, and the middle one
counts. PostgreSQL is a server of its own; or the one that FARM_DATABASE_URL names, where databases are made for
this and taken away. The database writes to the disk at every commit.

    python -m benchmarks.claims
    python -m benchmarks.claims --jobs 400,2000 --claimants 8

The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from benchmarks import loads
from benchmarks.figures import Figure, print_last
from farm.measurement import Measurement, Outcome
from results_store.database import Database
from results_store.schema import attempts, jobs, results
from results_store.store import Ending, State, Store, open_store
from tests import factories

CLAIMS_PER_S = 100
#: Runs of fewer jobs than this are measured so often.
FEW, TIMES = 10_000, 3
#: Jobs of another run that each claimant does before the clock starts: to connect and to prepare statements.
WARM_UP = 3
#: Told that there is nothing to do, a claimant waits so long; told nothing else for so long, it gives up.
_PAUSE_S, _PATIENCE_S = 0.01, 60.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call of `Store.claim`: seconds of the clock that all processes of a host share."""

    began: float
    ended: float
    #: None where there was nothing to do.
    job_id: str | None
    #: When the job was finished; the answer's own time where there was none.
    done: float


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a run came to."""

    jobs: int
    seconds: float
    #: Of processors: all claimants, and the database's server.
    cpu_s: float
    asked: Sequence[Asked]
    #: Jobs without exactly one result of their own, or in another state than done.
    lost: int
    #: Claims or attempts beyond the first of each job.
    doubled: int

    @property
    def per_s(self) -> float:
        """Claims a second of all claimants together."""
        return self.jobs / self.seconds

    @property
    def idle(self) -> int:
        """How often somebody was told that there is nothing to do while a job waited that was claimed later."""
        last = max((each.began for each in self.asked if each.job_id is not None), default=0.0)
        return sum(each.job_id is None and each.ended < last for each in self.asked)


def claimant(number: int) -> tuple[list[Asked], float]:
    """Claims and finishes in a process of its own until nothing is left; also the processor seconds that it took.

    `_shared` is what `_share` was given.
    """
    url, run_id, start, left = _shared
    worker = f"cpu@{number}"
    found: list[Asked] = []
    with closing(open_store(url)) as store:
        store.register(factories.worker(worker))
        measured = factories.measurement()
        for _ in range(WARM_UP):
            _claim_one(store, worker, measured)
        start.wait(timeout=120)
        # the first one tells of the server too
        spent = -time.process_time() - (loads.server_s(url) if number == 0 else 0.0)
        waited_since = time.monotonic()
        while left.value > 0 and time.monotonic() < waited_since + _PATIENCE_S:
            asked, is_done = _claim_one(store, worker, measured)
            found.append(asked)
            if asked.job_id is None:
                time.sleep(_PAUSE_S)
                continue
            waited_since = asked.done
            if is_done and asked.job_id.startswith(run_id):
                with left.get_lock():
                    left.value -= 1
    return found, spent + time.process_time()


def _claim_one(store: Store, worker: str, measured: Measurement) -> tuple[Asked, bool]:
    """One claim and its end; whether the end counted."""
    began = time.monotonic()
    claim = store.claim(worker)
    ended = time.monotonic()
    if claim is None:
        return Asked(began=began, ended=ended, job_id=None, done=ended), False
    ending = Ending(outcome=Outcome.OK, measurement=measured.model_copy(update={"spec": claim.spec}))
    counted = store.finish(claim, ending)
    return Asked(began=began, ended=ended, job_id=claim.job_id, done=time.monotonic()), counted


_shared: Any = None


def _share(*given: Any) -> None:
    global _shared
    _shared = given


def claimed(url: str, count: int, claimants: int) -> Claimed:
    """A run of so many jobs, claimed and finished by so many processes."""
    # forked, because starting so many anew would take longer than many a run; no connection is open here then
    context = multiprocessing.get_context("fork")
    with closing(open_store(url)) as store:
        warm_up = loads.matrix(loads.STEP * -(-claimants * WARM_UP // loads.STEP), model="resnet18")
        store.submit(warm_up)
        run_id = store.submit(loads.matrix(count)).run_id
    start, left = context.Barrier(claimants), context.Value("q", count)
    with context.Pool(claimants, _share, (url, run_id, start, left)) as pool:
        answers = pool.map(claimant, range(claimants), chunksize=1)
    found, spent = [mine for mine, _ in answers], sum(cpu_s for _, cpu_s in answers) + loads.server_s(url)
    asked = [each for mine in found for each in mine if each.job_id is None or each.job_id.startswith(run_id)]
    ours = [each for each in asked if each.job_id is not None]
    seconds = max(each.done for each in ours) - min(each.began for each in ours)
    print(f"  {count:,} jobs in {seconds:.1f} s; {_described(found, ours)}", flush=True)
    lost, doubled = _wrong(url, run_id, count, ours)
    return Claimed(jobs=count, seconds=seconds, cpu_s=spent, asked=asked, lost=lost, doubled=doubled)


def _described(found: list[list[Asked]], ours: list[Asked]) -> str:
    took = sorted(each.ended - each.began for each in ours)
    counts = [sum(each.job_id is not None for each in mine) for mine in found]
    ends = sorted(each.done for each in ours)
    tenth = max(1, len(ends) // 10)
    first, last = (tenth / (part[-1] - part[0] or 1) for part in (ends[: tenth + 1], ends[-tenth - 1 :]))
    return (
        f"a claim takes {statistics.median(took) * 1e3:.1f} ms in the median and {took[-1] * 1e3:.0f} ms at most; "
        f"each claimant did {min(counts):,} to {max(counts):,}; the first tenth went at {first:.0f} a second, "
        f"the last at {last:.0f}"
    )


def _wrong(url: str, run_id: str, count: int, ours: list[Asked]) -> tuple[int, int]:
    """(Jobs lost, jobs doubled.)"""
    of_run = jobs.c.job_id.startswith(run_id)
    own = sa.and_(attempts.c.attempt_id == results.c.attempt_id, attempts.c.job_id == jobs.c.job_id)
    joined = jobs.join(results, results.c.job_id == jobs.c.job_id).join(attempts, own)
    good = sa.select(sa.func.count()).select_from(joined).where(of_run, jobs.c.state == State.DONE)
    tried = sa.select(sa.func.count()).select_from(attempts).where(attempts.c.job_id.startswith(run_id))
    with closing(Database(url)) as database, database.reading() as connection:
        kept, begun = connection.execute(good).scalar_one(), connection.execute(tried).scalar_one()
    return count - kept, max(begun, len(ours)) - len({each.job_id for each in ours})


def middle(make: Callable[[], str], count: int, claimants: int) -> Claimed:
    """The run of the middle rate of several; what is amiss in any of them is amiss in it."""
    found = [claimed(make(), count, claimants) for _ in range(TIMES if count < FEW else 1)]
    ordered = sorted(found, key=lambda each: each.per_s)
    wrong = max(found, key=lambda each: each.lost + each.doubled + each.idle)
    return wrong if wrong.lost + wrong.doubled + wrong.idle else ordered[len(ordered) // 2]


def figures(found: Sequence[Claimed], claimants: int) -> list[Figure]:
    """What all runs, the least first, come to."""
    slowest = min(found, key=lambda each: each.per_s)
    idle, lost, doubled = (sum(getattr(each, name) for each in found) for name in ("idle", "lost", "doubled"))
    return [
        Figure(
            name=f"{claimants} claimants: claims a second, of {slowest.jobs:,} jobs",
            result=f"{slowest.per_s:.0f}",
            goal=f"≥ {CLAIMS_PER_S}",
            reached=slowest.per_s >= CLAIMS_PER_S,
        ),
        Figure(name="idle while work waits", result=f"{idle:,} times", goal="0", reached=idle == 0),
        Figure(name="jobs lost", result=f"{lost:,}", goal="0", reached=lost == 0),
        Figure(name="jobs doubled", result=f"{doubled:,}", goal="0", reached=doubled == 0),
        loads.flat("claimed and finished", {each.jobs: each.cpu_s / each.jobs for each in found}),
    ]


def main() -> None:
    """Claims everything, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--jobs", type=loads.sizes, default="1000,100000", help="joined by commas")
    arguments.add_argument("--claimants", type=int, default=32, help="processes that claim at once")
    given = arguments.parse_args()
    if given.claimants < 1:
        arguments.error(f"--claimants {given.claimants}: at least one has to claim")
    with loads.refusing(), loads.postgresql() as make:
        found = [middle(make, count, given.claimants) for count in given.jobs]
    print_last(figures(found, given.claimants), host=loads.host())


if __name__ == "__main__":
    main()
