"""What is kept of a job that was measured more than once, and which of it becomes the result."""

from __future__ import annotations

import logging
from functools import partial

import sqlalchemy as sa

from farm.measurement import Outcome
from farm.verdict import judge
from results_store import records
from results_store.clock import now
from results_store.database import insert
from results_store.schema import attempts, jobs, results
from results_store.values import State

log = logging.getLogger(__name__)

#: Worse than any verdict.
_UNREADABLE = 1000


def best(connection: sa.Connection, job_id: str) -> str | None:
    """The attempt with a job's best measurement: of the mildest verdict, and of those the latest; None without.

    One of its own attempts, or the one that it had adopted before it was measured itself. Judged anew, because
    rules may have changed since it was measured.
    """
    measured = (attempts.c.job_id == job_id, attempts.c.outcome == Outcome.OK, sa.not_(attempts.c.stale))
    latest_first = sa.select(attempts.c.attempt_id).where(*measured).order_by(attempts.c.fence.desc())
    own = connection.scalars(latest_first).all()
    result = sa.select(results.c.attempt_id).where(results.c.job_id == job_id, results.c.outcome == Outcome.OK)
    kept = list(dict.fromkeys([*own, *connection.scalars(result)]))
    if len(kept) < 2:
        return next(iter(kept), None)
    return str(min(kept, key=partial(_severity, connection)))  # the first of equals


def settle(connection: sa.Connection, job_id: str) -> bool:
    """Ends a job for which nothing more is to be done with the best that was measured of it, if anything was.

    So neither a later crash nor a cancellation takes away what had been measured before.

    Returns:
        Whether it is done so; else nothing has changed.
    """
    state = connection.execute(sa.select(jobs.c.state).where(jobs.c.job_id == job_id)).scalar_one()
    attempt_id = None if State(state).is_open else best(connection, job_id)
    if attempt_id is None:
        return False
    reason = sa.select(attempts.c.reason).where(attempts.c.attempt_id == attempt_id).scalar_subquery()
    connection.execute(
        sa.update(jobs).where(jobs.c.job_id == job_id).values(state=State.DONE, outcome=Outcome.OK, reason=reason)
    )
    write_result(connection, job_id, attempt_id)
    return True


def write_result(connection: sa.Connection, job_id: str, attempt_id: str) -> None:
    """Makes an attempt a job's result, in the place of what it had: its own, or another job's of the same key."""
    made = sa.select(
        sa.literal(job_id),
        attempts.c.attempt_id,
        sa.select(jobs.c.key).where(jobs.c.job_id == job_id).scalar_subquery(),
        attempts.c.environment_key,
        attempts.c.outcome,
        now(),
    ).where(attempts.c.attempt_id == attempt_id)
    columns = ["job_id", "attempt_id", "key", "environment_key", "outcome", "recorded_at"]
    written = insert(connection, results).from_select(columns, made)
    fresh = {name: written.excluded[name] for name in columns[1:]}
    connection.execute(written.on_conflict_do_update(index_elements=["job_id"], set_=fresh))


def _severity(connection: sa.Connection, attempt_id: str) -> int:
    columns = (attempts.c.measurement, attempts.c.device_ns, attempts.c.end_to_end_ns, attempts.c.control_ns)
    query = sa.select(*columns).where(attempts.c.attempt_id == attempt_id)
    text, device_ns, end_to_end_ns, control_ns = connection.execute(query).one()
    try:
        measurement = records.measurement(text, device_ns, end_to_end_ns, control_ns)
        return 0 if measurement is None else judge(measurement).severity
    except Exception as error:
        # Broad: a row that somebody edited, or that names a plug-in that is not here, must not be in the way of
        # others that are looked at in the same transaction.
        log.warning("the measurement of attempt %s cannot be judged: %s", attempt_id, error)
        return _UNREADABLE
