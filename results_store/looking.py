"""What can be seen in the store: runs, progress, workers, results; nothing here writes."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from farm.errors import BadInput, unknown
from farm.measurement import Outcome, Profile
from results_store import records
from results_store.claiming import claimable as is_claimable
from results_store.claiming import is_alive
from results_store.clock import now
from results_store.schema import attempts, cells, is_of_matrix, is_open, is_running, jobs, results, runs, workers
from results_store.values import (
    EndedRun,
    JobResult,
    Progress,
    RunInfo,
    State,
    Tally,
    WorkerInfo,
    label,
)

_MAX_FAILURES_SHOWN = 100


def run_number(connection: sa.Connection, asked: str) -> int:
    """The run of this name or id, of the only id that begins so, or the `latest`.

    Raises:
        BadInput: no such run, or several; the nearest is named.
    """
    if asked == "latest":
        newest = connection.scalar(sa.select(sa.func.max(runs.c.number)))
        if newest is None:
            raise BadInput("There is no run yet. Submit one: python -m producer submit-matrix --help")
        return int(newest)
    rows = connection.execute(sa.select(runs.c.run_id, runs.c.name, runs.c.number)).all()
    known = {row.run_id: row.number for row in rows} | {row.name: row.number for row in rows if row.name}
    # no name begins as an id does
    ids = [row.run_id for row in rows]
    fitting = [asked] if asked in known else [run_id for run_id in ids if asked and run_id.startswith(asked)]
    if len(fitting) > 1:
        raise BadInput(f"Run {asked!r} may be any of {', '.join(sorted(fitting))}: write more of it.")
    if not fitting:
        raise unknown("run", asked, [*known, "latest"])
    return int(known[fitting[0]])


def all_runs(connection: sa.Connection, number: int | None = None) -> list[RunInfo]:
    """Every run, newest first, or the one of this number."""
    which = [] if number is None else [runs.c.number == number]
    states, controls = _states_by_run(connection, number), _control_states_by_run(connection, number)
    query = sa.select(runs).where(*which).order_by(runs.c.number.desc())
    return [
        RunInfo(
            run_id=row.run_id,
            name=row.name,
            created_at=row.created_at,
            again=row.again,
            matrix_json=row.matrix,
            states=_without(states.get(row.number, {}), controls.get(row.number, {})),
            control_states=controls.get(row.number, {}),
        )
        for row in connection.execute(query)
    ]


def ended_runs(connection: sa.Connection) -> list[EndedRun]:
    """The runs without a job to do, oldest first. Asks the index for one job of each run, and counts none."""
    query = sa.select(runs.c.run_id, runs.c.name, _begun_at().label("begun_at")).where(
        sa.not_(_has(is_open(jobs)))
    )
    rows = connection.execute(query.order_by(runs.c.number))
    return [EndedRun(run_id=row.run_id, name=row.name, begun_at=row.begun_at) for row in rows]


def tally(connection: sa.Connection) -> Tally:
    """What the whole store holds, counted."""
    by = (jobs.c.state, jobs.c.queue, jobs.c.outcome)
    states, ended, waiting = Counter[State](), Counter[Outcome](), Counter[str]()
    for state, queue, outcome, count in connection.execute(sa.select(*by, sa.func.count()).group_by(*by)):
        states[State(state)] += count
        waiting[queue] += count if state == State.QUEUED else 0
        if not State(state).is_open:
            ended[_ended_as(State(state), outcome)] += count
    all_runs, open_runs, oldest_s = connection.execute(_run_counts()).one()
    return Tally(
        jobs={state: states[state] for state in State},
        ended={outcome: ended[outcome] for outcome in Outcome},
        waiting=dict(waiting),
        oldest_waiting_s=max(0.0, oldest_s or 0.0),
        attempts=_attempt_counts(connection),
        workers=_worker_counts(connection, quarantined=False),
        quarantined=_worker_counts(connection, quarantined=True),
        open_runs=open_runs,
        ended_runs=all_runs - open_runs,
    )


def progress(connection: sa.Connection, number: int) -> Progress:
    """How a run goes."""
    [run] = all_runs(connection, number)
    of_run = sa.and_(jobs.c.run_number == number, is_of_matrix(number))
    by = (jobs.c.state, jobs.c.outcome)
    ended = sa.select(*by, sa.func.count()).where(of_run, sa.not_(is_open(jobs))).group_by(*by)
    outcomes = Counter[Outcome]()
    for state, outcome, count in connection.execute(ended):
        outcomes[_ended_as(State(state), outcome)] += count
    all_cells, open_cells = connection.execute(_cell_counts(number)).one()
    started_at, ended_alone, total_s, longest_s, clock = connection.execute(_pace(number)).one()
    remeasured = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.remeasured), 0)).where(of_run)
    return Progress(
        run_id=run.run_id,
        name=run.name,
        states=run.states,
        control_states=run.control_states,
        outcomes={outcome: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        running=_running(connection, number),
        failures=_failures(connection, number),
        cells=all_cells,
        cells_done=all_cells - open_cells,
        started_at=started_at,
        now=clock,
        # without the longest, which as a rule also trained the model for all others
        seconds_per_job=(total_s - longest_s) / (ended_alone - 1) if ended_alone > 1 else None,
        remeasured=connection.execute(remeasured).scalar_one(),
        quarantined=_quarantined(connection, number),
        waiting=_waiting(connection, number),
    )


def all_workers(connection: sa.Connection, alive_only: bool) -> list[WorkerInfo]:
    """The workers, by id; not those of a farm of another version that we cannot read."""
    query = sa.select(workers).where(*([is_alive()] if alive_only else [])).order_by(workers.c.worker_id)
    found: list[WorkerInfo] = []
    for row in connection.execute(query):
        with contextlib.suppress(ValueError):
            found.append(records.worker(row))
    return found


def quarantined(connection: sa.Connection, worker_id: str) -> str | None:
    """Why a worker is quarantined; None where it is not."""
    reason: str | None = connection.scalar(
        sa.select(workers.c.quarantined).where(workers.c.worker_id == worker_id)
    )
    return reason


def waits_for_another(connection: sa.Connection, worker_id: str, job_id: str) -> bool:
    """Whether a job is queued, and another living worker than this one serves its queue with enough processors."""
    waiting = sa.select(jobs.c.queue, jobs.c.threads).where(jobs.c.job_id == job_id, jobs.c.state == State.QUEUED)
    job = connection.execute(waiting).one_or_none()
    if job is None:
        return False
    others = sa.select(workers.c.queues).where(
        is_alive(), workers.c.worker_id != worker_id, workers.c.threads >= (job.threads or 1)
    )
    return any(job.queue in json.loads(queues) for queues in connection.scalars(others))


def claimable(connection: sa.Connection, number: int | None, limit: int) -> dict[str, list[str]]:
    """Queue → the next job ids in claim order, at most `limit` of each queue."""
    which = [is_claimable(jobs), *([] if number is None else [jobs.c.run_number == number])]
    return {
        queue: list(
            connection.scalars(
                sa.select(jobs.c.job_id)
                .where(jobs.c.queue == queue, *which)
                .order_by(jobs.c.run_number, jobs.c.ordinal)
                .limit(limit)
            )
        )
        for queue in _queues(connection, which)
    }


def _queues(connection: sa.Connection, which: list[sa.ColumnElement[bool]]) -> Iterator[str]:
    """The queues that have such jobs, in order: one look into the index for each, however many jobs there are."""
    following = sa.select(jobs.c.queue).where(*which).order_by(jobs.c.queue).limit(1)
    queue = connection.scalar(following)
    while queue is not None:
        yield queue
        queue = connection.scalar(following.where(jobs.c.queue > queue))


def results_after(
    connection: sa.Connection, number: int, after: tuple[int, int], limit: int, controls: bool
) -> list[JobResult]:
    """The next jobs of a run by (cell, repeat), measured or not: those of the matrix, or those of its controls."""
    place = sa.tuple_(jobs.c.cell_ordinal, jobs.c.repeat)
    which = (jobs.c.run_number == number, place > after, cells.c.is_control.is_(controls))
    query = _job_results().where(*which).order_by(jobs.c.cell_ordinal, jobs.c.repeat).limit(limit)
    return [_job_result(row) for row in connection.execute(query)]


def latest(connection: sa.Connection, number: int, limit: int, known: Collection[str]) -> dict[str, JobResult]:
    """Attempt → result: those of the run's matrix that were recorded last, oldest first, without known ones."""
    query = (
        sa.select(results.c.job_id, results.c.attempt_id)
        .join(jobs, jobs.c.job_id == results.c.job_id)
        .where(jobs.c.run_number == number, is_of_matrix(number))
        .order_by(results.c.recorded_at.desc(), results.c.job_id.desc())
        .limit(limit)
    )
    found = {row.job_id: row.attempt_id for row in connection.execute(query) if row.attempt_id not in known}
    rows = connection.execute(_job_results().where(jobs.c.job_id.in_(list(found))))
    made = {row.job_id: _job_result(row) for row in rows}
    return {found[job_id]: made[job_id] for job_id in reversed(found) if job_id in made}


