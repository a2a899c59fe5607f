"""How runs begin, stop and go on: submit, cancel, resume and retry, each in one transaction."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import sqlalchemy as sa

from farm import requirement
from farm.errors import BadInput
from farm.requirement import Requirement
from farm.spec import Cell, Matrix
from results_store import claiming, keeping, names, records
from results_store.clock import now
from results_store.database import insert
from results_store.schema import cells, is_of_matrix, is_open, is_running, jobs, requirements, results, runs
from results_store.values import Retried, State, Submission

_ROWS_AT_ONCE = 5000
#: SQLite takes no more parameters than 32,766 in a statement.
_IDS_AT_ONCE = 5000


def submit(
    connection: sa.Connection, matrix: Matrix, again: bool, environments: frozenset[str], name: str | None
) -> Submission:
    """A new run of the matrix, or one of an equal matrix that already stands for it; with a name, the one of that.

    Raises:
        BadInput: the name's run is of another matrix, or shall be measured again.
    """
    _take_turns(connection, matrix.key, name)
    if name is not None:
        number = named(connection, name, matrix, again)
    else:
        number = None if again else _standing(connection, matrix.key, environments)
    created = number is None
    if number is None:
        number = _create(connection, matrix, again, name)
    run_id = connection.execute(sa.select(runs.c.run_id).where(runs.c.number == number)).scalar_one()
    return Submission(
        run_id=run_id,
        created=created,
        done_already=0 if again else _done(connection, number, created, environments),
        jobs=_count(connection, number, is_of_matrix(number)),
    )


def named(connection: sa.Connection, name: str, matrix: Matrix, again: bool) -> int | None:
    """The run of this name, which is of this very matrix; None where there is none yet.

    Raises:
        BadInput: it is of another matrix, or shall be measured again; says how they differ, and the ways out.
    """
    names.check(name)
    found = connection.execute(sa.select(runs).where(runs.c.name == name)).one_or_none()
    if found is None:
        return None
    title = names.title(found.run_id, name)
    if again:
        raise BadInput(
            f"Run {title} is there already: --again cannot measure it anew under its name. Nothing was submitted. "
            f"Two ways out: another --name; or `python -m producer retry {name}` with --failed or --remeasure, "
            "which queues some of its jobs again."
        )
    if differences := names.differences(found.matrix, matrix):
        raise BadInput(
            f"Run {title} was submitted with another matrix (its own -> the one asked for):\n"
            + "".join(f"  {line}\n" for line in differences)
            + "Nothing was submitted. Two ways out: another --name, or the matrix as it was."
        )
    return int(found.number)


def resume(connection: sa.Connection, number: int) -> int:
    """Cancelled jobs of the run are queued again; returns how many jobs are queued now."""
    _hold(connection, number)
    of_run = jobs.c.run_number == number
    # a job that is still being stopped goes on, or is queued again when it has stopped
    connection.execute(sa.update(jobs).where(of_run, is_running(jobs)).values(cancel_requested=False))
    again = connection.execute(
        sa.update(jobs)
        .where(of_run, jobs.c.state == State.CANCELLED)
        .values(state=State.QUEUED, cancel_requested=False, outcome=None, reason="")
    )
    if again.rowcount:
        _begin_anew(connection, number)
    return _count(connection, number, jobs.c.state == State.QUEUED, is_of_matrix(number))


def retry(connection: sa.Connection, number: int, failed: bool, measured: Sequence[str]) -> Retried:
    """Queues jobs of the matrix again that have ended: those that failed, and these that were measured.

    Their failures are counted anew, their attempts are kept, and so is what was measured, as the result until
    something milder is.
    """
    _hold(connection, number)
    again = {"state": State.QUEUED, "cancel_requested": False, "failures": 0, "losses": 0, "hand_backs": 0}
    of_run = (jobs.c.run_number == number, is_of_matrix(number))
    failures = measurements = 0
    if failed:
        update = sa.update(jobs).where(*of_run, jobs.c.state == State.FAILED)
        failures = connection.execute(update.values(**again, outcome=None, reason="")).rowcount
    for first in range(0, len(measured), _IDS_AT_ONCE):
        these = jobs.c.job_id.in_(measured[first : first + _IDS_AT_ONCE])
        update = sa.update(jobs).where(*of_run, these, jobs.c.state == State.DONE)
        measurements += connection.execute(update.values(**again, remeasured=jobs.c.remeasured + 1)).rowcount
    if failures or measurements:
        _begin_anew(connection, number)
    return Retried(failed=failures, measured=measurements)


def _begin_anew(connection: sa.Connection, number: int) -> None:
    """The run has ended once, and will end again."""
    connection.execute(sa.update(runs).where(runs.c.number == number).values(resumed_at=now()))


def cancel(connection: sa.Connection, number: int) -> tuple[int, int]:
    """(Queued jobs of the matrix cancelled now, running jobs asked to stop.)

    What only waited to be measured again is done, and what a worker held that lives no more counts as cancelled.
    """
    _hold(connection, number)
    of_run = jobs.c.run_number == number
    # All of them, in one statement: what waits may just begin, and what runs may just be queued again.
    connection.execute(sa.update(jobs).where(of_run, is_open(jobs)).values(cancel_requested=True))
    waiting = sa.update(jobs).where(of_run, jobs.c.state == State.QUEUED).values(state=State.CANCELLED)
    queued = connection.execute(waiting.where(is_of_matrix(number)))
    connection.execute(waiting)  # the controls
    measured = sa.select(jobs.c.job_id).where(of_run, jobs.c.state == State.CANCELLED, jobs.c.remeasured > 0)
    settled = [keeping.settle(connection, job_id) for job_id in connection.scalars(measured).all()]
    forsaken = claiming.forsaken(connection, number)
    return queued.rowcount - sum(settled) + forsaken, _count(connection, number, is_running(jobs))


def _hold(connection: sa.Connection, number: int) -> None:
    """One cancel or resume of a run at a time: both lock many jobs, in any order."""
    # not against who only refers to the run, as every claim does, and has a job that we wait for
    this = sa.select(runs.c.number).where(runs.c.number == number)
    connection.execute(this.with_for_update(key_share=True))


def _take_turns(connection: sa.Connection, key: str, name: str | None) -> None:
    """Two submissions of equal matrices, or of one name, at once must become one run.

    SQLite's write lock does that already.
    """
    if connection.dialect.name != "postgresql":
        return
    by_name = [] if name is None else [hashlib.sha256(name.encode()).hexdigest()]
    # always in this order, so that nobody waits in a circle
    for what in (*by_name, key):
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(int(what[:15], 16))))


def _standing(connection: sa.Connection, key: str, environments: frozenset[str]) -> int | None:
    """The run of an equal matrix to take up: the newest unfinished, else a finished one that still says all."""
    equal = sa.select(runs.c.number).where(runs.c.matrix_key == key).order_by(runs.c.number.desc())
    numbers = connection.scalars(equal).all()
    unfinished = (n for n in numbers if _count(connection, n, is_open(jobs)))
    whole = (
        n
        for n in numbers
        if not _count(connection, n, jobs.c.state == State.CANCELLED)
        and (not environments or _classes(connection, n) <= environments)
    )
    return next(unfinished, None) or next(whole, None)


def _classes(connection: sa.Connection, number: int) -> set[str]:
    """The environment classes of a run's results."""
    query = (
        sa.select(results.c.environment_key)
        .join(jobs, jobs.c.job_id == results.c.job_id)
        .where(jobs.c.run_number == number)
        .distinct()
    )
    return set(connection.scalars(query))


