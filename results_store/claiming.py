"""How jobs change hands: claim, renew, finish, release and reconcile, each in one transaction."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from farm.errors import BadInput, FarmError
from farm.measurement import Outcome
from farm.spec import JobSpec
from results_store import keeping, records
from results_store.clock import now
from results_store.schema import attempts, cells, is_open, is_running, jobs, requirements, results, workers
from results_store.values import (
    ALIVE_S,
    MAX_FAILURES,
    MAX_HAND_BACKS,
    MAX_LOSSES,
    Claim,
    Ending,
    Lease,
    Reconciled,
    State,
    WorkerInfo,
)

#: A row with any columns.
_Row: TypeAlias = Any

_VANISHED = "the worker vanished: its lease ended without a renewal"
#: So often an attempt at a job may end in each way; then the job has failed.
_MOST = {"failures": MAX_FAILURES, "losses": MAX_LOSSES, "hand_backs": MAX_HAND_BACKS}


class Rebound(Exception):
    """Another environment class got the cell between choosing the job and taking it: claim again."""


class Unreadable(Exception):
    """Nobody can tell any more what the job chosen was to measure: its id, its fence, and why. To be refused."""


def claim(
    connection: sa.Connection, worker_id: str, job_id: str | None, lease_s: float
) -> tuple[Claim | None, bool]:
    """(The job named or else the next one for this worker, now its, None without one; whether to look again.)

    To be looked for again, in another transaction, where this one ended a job with a result that is there already:
    who takes several cells at once would wait in a circle with others who do. None in quarantine.

    Raises:
        Rebound, Unreadable: nothing was taken, once the transaction is undone.
    """
    worker = _seen(connection, worker_id)
    job = None if worker.quarantined is not None else _taken(connection, worker, job_id, lease_s)
    if job is None:
        return None, False
    known = _known(connection, worker, job)
    if known is None:
        return _start_attempt(connection, worker, job), False
    _adopt(connection, job, known)
    return None, True


def refuse(connection: sa.Connection, job_id: str, fence: int, reason: str) -> None:
    """Ends a job that nobody can measure, so that it is in nobody's way; none that was claimed since."""
    still = sa.select(jobs.c.job_id).where(jobs.c.job_id == job_id, jobs.c.fence == fence, is_open(jobs))
    if connection.scalar(still.with_for_update()) is None:
        return
    _end_open_attempt(connection, job_id, _VANISHED)
    _follow(connection, job_id, Outcome.ERROR, reason)
    keeping.settle(connection, job_id)


def renew(connection: sa.Connection, claim: Claim, lease_s: float) -> Lease:
    """The lease, prolonged; also where it had run out and nobody took the job since."""
    job, attempt = _job_and_attempt(connection, claim)
    if not _is_ours(job, attempt, claim):
        return Lease.LOST
    _take_back(connection, job, attempt)
    values = {"state": State.RUNNING, "worker_id": claim.worker_id, "lease_until": now() + lease_s}
    connection.execute(sa.update(jobs).where(jobs.c.job_id == claim.job_id).values(values))
    _touch(connection, claim.worker_id)
    return Lease.CANCELLED if job.cancel_requested else Lease.HELD


def finish(connection: sa.Connection, claim: Claim, ending: Ending) -> bool:
    """Records how an attempt ended and what follows for its job; False where its fence had moved on."""
    job, attempt = _job_and_attempt(connection, claim)
    if attempt.outcome == ending.outcome and not attempt.stale and ending.outcome is not Outcome.LOST:
        return True  # said again: the answer to the first time got lost
    ours = _is_ours(job, attempt, claim)
    if ours:
        _take_back(connection, job, attempt)
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.attempt_id == claim.attempt_id)
        .values(**records.ending(ending), ended_at=now(), stale=not ours)
    )
    if ours and _is_to_be_measured_again(job, claim, ending):
        _measure_again(connection, claim.job_id)
    elif ours:
        _follow(connection, claim.job_id, ending.outcome, ending.reason, handed_back=ending.handed_back)
        # nothing else was ever kept of a job that was claimed once
        if not (job.fence > 1 and keeping.settle(connection, claim.job_id)) and ending.outcome.is_result:
            keeping.write_result(connection, claim.job_id, claim.attempt_id)
    return ours


