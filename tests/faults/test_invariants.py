"""What the scenarios rest on is able to fail: each invariant, broken by hand, is said to be broken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from results_store.database import Database
from results_store.schema import attempts, jobs, results
from results_store.store import open_store
from tests import factories
from tests.faults import invariants, ledger
from tests.faults.ledger import Row
from tests.faults.sightings import FILE, Sighting, Sightings, overlaps


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A store whose two jobs are done."""
    made = f"sqlite:///{tmp_path}/farm.db"
    with closing(open_store(made)) as store:
        store.register(factories.worker())
        factories.submitted(store, repeats=2)
        assert factories.measure_all(store, "cpu@alpha") == 2
    yield made


def change(url: str, *statements: sa.Executable) -> None:
    with closing(Database(url)) as database, database.writing() as connection:
        for statement in statements:
            connection.execute(statement)


def key(url: str) -> str:
    with closing(Database(url)) as database, database.reading() as connection:
        return str(connection.execute(sa.select(jobs.c.key).order_by(jobs.c.job_id)).scalars().first())


def sighting(begun: int, until: int, processors: tuple[int, ...] = (0,), **fields: Any) -> Sighting:
    given = {"key": "k", "repeat": 0, "phase": "measure", "worker": "one", "clashes": (), "began_at": time.time()}
    return Sighting(
        token=f"{begun}", pid=1, processors=processors, began_ns=begun, seen_ns=until, **{**given, **fields}
    )


def test_a_run_that_went_well_has_nothing_amiss(url: str) -> None:
    found = invariants.look(url, [])
    assert (found.jobs, found.all()) == (2, [])


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        (sa.update(jobs).values(state="running"), "lost"),
        (sa.update(jobs).values(state="failed"), "lost"),
        (sa.delete(results), "lost"),
        (sa.update(attempts).values(outcome="lost", reason=""), "broken"),
        (sa.update(attempts).values(outcome=None), "broken"),
        (sa.update(attempts).values(stale=True), "broken"),
    ],
)
def test_what_is_not_as_it_should_be_is_found(url: str, statement: sa.Executable, column: str) -> None:
    change(url, statement)
    assert len(getattr(invariants.look(url, []), column)) >= 2


def test_two_attempts_that_succeeded_are_a_job_measured_twice(url: str) -> None:
    with closing(Database(url)) as database, database.reading() as connection:
        row = dict(connection.execute(sa.select(attempts)).mappings().first() or {})
    change(url, sa.insert(attempts).values({**row, "attempt_id": "another", "fence": 2}))
    assert len(invariants.look(url, []).duplicated) == 1


def test_a_process_that_begins_when_the_result_is_there_is_a_job_measured_twice(url: str) -> None:
    late = sighting(1, 2, key=key(url), began_at=time.time() + 5)
    early = sighting(1, 2, key=key(url), began_at=time.time() - 5)
    assert len(invariants.look(url, [late]).duplicated) == 1
    assert invariants.look(url, [early]).all() == []


def test_a_process_without_an_attempt_is_found(url: str) -> None:
    found = invariants.look(url, [sighting(n, n, key=key(url), began_at=0.0) for n in (1, 2)])
    assert len(found.broken) == 1


@pytest.mark.parametrize(
    ("sightings", "count"),
    [
        ([sighting(1, 5), sighting(5, 9)], 0),
        ([sighting(1, 6), sighting(5, 9)], 1),
        ([sighting(5, 9), sighting(1, 6)], 1),
        ([sighting(1, 6), sighting(5, 9, processors=(1,))], 0),
        ([sighting(1, 6, processors=(0, 1)), sighting(5, 9, processors=(1,))], 1),
        # It was killed long ago by its own word; the kernel says that it was there.
        ([sighting(1, 2), sighting(5, 9, clashes=(0,))], 1),
    ],
)
def test_processes_that_overlap_are_found(sightings: list[Sighting], count: int) -> None:
    assert len(overlaps(sightings)) == count


def test_a_long_process_that_spans_several_is_found_with_each() -> None:
    assert len(overlaps([sighting(1, 100), sighting(5, 9), sighting(20, 30)])) == 2


def test_lines_are_read_once_they_are_whole(tmp_path: Path) -> None:
    given = {"pid": 7, "key": "k", "repeat": 0, "phase": "measure", "worker": "one", "processors": [0, 1]}
    lines = [
        {"what": "in", "token": "a", "at": 10, "clashes": [], "began_at": 1.0, **given},
        {"what": "beat", "token": "a", "at": 20},
        {"what": "out", "token": "a", "at": 30},
    ]
    whole = [json.dumps(line) + "\n" for line in lines]
    found = Sightings(tmp_path)
    assert found.all() == []
    path = tmp_path / FILE
    path.write_text(whole[0] + whole[1][:9])
    [one] = found.all()
    assert (one.processors, one.seen_ns, one.ended) == ((0, 1), 10, False)
    path.write_text("".join(whole))
    [one] = found.measuring()
    assert (one.seen_ns, one.ended) == (30, True)


def test_the_table_adds_up_seeds_and_scenarios() -> None:
    row: dict[str, Any] = {
        "scenario": "a kill",
        "database": "sqlite",
        "faults": 5,
        "jobs": 9,
        "duplicated": 0,
        "overlapping": 0,
    }
    rows = [Row(**row, lost=0), Row(**row, lost=1), Row(**{**row, "database": "postgresql"}, lost=0)]
    assert [(r.faults, r.jobs, r.lost) for r in ledger.merged(rows)] == [(10, 18, 1), (5, 9, 0)]
    assert ledger.table(rows).splitlines()[-1].split() == ["all", "15", "27", "1", "0", "0"]