def _job_results() -> sa.Select[Any]:
    """Jobs with what made their result, where there is one."""
    return (
        sa.select(
            jobs,
            cells.c.spec,
            attempts.c.job_id.label("measured_by"),
            attempts.c.environment_key,
            attempts.c.worker_id.label("measuring_worker"),
            attempts.c.measurement,
            attempts.c.device_ns,
            attempts.c.end_to_end_ns,
            attempts.c.control_ns,
        )
        .join(cells, sa.and_(cells.c.run_number == jobs.c.run_number, cells.c.ordinal == jobs.c.cell_ordinal))
        .outerjoin(results, results.c.job_id == jobs.c.job_id)
        .outerjoin(attempts, attempts.c.attempt_id == results.c.attempt_id)
    )


def profile(connection: sa.Connection, job_id: str) -> Profile | None:
    """What the profiler told of the attempt that made a job's result, without the trace."""
    row = connection.execute(_of_result(job_id, attempts.c.measurement, attempts.c.operators)).one_or_none()
    return None if row is None else records.profile(row.measurement, row.operators)


def trace(connection: sa.Connection, job_id: str) -> str | None:
    """The trace of the attempt that made a job's result, in Chrome's format."""
    return records.trace(connection.scalar(_of_result(job_id, attempts.c.trace)))