def release(connection: sa.Connection, worker_id: str, reason: str) -> int:
    """Queues again, at once and uncounted, what a worker that has ended still held."""
    held = sa.select(jobs.c.job_id).where(is_running(jobs), jobs.c.worker_id == worker_id)
    released = connection.scalars(held.with_for_update()).all()
    for job_id in released:
        _end_open_attempt(connection, job_id, reason)
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.job_id == job_id)
            # the fence moves: this worker has ended, so whatever still comes from it is late
            .values(fence=jobs.c.fence + 1, state=_queued_or_cancelled(), worker_id=None, lease_until=None)
            .values(outcome=Outcome.LOST, reason=records.clean(reason))
        )
        keeping.settle(connection, job_id)
    return len(released)


def reconcile(connection: sa.Connection) -> Reconciled:
    """Queues again what has outlived its lease, and fails what was lost too often."""
    states = _taken_back(connection)
    return Reconciled(requeued=states.count(State.QUEUED), failed=states.count(State.FAILED))


def forsaken(connection: sa.Connection, run_number: int) -> int:
    """Ends what nobody will stop any more in a run that is being cancelled; how many jobs.

    Their leases have ended, and their workers live no more: there may be none that would reconcile.
    """
    living = sa.select(workers.c.worker_id).where(is_alive())
    return len(_taken_back(connection, jobs.c.run_number == run_number, jobs.c.worker_id.not_in(living)))


