"""The results store: the truth about runs, jobs, attempts and results, for producer and workers alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack

import sqlalchemy as sa

from farm.measurement import Profile
from farm.spec import Matrix
from farm.verdict import Level, judge
from results_store import claiming, looking, records, submitting
from results_store.clock import now
from results_store.database import Database, insert, make_directory
from results_store.migrations import migrate
from results_store.schema import locks, workers
from results_store.values import (
    Claim,
    EndedRun,
    Ending,
    JobResult,
    Lease,
    Progress,
    Reconciled,
    Retried,
    RunInfo,
    State,
    Submission,
    Tally,
    WorkerInfo,
)

__all__ = [
    "Claim",
    "EndedRun",
    "Ending",
    "JobResult",
    "Lease",
    "Progress",
    "Reconciled",
    "Retried",
    "RunInfo",
    "State",
    "Store",
    "Submission",
    "Tally",
    "WorkerInfo",
    "open_store",
]

_RESULTS_AT_ONCE = 20


def open_store(url: str, *, lease_s: float = 30.0) -> Store:
    """The store at this URL, its schema made or brought up to date.

    Args:
        url: `sqlite:///…` (its directory is made when missing) or `postgresql://…`.
        lease_s: how long a claim lasts without renewal.

    Raises:
        Unreachable: the database does not answer, or not as one.
        BadInput: the URL is malformed, or the schema is of a newer farm.
    """
    database = Database(url)
    if database.is_sqlite:
        make_directory(database.url)
    with ExitStack() as undo:
        undo.callback(database.close)
        migrate(database)
        undo.pop_all()
    return Store(database, lease_s=lease_s)


class Store:
    """Runs, jobs, attempts and results. Every method is one short transaction, safe beside any other.

    Usable from many threads, and in a forked child, which connects anew. Every method raises
    `Unreachable` while the database does not answer; it has then changed nothing that the same call,
    made again, would not also do.
    """

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    # ---- submitting

    def submit(
        self,
        matrix: Matrix,
        *,
        again: bool = False,
        environments: frozenset[str] = frozenset(),
        name: str | None = None,
    ) -> Submission:
        """A run of this matrix: a run of an equal one that stands for it, or else a new one.

        An unfinished run is taken up; jobs of it that were cancelled stay so until `resume`. A finished one
        stands where none of its jobs was cancelled and its results are of these environment classes. With a
        name, the run of that name stands for its matrix, however it ended, and no other does.

        Args:
            matrix: what to measure.
            again: always a new run, whose jobs adopt no result.
            environments: classes of the workers that would serve it; empty where unknown.
            name: of the run, unique in the store.

        Raises:
            BadInput: as `require_name`; nothing is written.
        """
        return self._database.transact(submitting.submit, matrix, again, environments, name)

    def require_name(self, name: str, matrix: Matrix, *, again: bool = False) -> None:
        """Passes where `submit` would take this name.

        Raises:
            BadInput: no run can have it, or its run is of another matrix, or is there and shall be measured again.
        """
        with self._database.reading() as connection:
            submitting.named(connection, name, matrix, again)

    def resume(self, run_id: str) -> int:
        """Cancelled jobs of the run are queued again; returns how many jobs are queued now."""
        return self._database.transact(submitting.resume, self._number(run_id))

    def retry(self, run_id: str, *, failed: bool = False, remeasure: Level | None = None) -> Retried:
        """Queues jobs of the run's matrix again that have ended; every attempt of theirs is kept.

        What was measured stays the result until something milder is: no later end takes it away.

        Args:
            run_id: the run.
            failed: those that failed; their failures are counted anew.
            remeasure: those whose measurement has this verdict, judged now, or a worse one.
        """
        number = self._number(run_id)
        doubted = [] if remeasure is None else list(self._doubted(run_id, remeasure))
        return self._database.transact(submitting.retry, number, failed, doubted)

    def _doubted(self, run_id: str, level: Level) -> Iterator[str]:
        """The jobs done whose measurement is as bad as this; few measurements are in memory at once."""
        for result in self.results(run_id):
            found = result.measurement if result.state is State.DONE else None
            if found is not None and judge(found).severity >= level.severity:
                yield result.job_id

    def cancel(self, run_id: str) -> tuple[int, int]:
        """Cancels what is queued and flags what runs: (how many cancelled, how many flagged)."""
        return self._database.transact(submitting.cancel, self._number(run_id))

    def claimable(self, run_id: str | None = None, *, limit: int = 1000) -> dict[str, list[str]]:
        """Queue → the next job ids in claim order, at most `limit` of each queue."""
        number = None if run_id is None else self._number(run_id)
        with self._database.reading() as connection:
            return looking.claimable(connection, number, limit)

    # ---- working

    def register(self, worker: WorkerInfo) -> None:
        """Makes a worker known, or known anew, and alive; quarantined where its `quarantined` says why."""
        since = None if worker.quarantined is None else now()
        row = {**records.worker_row(worker), "last_seen": now(), "left_at": None, "quarantined_since": since}
        with self._database.writing() as connection:
            known = insert(connection, workers).values(**row)
            connection.execute(known.on_conflict_do_update(index_elements=["worker_id"], set_=row))

    def heartbeat(self, worker_id: str) -> None:
        """Says that a registered worker lives."""
        self._database.transact(claiming.heartbeat, worker_id)

    def deregister(self, worker_id: str) -> None:
        """Says that a worker serves no more."""
        gone = sa.update(workers).where(workers.c.worker_id == worker_id).values(left_at=now())
        with self._database.writing() as connection:
            connection.execute(gone)

    def quarantine(self, worker_id: str, reason: str) -> bool:
        """A worker's device cannot be trusted: until `recover` it claims nothing and counts as serving nothing.

        Returns:
            Whether that is news: it was not quarantined, or for another reason.
        """
        this = workers.c.worker_id == worker_id
        why = records.clean(reason)
        with self._database.writing() as connection:
            before = connection.scalar(sa.select(workers.c.quarantined).where(this))
            since = sa.func.coalesce(workers.c.quarantined_since, now())
            connection.execute(sa.update(workers).where(this).values(quarantined=why, quarantined_since=since))
            return bool(before != why)

    def recover(self, worker_id: str) -> None:
        """A worker's device computes again."""
        this = workers.c.worker_id == worker_id
        with self._database.writing() as connection:
            connection.execute(sa.update(workers).where(this).values(quarantined=None, quarantined_since=None))

    def quarantined(self, worker_id: str) -> str | None:
        """Why a worker is quarantined; None where it is not."""
        with self._database.reading() as connection:
            return looking.quarantined(connection, worker_id)

    def claim(self, worker_id: str, job_id: str | None = None) -> Claim | None:
        """The job named or, if that is not claimable, the next one that this worker may do; None without one.

        Claimable: queued, or running on an expired lease; attempts left; not cancelled; asking for no more
        threads than the worker has; its cell bound to the worker's environment class, to none, or to one
        of which no worker lives. The claim binds the cell.

        A job that asks for what this worker lacks is left to another living one that has it; where its class has
        begun the cell, or no living worker has it, it is taken all the same, and found unsupported.

        A job whose result the worker's class already has is passed over: it ends with that, without an attempt,
        but for the jobs of runs that were submitted `again`.
        """
        while True:
            try:
                claim, more = self._database.transact(claiming.claim, worker_id, job_id, self._lease_s)
            except claiming.Rebound:
                continue
            except claiming.Unreadable as error:
                self._database.transact(claiming.refuse, *error.args)
                continue
            if not more:
                return claim

    def waits_for_another(self, worker_id: str, job_id: str) -> bool:
        """Whether a job is queued, and a living worker other than this one might take it."""
        with self._database.reading() as connection:
            return looking.waits_for_another(connection, worker_id, job_id)

    def renew(self, claim: Claim) -> Lease:
        """Prolongs the lease, and says whether the user wants the job stopped or another attempt has it."""
        return self._database.transact(claiming.renew, claim, self._lease_s)

    def finish(self, claim: Claim, ending: Ending) -> bool:
        """Records how an attempt ended; may be said again with the same answer.

        Returns:
            False where another attempt has the job: kept as a stale attempt, no result.
        """
        return self._database.transact(claiming.finish, claim, ending)

    def release(self, worker_id: str, reason: str) -> int:
        """Queues again what a worker that has ended still held, not counted against the jobs' attempts."""
        return self._database.transact(claiming.release, worker_id, reason)

    def reconcile(self) -> Reconciled:
        """Queues again what has outlived its lease, and fails what was lost too often."""
        return self._database.transact(claiming.reconcile)

    def try_lock(self, name: str, holder: str, ttl_s: float) -> bool:
        """Whether `holder` has the named lock for the next `ttl_s` seconds; saying it again prolongs it."""
        with self._database.writing() as connection:
            values = {"holder": holder, "until": now() + ttl_s}
            taken = insert(connection, locks).values(name=name, **values)
            free = sa.or_(locks.c.until < now(), locks.c.holder == holder)
            taken = taken.on_conflict_do_update(index_elements=["name"], set_=values, where=free)
            return connection.execute(taken.returning(locks.c.name)).one_or_none() is not None

    # ---- looking

    def runs(self) -> list[RunInfo]:
        """Every run, newest first."""
        with self._database.reading() as connection:
            return looking.all_runs(connection)

    def run(self, run_id: str) -> RunInfo:
        """The run of this name or id, of the only id that begins so, or the `latest`.

        Raises:
            BadInput: no such run.
        """
        number = self._number(run_id)
        with self._database.reading() as connection:
            return looking.all_runs(connection, number)[0]

    def ended_runs(self) -> list[EndedRun]:
        """The runs without a job to do, oldest first; cheap enough to ask for every few seconds."""
        with self._database.reading() as connection:
            return looking.ended_runs(connection)

    def tally(self) -> Tally:
        """What the whole store holds, counted."""
        with self._database.reading() as connection:
            return looking.tally(connection)

    def progress(self, run_id: str) -> Progress:
        """How a run goes."""
        number = self._number(run_id)
        with self._database.reading() as connection:
            return looking.progress(connection, number)

    def workers(self, alive_only: bool = True) -> list[WorkerInfo]:
        """The workers, by id."""
        with self._database.reading() as connection:
            return looking.all_workers(connection, alive_only)

    def results(self, run_id: str) -> Iterator[JobResult]:
        """Every job of the run's matrix by cell and repeat, measured or not; few are in memory at once."""
        return self._results(run_id, controls=False)

    def latest(self, run_id: str, *, limit: int, known: Collection[str] = ()) -> dict[str, JobResult]:
        """The results of the run's matrix that were recorded last, by the attempt that made each, oldest first.

        Args:
            run_id: the run.
            limit: so many at most.
            known: attempts whose results are left out; they count towards the limit.
        """
        number = self._number(run_id)
        with self._database.reading() as connection:
            return looking.latest(connection, number, limit, known)

    def controls(self, run_id: str) -> Iterator[JobResult]:
        """Every repeat of the run's controls, as `results` has the matrix's jobs."""
        return self._results(run_id, controls=True)

    def _results(self, run_id: str, *, controls: bool) -> Iterator[JobResult]:
        number = self._number(run_id)
        after: tuple[int, int] | None = (-1, -1)
        while after is not None:
            # short transactions: a long one would keep SQLite's log from being folded back
            with self._database.reading() as connection:
                chunk = looking.results_after(connection, number, after, _RESULTS_AT_ONCE, controls)
            yield from chunk
            full = len(chunk) == _RESULTS_AT_ONCE
            after = (chunk[-1].cell_ordinal, chunk[-1].spec.repeat) if full else None

    def profile(self, job_id: str) -> Profile | None:
        """The profile in a job's result, without its trace; None where there is none."""
        with self._database.reading() as connection:
            return looking.profile(connection, job_id)

    def trace(self, job_id: str) -> str | None:
        """The trace in a job's result, JSON of some MiB in Chrome's format; None where there is none."""
        with self._database.reading() as connection:
            return looking.trace(connection, job_id)

    def close(self) -> None:
        """Closes the connections of this process."""
        self._database.close()

    def _number(self, run_id: str) -> int:
        with self._database.reading() as connection:
            return looking.run_number(connection, run_id)