def _of_result(job_id: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    joined = results.join(attempts, attempts.c.attempt_id == results.c.attempt_id)
    return sa.select(*columns).select_from(joined).where(results.c.job_id == job_id)


def _job_result(row: sa.Row[Any]) -> JobResult:
    return JobResult(
        job_id=row.job_id,
        run_id=records.run_id_of(row.job_id),
        spec=records.cell(row.spec).repeated(row.repeat),
        cell_ordinal=row.cell_ordinal,
        state=State(row.state),
        outcome=Outcome(row.outcome) if row.outcome else None,
        reason=row.reason,
        attempts=row.attempts,
        environment_key=row.environment_key,
        measurement=records.measurement(row.measurement, row.device_ns, row.end_to_end_ns, row.control_ns),
        measured_by=row.measured_by,
        worker_id=row.measuring_worker,
        remeasured=row.remeasured,
    )


def _has(which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether a run has such a job."""
    return sa.exists().where(jobs.c.run_number == runs.c.number, which).correlate(runs)


def _begun_at() -> sa.ColumnElement[float]:
    return sa.func.coalesce(runs.c.resumed_at, runs.c.created_at)


def _ended_as(state: State, outcome: str | None) -> Outcome:
    """A cancelled job ended so, however an attempt before that did."""
    return Outcome.CANCELLED if state is State.CANCELLED or outcome is None else Outcome(outcome)


def _run_counts() -> sa.Select[Any]:
    """Runs, open runs, and seconds since the oldest run with a queued job began."""
    every = sa.select(sa.func.count()).select_from(runs)
    unfinished = every.where(_has(is_open(jobs)))
    waiting = sa.select(now() - sa.func.min(_begun_at())).where(_has(jobs.c.state == State.QUEUED))
    return sa.select(every.scalar_subquery(), unfinished.scalar_subquery(), waiting.scalar_subquery())


def _attempt_counts(connection: sa.Connection) -> dict[Outcome, int]:
    # the index answers this: rows of attempts are large
    query = sa.select(attempts.c.outcome, sa.func.count()).group_by(attempts.c.outcome)
    counted = {row[0]: row[1] for row in connection.execute(query)}
    return {outcome: counted.get(outcome, 0) for outcome in Outcome}


def _worker_counts(connection: sa.Connection, quarantined: bool) -> dict[tuple[str, str], int]:
    """Living workers by (kind of device, queue): those that are quarantined, or the others."""
    which = workers.c.quarantined.is_not(None) if quarantined else workers.c.quarantined.is_(None)
    query = sa.select(workers.c.device_kind, workers.c.queues).where(is_alive(), which)
    places = ((row.device_kind, queue) for row in connection.execute(query) for queue in json.loads(row.queues))
    return dict(Counter(places))


def _states_by_run(connection: sa.Connection, number: int | None) -> dict[int, dict[State, int]]:
    return _by_run(connection, sa.select(*_STATE, sa.func.count()), number)


def _control_states_by_run(connection: sa.Connection, number: int | None) -> dict[int, dict[State, int]]:
    # from the few cells to their jobs: asking every job whether it is one would cost more
    of_cell = sa.and_(jobs.c.run_number == cells.c.run_number, jobs.c.cell_ordinal == cells.c.ordinal)
    query = sa.select(*_STATE, sa.func.count()).select_from(cells.join(jobs, of_cell)).where(cells.c.is_control)
    return _by_run(connection, query, number)


_STATE = (jobs.c.run_number, jobs.c.state)


def _by_run(connection: sa.Connection, query: sa.Select[Any], number: int | None) -> dict[int, dict[State, int]]:
    which = [] if number is None else [jobs.c.run_number == number]
    counted: dict[int, dict[State, int]] = {}
    for run, state, count in connection.execute(query.where(*which).group_by(*_STATE)):
        counted.setdefault(run, {})[State(state)] = count
    return counted


def _without(states: Mapping[State, int], others: Mapping[State, int]) -> dict[State, int]:
    return {state: left for state, count in states.items() if (left := count - others.get(state, 0))}


def _cell_counts(number: int) -> sa.Select[Any]:
    of_matrix = (cells.c.run_number == number, sa.not_(cells.c.is_control))
    every = sa.select(sa.func.count()).select_from(cells).where(*of_matrix)
    still_open = sa.select(sa.func.count(jobs.c.cell_ordinal.distinct())).where(
        jobs.c.run_number == number, is_open(jobs), is_of_matrix(number)
    )
    return sa.select(every.scalar_subquery(), still_open.scalar_subquery())


def _pace(number: int) -> sa.Select[Any, int, Any, Any, float]:
    """First claim; how many attempts ended by themselves, their seconds, and those of the longest; the clock."""
    by_itself = sa.and_(attempts.c.outcome != Outcome.LOST, sa.not_(attempts.c.stale))
    seconds = sa.case((by_itself, attempts.c.ended_at - attempts.c.started_at))
    told = (sa.func.count(seconds), sa.func.sum(seconds), sa.func.max(seconds))
    return sa.select(sa.func.min(attempts.c.started_at), *told, now()).where(attempts.c.run_number == number)


def _running(connection: sa.Connection, number: int) -> tuple[tuple[str, str, float], ...]:
    query = (
        sa.select(cells.c.spec, cells.c.is_control, jobs.c.repeat, jobs.c.worker_id, attempts.c.started_at)
        .join(cells, sa.and_(cells.c.run_number == jobs.c.run_number, cells.c.ordinal == jobs.c.cell_ordinal))
        .join(attempts, sa.and_(attempts.c.job_id == jobs.c.job_id, attempts.c.fence == jobs.c.fence))
        .where(jobs.c.run_number == number, is_running(jobs))
        .order_by(attempts.c.started_at)
    )
    return tuple(
        (_label(row, "control ") if row.is_control else _label(row), row.worker_id, row.started_at)
        for row in connection.execute(query)
    )


def _failures(connection: sa.Connection, number: int) -> tuple[tuple[str, Outcome, str], ...]:
    query = (
        sa.select(cells.c.spec, jobs.c.repeat, jobs.c.outcome, jobs.c.reason)
        .join(cells, sa.and_(cells.c.run_number == jobs.c.run_number, cells.c.ordinal == jobs.c.cell_ordinal))
        .where(jobs.c.run_number == number, jobs.c.state == State.FAILED, is_of_matrix(number))
        .order_by(jobs.c.ordinal)
        .limit(_MAX_FAILURES_SHOWN)
    )
    return tuple((_label(row), Outcome(row.outcome), row.reason) for row in connection.execute(query))


def _waiting(connection: sa.Connection, number: int) -> dict[str, int]:
    """Queue → how many jobs of a run wait in it, controls included."""
    # literals, as in the partial index, which knows open jobs only
    queued = (is_open(jobs), jobs.c.state == State.QUEUED)
    query = sa.select(jobs.c.queue, sa.func.count()).where(jobs.c.run_number == number, *queued)
    found = connection.execute(query.group_by(jobs.c.queue).order_by(jobs.c.queue))
    return {row[0]: row[1] for row in found}


def _quarantined(connection: sa.Connection, number: int) -> tuple[tuple[str, str], ...]:
    """Living workers in quarantine that would serve what is left of a run, and why."""
    there = sa.select(workers.c.worker_id, workers.c.queues, workers.c.quarantined)
    there = there.where(is_alive(), workers.c.quarantined.is_not(None)).order_by(workers.c.worker_id)
    found = connection.execute(there).all()
    if not found:
        return ()
    left = sa.select(jobs.c.queue).where(jobs.c.run_number == number, is_open(jobs)).distinct()
    queues = set(connection.scalars(left))
    return tuple((row.worker_id, row.quarantined) for row in found if queues & set(json.loads(row.queues)))


def _label(row: Any, before: str = "") -> str:
    """A job in a few words; a control's repeats are counted from 1 already."""
    try:
        cell = records.cell(row.spec)
    except BadInput:
        return f"{before}a cell that cannot be read"
    return before + label(cell.repeated(row.repeat - bool(before)))