def _taken_back(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[State]:
    """Ends attempts whose lease has; what becomes of their jobs."""
    expired = sa.select(jobs.c.job_id).where(is_running(jobs), jobs.c.lease_until < now(), *which)
    states: list[State] = []
    for job_id in connection.scalars(expired.with_for_update(skip_locked=True)).all():
        _end_open_attempt(connection, job_id, _VANISHED)
        state = _follow(connection, job_id, Outcome.LOST, _VANISHED)
        states.append(State.DONE if keeping.settle(connection, job_id) else state)
    return states


def heartbeat(connection: sa.Connection, worker_id: str) -> None:
    """Says that a worker lives."""
    _seen(connection, worker_id)


# ---- claiming


@dataclass(frozen=True, kw_only=True)
class _Worker:
    id: str
    queues: tuple[str, ...]
    threads: int
    environment_key: str
    #: As JSON: few claims need to look into it.
    environment: str
    quarantined: str | None


def _touch(connection: sa.Connection, worker_id: str) -> None:
    connection.execute(sa.update(workers).where(workers.c.worker_id == worker_id).values(last_seen=now()))


def _seen(connection: sa.Connection, worker_id: str) -> _Worker:
    found = connection.execute(
        sa.update(workers)
        .where(workers.c.worker_id == worker_id)
        .values(last_seen=now(), left_at=None)
        .returning(
            workers.c.queues,
            workers.c.threads,
            workers.c.environment_key,
            workers.c.environment,
            workers.c.quarantined,
        )
    ).one_or_none()
    if found is None:
        raise FarmError(f"Worker {worker_id!r} is not registered in this store: register it first.")
    return _Worker(
        id=worker_id,
        queues=tuple(json.loads(found.queues)),
        threads=found.threads,
        environment_key=found.environment_key,
        environment=found.environment,
        quarantined=found.quarantined,
    )


def _taken(connection: sa.Connection, worker: _Worker, job_id: str | None, lease_s: float) -> _Row | None:
    """The job named or else the next one, running, its cell bound, and no attempt of it open; None without one."""
    taken: _Row | None = None
    left = _left_to_others(connection, worker)
    if job_id is not None:
        named = sa.and_(_candidate.c.job_id == job_id, _candidate.c.queue.in_(worker.queues))
        taken = _take(connection, worker, named, left, lease_s)
    for queue in _by_next_job(connection, worker.queues):
        if taken is None:
            taken = _take(connection, worker, _candidate.c.queue == queue, left, lease_s)
    if taken is None:
        return None
    if not _bind(connection, worker, taken.run_number, taken.cell_ordinal):
        raise Rebound
    if taken.fence > 1:
        _end_open_attempt(connection, taken.job_id, _VANISHED)
    return taken


#: The job looked at, apart from the one updated.
_candidate = jobs.alias("candidate")


def claimable(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Queued, or running on an expired lease and not lost too often."""
    expired = sa.and_(
        table.c.lease_until < now(), table.c.losses + 1 < MAX_LOSSES, sa.not_(table.c.cancel_requested)
    )
    return sa.and_(is_open(table), sa.or_(table.c.state == State.QUEUED, expired))


def _by_next_job(connection: sa.Connection, queues: tuple[str, ...]) -> tuple[str, ...]:
    """The queues, the one with the next job first. A queue at a time uses the index and stops early."""
    if len(queues) < 2:
        return queues
    place: dict[str, tuple[int, int]] = {}
    for queue in queues:
        first = sa.select(_candidate.c.run_number, _candidate.c.ordinal).where(
            _candidate.c.queue == queue, claimable(_candidate)
        )
        found = connection.execute(_in_order(first).limit(1)).one_or_none()
        if found is not None:
            place[queue] = (found.run_number, found.ordinal)
    return tuple(sorted(place, key=place.__getitem__))


def _in_order(query: sa.Select[Any]) -> sa.Select[Any]:
    return query.order_by(_candidate.c.run_number, _candidate.c.ordinal)


def _take(
    connection: sa.Connection,
    worker: _Worker,
    which: sa.ColumnElement[bool],
    left: Collection[str],
    lease_s: float,
) -> _Row | None:
    enough = sa.or_(_candidate.c.threads.is_(None), _candidate.c.threads <= worker.threads)
    first = sa.select(_candidate.c.job_id).where(which, claimable(_candidate), enough, _may_bind(worker, left))
    first = _in_order(first).limit(1).with_for_update(of=_candidate, skip_locked=True)
    lost = sa.case((jobs.c.state == State.RUNNING, 1), else_=0)
    return connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == first.scalar_subquery())
        .values(state=State.RUNNING, fence=jobs.c.fence + 1, attempts=jobs.c.attempts + 1)
        .values(losses=jobs.c.losses + lost, lease_until=now() + lease_s, worker_id=worker.id)
        .returning(jobs)
    ).one_or_none()


def _left_to_others(connection: sa.Connection, worker: _Worker) -> list[str]:
    """The requirements that this worker does not meet and another one does, which lives.

    A device that is being probed, or looked after, counts. What no living worker meets is for anybody who serves
    its queue: to be told `unsupported`, and why, is better than to wait for ever.
    """
    known = {text: records.requirement(text) for text in connection.scalars(sa.select(requirements.c.requirement))}
    asked = {text: wanted for text, wanted in known.items() if wanted and wanted.queue in worker.queues}
    if not asked:
        return []
    here = records.environment(worker.environment)
    unmet = {text: wanted for text, wanted in asked.items() if wanted.lacking(here)}
    others = list(_others(connection, worker)) if unmet else []
    return [text for text, wanted in unmet.items() if any(other.meets(wanted) for other in others)]


def _others(connection: sa.Connection, worker: _Worker) -> Iterator[WorkerInfo]:
    """The other workers that live; not those of a farm of another version that we cannot read."""
    living = connection.execute(sa.select(workers).where(is_alive(), workers.c.worker_id != worker.id))
    for row in living:
        with contextlib.suppress(ValueError):
            yield records.worker(row)


def is_alive() -> sa.ColumnElement[bool]:
    """Whether a worker's heartbeat is young, and it has not said goodbye."""
    return sa.and_(workers.c.last_seen > now() - ALIVE_S, workers.c.left_at.is_(None))


def _may_bind(worker: _Worker, left: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether the candidate's cell is of the worker's class, or may become so and is not left to others."""
    place = (cells.c.run_number == _candidate.c.run_number, cells.c.ordinal == _candidate.c.cell_ordinal)
    which = [*place, _bindable(worker), *([_is_taken_by(worker, left)] if left else [])]
    return sa.exists().where(*which).correlate(_candidate)


def _is_taken_by(worker: _Worker, left: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether a cell is not left to others. What its class has begun a worker goes on with: nobody else may."""
    begun = cells.c.environment_key == worker.environment_key
    return sa.or_(cells.c.requirement.is_(None), cells.c.requirement.not_in(left), begun)


def _bindable(worker: _Worker) -> sa.ColumnElement[bool]:
    alive = sa.exists().where(
        workers.c.environment_key == cells.c.environment_key, is_alive(), workers.c.quarantined.is_(None)
    )
    bound = cells.c.environment_key
    return sa.or_(bound.is_(None), bound == worker.environment_key, sa.not_(alive.correlate(cells)))


def _bind(connection: sa.Connection, worker: _Worker, run_number: int, cell_ordinal: int) -> bool:
    # also where it is bound to this class already: the row's lock makes claims of one cell take turns
    changed = connection.execute(
        sa.update(cells)
        .where(cells.c.run_number == run_number, cells.c.ordinal == cell_ordinal, _bindable(worker))
        .values(environment_key=worker.environment_key)
    )
    return changed.rowcount == 1


def _start_attempt(connection: sa.Connection, worker: _Worker, job: _Row) -> Claim:
    attempt_id = f"{job.job_id}.{job.fence}"
    connection.execute(
        sa.insert(attempts).values(
            attempt_id=attempt_id,
            job_id=job.job_id,
            run_number=job.run_number,
            fence=job.fence,
            number=job.attempts,
            worker_id=worker.id,
            environment_key=worker.environment_key,
            started_at=now(),
        )
    )
    return Claim(
        job_id=job.job_id,
        run_id=records.run_id_of(job.job_id),
        fence=job.fence,
        attempt=job.attempts,
        attempt_id=attempt_id,
        worker_id=worker.id,
        spec=_spec(connection, job),
    )


def _spec(connection: sa.Connection, job: _Row) -> JobSpec:
    place = (cells.c.run_number == job.run_number, cells.c.ordinal == job.cell_ordinal)
    text = connection.execute(sa.select(cells.c.spec).where(*place)).scalar_one()
    try:
        cell = records.cell(text)
    except BadInput as error:
        raise Unreadable(job.job_id, job.fence - 1, str(error)) from None
    if not records.is_as_submitted(text, job.repeat, job.key):
        reason = "Its row in the store does not say any more what was submitted. Submit it again."
        raise Unreadable(job.job_id, job.fence - 1, reason)
    return cell.repeated(job.repeat)


# ---- ending


def _job_and_attempt(connection: sa.Connection, claim: Claim) -> tuple[_Row, _Row]:
    job = connection.execute(sa.select(jobs).where(jobs.c.job_id == claim.job_id).with_for_update()).one_or_none()
    attempt = connection.execute(
        sa.select(attempts.c.outcome, attempts.c.stale).where(attempts.c.attempt_id == claim.attempt_id)
    ).one_or_none()
    if job is None or attempt is None:
        raise FarmError(f"Attempt {claim.attempt_id} is not in this store: was the database replaced?")
    return job, attempt


def _is_ours(job: _Row, attempt: _Row, claim: Claim) -> bool:
    """Nobody claimed the job since. Its lease may have run out: what was measured counts all the same."""
    unended = attempt.outcome in (None, Outcome.LOST) and not attempt.stale
    return bool(job.fence == claim.fence and State(job.state).is_open and unended)


def _take_back(connection: sa.Connection, job: _Row, attempt: _Row) -> None:
    """Undoes a loss that was none: the worker is still there."""
    if attempt.outcome is None:
        return
    connection.execute(sa.update(jobs).where(jobs.c.job_id == job.job_id).values(losses=jobs.c.losses - 1))
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.job_id == job.job_id, attempts.c.fence == job.fence)
        .values(outcome=None, reason="", ended_at=None)
    )


def _end_open_attempt(connection: sa.Connection, job_id: str, reason: str) -> None:
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.outcome.is_(None))
        .values(outcome=Outcome.LOST, reason=records.clean(reason), ended_at=now())
    )


