"""What must hold after every scenario, looked up in the database and in what the measuring processes noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa

from farm.measurement import Outcome
from results_store.database import Database
from results_store.schema import attempts, jobs, results
from results_store.values import State
from tests.faults.sightings import Sighting, overlaps

#: A row of the table `jobs`.
Job: TypeAlias = Any

#: The database tells milliseconds, and a process notes its begin a moment before it is there.
_CLOCKS_S = 0.05


@dataclass(kw_only=True)
class Findings:
    """What does not hold, each in a sentence; empty lists are well."""

    jobs: int
    #: Of the table's columns.
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)
    #: Everything else.
    broken: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        """Every sentence."""
        return [*self.lost, *self.duplicated, *self.overlapping, *self.broken]


def is_done(job: Job) -> bool:
    """How a job has to end where nothing else is said."""
    return bool(job.state == State.DONE and job.outcome == Outcome.OK)


def look(database_url: str, sightings: Sequence[Sighting], may_end: Callable[[Job], bool] = is_done) -> Findings:
    """Looks at everything.

    Args:
        database_url: of the scenario's farm.
        sightings: its measuring processes.
        may_end: whether a job, a row of the table `jobs`, may have ended so.

    Raises:
        Unreachable: the database does not answer.
    """
    with closing(Database(database_url)) as database, database.reading() as connection:
        all_jobs = connection.execute(sa.select(jobs).order_by(jobs.c.job_id)).all()
        all_attempts = connection.execute(_attempts()).all()
        all_results = connection.execute(sa.select(results)).all()
    found = Findings(jobs=len(all_jobs))
    _every_job_ended(found, all_jobs, all_results, may_end)
    _nothing_twice(found, all_jobs, all_attempts, all_results, sightings)
    found.overlapping += overlaps(sightings)
    _results_are_of_their_attempts(found, all_attempts, all_results)
    _attempts_say_how_they_ended(found, all_attempts)
    return found


def _attempts() -> sa.Select[Any]:
    """All but what is large."""
    large = {"log_tail", "measurement", "device_ns", "end_to_end_ns", "control_ns", "operators", "trace"}
    return sa.select(*(column for column in attempts.c if column.name not in large))


def _every_job_ended(
    found: Findings, all_jobs: Sequence[Job], all_results: Sequence[Any], may_end: Callable[[Job], bool]
) -> None:
    with_result = {result.job_id for result in all_results}
    for job in all_jobs:
        if State(job.state).is_open:
            found.lost.append(f"{job.job_id} is still {job.state}")
        elif not may_end(job):
            found.lost.append(f"{job.job_id} ended {job.state} ({job.outcome}: {job.reason})")
        elif (job.state == State.DONE) != (job.job_id in with_result):
            found.lost.append(f"{job.job_id} is {job.state}; results of it: {int(job.job_id in with_result)}")


def _nothing_twice(
    found: Findings,
    all_jobs: Sequence[Job],
    all_attempts: Sequence[Any],
    all_results: Sequence[Any],
    sightings: Sequence[Sighting],
) -> None:
    succeeded = Counter(a.job_id for a in all_attempts if a.outcome == Outcome.OK and not a.stale)
    for job in all_jobs:
        if succeeded[job.job_id] > 1 + job.remeasured:
            found.duplicated.append(f"{job.job_id} was measured {succeeded[job.job_id]} times")
    # Of equal jobs in several runs, each is measured: then the last result counts.
    recorded: dict[str, float] = {}
    for result in all_results:
        recorded[result.key] = max(result.recorded_at, recorded.get(result.key, 0.0))
    tried = Counter(key for job in all_jobs for key in [job.key] for _ in range(job.attempts))
    begun = Counter(sighting.key for sighting in sightings if sighting.phase == "measure")
    for sighting in sightings:
        if sighting.began_at > recorded.get(sighting.key, sighting.began_at) + _CLOCKS_S:
            found.duplicated.append(f"{sighting.token} began when its job's result was there: {sighting.key}")
    found.broken += [
        f"{count} processes measured a job of {tried[key]} attempts: {key}"
        for key, count in begun.items()
        if count > tried[key]
    ]


def _results_are_of_their_attempts(
    found: Findings, all_attempts: Sequence[Any], all_results: Sequence[Any]
) -> None:
    by_id = {attempt.attempt_id: attempt for attempt in all_attempts}
    for result in all_results:
        attempt = by_id[result.attempt_id]
        if attempt.stale or attempt.outcome != result.outcome:
            found.broken.append(f"{result.job_id} has the result of a stale or other attempt: {attempt}")


def _attempts_say_how_they_ended(found: Findings, all_attempts: Sequence[Any]) -> None:
    for attempt in all_attempts:
        if attempt.outcome is None:
            found.broken.append(f"{attempt.attempt_id} never ended")
        elif attempt.outcome not in (Outcome.OK, Outcome.CANCELLED) and not attempt.reason:
            found.broken.append(f"{attempt.attempt_id} ended {attempt.outcome} without a reason")