def _count(connection: sa.Connection, number: int, *which: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.run_number == number, *which)
    return int(connection.execute(query).scalar_one())


def _done(connection: sa.Connection, number: int, created: bool, environments: frozenset[str]) -> int:
    if not created:
        return _count(connection, number, jobs.c.state == State.DONE, is_of_matrix(number))
    known = sa.exists().where(results.c.key == jobs.c.key, results.c.environment_key.in_(environments))
    return _count(connection, number, jobs.c.adoptable, known.correlate(jobs)) if environments else 0


def _create(connection: sa.Connection, matrix: Matrix, again: bool, name: str | None) -> int:
    created_at = float(connection.execute(sa.select(now())).scalar_one())
    run_id = _new_id(connection, created_at)
    number = connection.execute(
        sa.insert(runs)
        .values(run_id=run_id, name=name, matrix_key=matrix.key, matrix=matrix.canonical(), again=again)
        .values(created_at=created_at)
        .returning(runs.c.number)
    ).scalar_one()
    _keep_requirements(connection, matrix)
    for table, rows in ((cells, _cell_rows(matrix, number)), (jobs, _job_rows(matrix, number, run_id, again))):
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            connection.execute(sa.insert(table), chunk)
    return int(number)


def _new_id(connection: sa.Connection, created_at: float) -> str:
    day = time.strftime("%Y%m%d-%H%M%S", time.gmtime(created_at))
    taken = set(connection.scalars(sa.select(runs.c.run_id).where(runs.c.run_id.startswith(day))))
    return next(i for i in iter(lambda: f"{day}-{secrets.token_hex(2)}", None) if i not in taken)


def _keep_requirements(connection: sa.Connection, matrix: Matrix) -> None:
    """Notes what the matrix asks of workers; in order, so that two submissions do not wait in a circle."""
    # neither model nor batch size changes it
    few = matrix.model_copy(update={"models": matrix.models[:1], "batch_sizes": matrix.batch_sizes[:1]})
    texts = {text for cell in (*few.cells(), *matrix.controls()) if (text := _requirement(cell)) is not None}
    for text in sorted(texts):
        connection.execute(insert(connection, requirements).values(requirement=text).on_conflict_do_nothing())


def _requirement(cell: Cell) -> str | None:
    wanted = requirement.of(cell)
    return None if wanted is None else _written(wanted)


@lru_cache(maxsize=1024)
def _written(wanted: Requirement) -> str:
    return wanted.canonical()


def _cell_rows(matrix: Matrix, number: int) -> Iterator[dict[str, Any]]:
    cells = [(cell, False) for cell in matrix.cells()] + [(cell, True) for cell in matrix.controls()]
    for ordinal, (cell, is_control) in enumerate(cells):
        yield {
            "run_number": number,
            "ordinal": ordinal,
            "spec": cell.canonical(),
            "is_control": is_control,
            "requirement": _requirement(cell),
        }


def _job_rows(matrix: Matrix, number: int, run_id: str, again: bool) -> Iterator[dict[str, Any]]:
    """A row for each job, made when it is asked for: what is kept in memory grows with the cells only."""
    own, controls = matrix.cells(), matrix.controls()
    cells = [*own, *controls]
    keys = [cell.job_keys() for cell in cells]
    for ordinal, (place, repeat) in enumerate(matrix.order()):
        yield {
            "job_id": records.job_id(run_id, ordinal),
            "run_number": number,
            "ordinal": ordinal,
            "cell_ordinal": place,
            "repeat": repeat,
            "key": keys[place](repeat),
            "queue": cells[place].queue,
            "threads": cells[place].threads,
            # a control says how the host is now
            "adoptable": not again and place < len(own),
            "state": State.QUEUED,
        }