def _is_to_be_measured_again(job: _Row, claim: Claim, ending: Ending) -> bool:
    wanted = ending.remeasure and ending.outcome is Outcome.OK and not job.cancel_requested
    return bool(wanted and job.remeasured < claim.spec.protocol.remeasure)


def _measure_again(connection: sa.Connection, job_id: str) -> None:
    """Queues a job that was measured once more; others come first, because they have their messages already."""
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(state=State.QUEUED, remeasured=jobs.c.remeasured + 1, lease_until=None, worker_id=None)
        .values(outcome=Outcome.OK, reason="")
    )


def _follow(
    connection: sa.Connection, job_id: str, outcome: Outcome, reason: str, *, handed_back: bool = False
) -> State:
    """What follows for a job from how its attempt ended."""
    job = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).one()
    failed = outcome in (Outcome.CRASHED, Outcome.TIMEOUT)
    counts = {
        "failures": job.failures + (failed and not handed_back),
        "losses": job.losses + (outcome is Outcome.LOST),
        "hand_backs": job.hand_backs + handed_back,
    }
    state = _next_state(outcome, counts, job.cancel_requested)
    if state is State.FAILED and outcome is not Outcome.ERROR:
        reason = f"given up after {_given_up_after(outcome, counts, handed_back)}: {reason}"
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(
            state=state, lease_until=None, worker_id=None, outcome=outcome, reason=records.clean(reason), **counts
        )
    )
    return state


def _next_state(outcome: Outcome, counts: Mapping[str, int], cancel_requested: bool) -> State:
    if outcome.is_result:
        return State.DONE
    if outcome is Outcome.ERROR:
        return State.FAILED
    if cancel_requested:
        return State.CANCELLED
    # cancelled, but the user took that back meanwhile: it is simply still to do
    return State.FAILED if any(counts[name] >= most for name, most in _MOST.items()) else State.QUEUED


def _given_up_after(outcome: Outcome, counts: Mapping[str, int], handed_back: bool) -> str:
    if handed_back:
        return f"{counts['hand_backs']} attempts, each of which left its worker in quarantine"
    return f"{counts['losses' if outcome is Outcome.LOST else 'failures']} attempts"


def _queued_or_cancelled() -> sa.ColumnElement[str]:
    return sa.case((jobs.c.cancel_requested, State.CANCELLED), else_=State.QUEUED)


# ---- adopting


def _known(connection: sa.Connection, worker: _Worker, job: _Row) -> _Row | None:
    """The newest result of a job's key in the worker's class; None where there is none that the job may adopt.

    What was measured for it already shall count: then it adopts none.
    """
    if not job.adoptable or job.remeasured:
        return None
    newest = (
        sa.select(results.c.attempt_id, results.c.outcome)
        .where(results.c.key == job.key, results.c.environment_key == worker.environment_key)
        .order_by(results.c.recorded_at.desc())
        .limit(1)
    )
    return connection.execute(newest).one_or_none()


def _adopt(connection: sa.Connection, job: _Row, known: _Row) -> None:
    """Ends a job that was just taken with a result that is there: that is no attempt."""
    reason = sa.select(attempts.c.reason).where(attempts.c.attempt_id == known.attempt_id).scalar_subquery()
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job.job_id)
        .values(state=State.DONE, attempts=jobs.c.attempts - 1, lease_until=None, worker_id=None)
        .values(outcome=known.outcome, reason=reason)
    )
    keeping.write_result(connection, job.job_id, known.attempt_id)
