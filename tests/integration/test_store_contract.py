"""What every results store promises, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from farm.errors import BadInput, FarmError, Unreachable
from farm.measurement import Environment, GpuFacts, Operator, Outcome
from farm.verdict import Level
from results_store import claiming, database, keeping, looking, records, schema, submitting
from results_store.database import Database
from results_store.store import Claim, Ending, Lease, Reconciled, Retried, State, Store, open_store
from results_store.values import MAX_FAILURES, MAX_HAND_BACKS, MAX_LOG_BYTES, MAX_LOSSES
from tests import databases, factories

OTHER = factories.environment(device_model="Other CPU")
MISSING_PYTHON_PACKAGE = Ending(outcome=Outcome.UNSUPPORTED, reason="needs openvino")
ADDED_SINCE_0003 = (
    ("runs", "name"),
    ("jobs", "hand_backs"),
    ("workers", "quarantined"),
    ("workers", "quarantined_since"),
    ("cells", "requirement"),
)
#: Fields of a protocol that the first farm did not have.
ADDED_LATER = ("paired", "isolation", "remeasure", "profile", "telemetry_s", "energy_s", "control_every")


@pytest.fixture(params=databases.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with databases.fresh(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    store.register(factories.worker())
    yield store
    store.close()


@pytest.fixture
def hasty(url: str) -> Iterator[Store]:
    """The same store for workers whose leases are over as soon as they begin."""
    store = open_store(url, lease_s=-1.0)
    store.register(factories.worker())
    yield store
    store.close()


def claimed(store: Store, worker_id: str = "cpu@alpha", job_id: str | None = None) -> Claim:
    claim = store.claim(worker_id, job_id)
    assert claim is not None
    return claim


def measured(store: Store, worker_id: str = "cpu@alpha") -> Claim:
    claim = claimed(store, worker_id)
    assert store.finish(claim, factories.ok(claim))
    return claim


def expire(store: Store) -> None:
    change(store, sa.update(schema.jobs).where(schema.jobs.c.state == "running").values(lease_until=0.0))


def rows(store: Store, query: sa.Select[Any]) -> list[Any]:
    with store._database.reading() as connection:
        return list(connection.execute(query))


def change(store: Store, statement: sa.Update) -> None:
    with store._database.writing() as connection:
        connection.execute(statement)


def attempt_outcomes(store: Store) -> list[str | None]:
    attempts = schema.attempts
    query = sa.select(attempts.c.outcome).order_by(attempts.c.job_id, attempts.c.fence)
    return [row.outcome for row in rows(store, query)]


def in_processes(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(0)`, `work(1)`, … answer, each in a process of its own, all at once."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    barrier = context.Barrier(count)

    def child(number: int) -> None:
        barrier.wait()
        try:
            answers.put(work(number))
        except BaseException as error:  # whatever it is, the test must see it
            answers.put(error)

    children = [context.Process(target=child, args=(number,)) for number in range(count)]
    for process in children:
        process.start()
    found = [answers.get(timeout=120) for _ in children]
    for process in children:
        process.join(timeout=30)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return found


# ---- schema


def test_migrations_and_tables_agree(store: Store) -> None:
    with store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == schema.REVISION


def test_migrations_make_the_very_indexes_that_the_tables_would(tmp_path: Path) -> None:
    # compare_metadata does not look at the condition of a partial index
    def statements(url: str) -> set[str]:
        with closing(Database(url)) as database, database.reading() as connection:
            return set(connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE type = 'index'")))

    open_store(f"sqlite:///{tmp_path}/migrated.db").close()
    with closing(Database(f"sqlite:///{tmp_path}/made.db")) as database, database.writing() as connection:
        schema.metadata.create_all(connection)
    assert statements(f"sqlite:///{tmp_path}/migrated.db") == statements(f"sqlite:///{tmp_path}/made.db")


def test_opening_a_fresh_database_from_many_processes_at_once_works(url: str) -> None:
    def work(number: int) -> int:
        with closing(open_store(url)) as store:
            return len(store.runs())

    assert in_processes(8, work) == [0] * 8


def test_a_database_of_a_newer_farm_is_refused(store: Store, url: str) -> None:
    change(store, sa.update(sa.table("alembic_version", sa.column("version_num"))).values(version_num="9999"))
    with pytest.raises(BadInput, match="newer"):
        open_store(url)


# ---- submitting


def test_a_submission_has_a_job_for_every_repeat_of_every_cell(store: Store) -> None:
    matrix = factories.matrix(optimizations=("baseline", "channels_last"), batch_sizes=(1, 8), repeats=3)
    submission = store.submit(matrix)
    assert submission.created
    assert (submission.jobs, submission.done_already) == (12, 0)
    assert store.run(submission.run_id).matrix == matrix
    assert [result.spec for result in store.results(submission.run_id)] == sorted(
        matrix.jobs(), key=lambda spec: (matrix.cells().index(spec.cell), spec.repeat)
    )


def test_a_submission_that_fails_midway_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: Any) -> Iterator[Any]:
        raise RuntimeError("midway")

    monkeypatch.setattr("results_store.submitting._job_rows", breaks)
    with pytest.raises(RuntimeError):
        store.submit(factories.matrix())
    assert store.runs() == []


def test_an_unfinished_run_of_an_equal_matrix_is_taken_up(store: Store) -> None:
    first = store.submit(factories.matrix(repeats=2))
    measured(store)
    second = store.submit(factories.matrix(repeats=2))
    assert (second.run_id, second.created, second.done_already) == (first.run_id, False, 1)
    assert store.submit(factories.matrix(repeats=3)).created


def test_a_finished_run_is_returned_where_its_environments_are_still_the_ones(store: Store) -> None:
    first = store.submit(factories.matrix())
    factories.measure_all(store, "cpu@alpha")
    mine = factories.environment().key
    for environments in (frozenset[str](), frozenset({mine}), frozenset({mine, OTHER.key})):
        assert store.submit(factories.matrix(), environments=environments).run_id == first.run_id
    assert store.submit(factories.matrix(), environments=frozenset({OTHER.key})).created


def test_a_finished_run_with_cancelled_jobs_is_not_returned(store: Store) -> None:
    first = store.submit(factories.matrix(repeats=2))
    measured(store)
    store.cancel(first.run_id)
    mine = frozenset({factories.environment().key})
    second = store.submit(factories.matrix(repeats=2), environments=mine)
    assert second.created
    assert second.done_already == 1


def test_again_makes_a_new_run_that_adopts_nothing(store: Store) -> None:
    first = store.submit(factories.matrix())
    factories.measure_all(store, "cpu@alpha")
    second = store.submit(factories.matrix(), again=True)
    assert second.created
    assert second.run_id != first.run_id
    assert factories.measure_all(store, "cpu@alpha") == 1


def test_equal_matrices_submitted_at_once_become_one_run(url: str) -> None:
    open_store(url).close()

    def work(number: int) -> str:
        with closing(open_store(url)) as store:
            return store.submit(factories.matrix()).run_id

    assert len(set(in_processes(4, work))) == 1


def test_a_run_of_an_older_farm_goes_on_with_the_protocol_that_it_had(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    [(spec,)] = rows(store, sa.select(schema.cells.c.spec))
    before = {name: value for name, value in json.loads(spec)["protocol"].items() if name not in ADDED_LATER}
    older = json.dumps({**json.loads(spec), "protocol": before})
    change(store, sa.update(schema.cells).values(spec=older))
    whole = json.dumps({**json.loads(older), "repeat": 0}, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(whole.encode()).hexdigest()
    change(store, sa.update(schema.jobs).where(schema.jobs.c.repeat == 0).values(key=key))
    claim = measured(store)
    assert (claim.spec.protocol.paired, claim.spec.protocol.isolation) == (False, "spawn")
    assert claim.spec.protocol.min_calls == factories.PROTOCOL.min_calls
    assert [row.key for row in rows(store, sa.select(schema.results.c.key))] == [key]
    [first, second] = store.results(run)
    assert first.spec.protocol == second.spec.protocol == claim.spec.protocol


def test_a_name_stands_for_one_matrix_and_its_run_is_found_by_it(store: Store) -> None:
    first = store.submit(factories.matrix(batch_sizes=(1, 8)), name="nightly")
    assert first.created
    again = store.submit(factories.matrix(batch_sizes=(1, 8)), name="nightly")
    assert (again.run_id, again.created) == (first.run_id, False)
    for found in (store.run("nightly"), store.run(first.run_id), store.runs()[0], store.progress("nightly")):
        assert (found.run_id, found.name, found.handle) == (first.run_id, "nightly", "nightly")
        assert (found.title, found.folder) == (f"nightly ({first.run_id})", "nightly")
    assert [result.run_id for result in store.results("nightly")] == [first.run_id] * 2


def test_another_matrix_under_a_name_is_refused_with_the_difference_and_writes_nothing(store: Store) -> None:
    first = store.submit(factories.matrix(batch_sizes=(1, 8)), name="nightly").run_id
    before = rows(store, sa.select(sa.func.count()).select_from(schema.jobs))
    with pytest.raises(BadInput, match=r"batch_sizes: 1, 8 -> 1, 8, 32\n") as refused:
        store.submit(factories.matrix(batch_sizes=(1, 8, 32)), name="nightly")
    assert f"nightly ({first})" in str(refused.value)
    assert "another --name, or the matrix as it was" in str(refused.value)
    with pytest.raises(BadInput, match="1, 8 -> 1, 8, 32"):
        store.require_name("nightly", factories.matrix(batch_sizes=(1, 8, 32)))
    store.require_name("nightly", factories.matrix(batch_sizes=(1, 8)))
    store.require_name("weekly", factories.matrix())
    assert [run.run_id for run in store.runs()] == [first]
    assert rows(store, sa.select(sa.func.count()).select_from(schema.jobs)) == before


def test_a_name_that_is_taken_cannot_be_measured_again_and_a_new_one_can(store: Store) -> None:
    store.submit(factories.matrix(), name="nightly")
    with pytest.raises(BadInput, match="retry nightly"):
        store.submit(factories.matrix(), name="nightly", again=True)
    assert len(store.runs()) == 1
    factories.measure_all(store, "cpu@alpha")
    assert store.submit(factories.matrix(), name="weekly", again=True).created
    assert factories.measure_all(store, "cpu@alpha") == 1


def test_a_named_run_is_taken_up_however_it_ended_and_of_whatever_class(store: Store) -> None:
    first = store.submit(factories.matrix(repeats=2), name="nightly").run_id
    measured(store)
    store.cancel("nightly")
    other = frozenset({OTHER.key})
    assert store.submit(factories.matrix(repeats=2), name="nightly", environments=other).run_id == first


def test_an_equal_matrix_under_another_name_is_a_run_of_its_own_that_measures_nothing_twice(store: Store) -> None:
    first = store.submit(factories.matrix(), name="nightly").run_id
    factories.measure_all(store, "cpu@alpha")
    mine = frozenset({factories.environment().key})
    second = store.submit(factories.matrix(), name="weekly", environments=mine)
    assert (second.created, second.done_already) == (True, 1)
    assert store.claim("cpu@alpha") is None
    assert store.run(second.run_id).states == {State.DONE: 1}
    assert store.submit(factories.matrix(), environments=mine).run_id in (first, second.run_id)


def test_names_are_refused_and_found_with_the_nearest(store: Store) -> None:
    with pytest.raises(BadInput, match="--name"):
        store.submit(factories.matrix(), name="../escape")
    store.submit(factories.matrix(), name="nightly")
    with pytest.raises(BadInput, match="Did you mean 'nightly'"):
        store.run("nightl")


def test_one_name_submitted_at_once_with_two_matrices_becomes_one_run(url: str) -> None:
    open_store(url).close()

    def work(number: int) -> str:
        with closing(open_store(url)) as store:
            try:
                return store.submit(factories.matrix(batch_sizes=(number % 2 + 1,)), name="nightly").run_id
            except BadInput:
                return "refused"

    found = in_processes(4, work)
    assert len(set(found) - {"refused"}) == 1
    assert found.count("refused") == 2


def test_a_database_of_before_names_keeps_its_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/farm.db"
    with closing(open_store(url)) as store:
        run = store.submit(factories.matrix()).run_id
        with store._database.writing() as connection:
            connection.exec_driver_sql("DROP INDEX runs_name")
            connection.exec_driver_sql("DROP TABLE requirements")
            for table, column in ADDED_SINCE_0003:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    with closing(open_store(url)) as store:
        assert [(found.run_id, found.name) for found in store.runs()] == [(run, None)]
        assert store.submit(factories.matrix(batch_sizes=(8,)), name="nightly").created


# ---- adopting


def test_a_job_whose_key_has_a_result_in_this_class_is_done_without_an_attempt(store: Store) -> None:
    store.submit(factories.matrix(batch_sizes=(1, 8)))
    factories.measure_all(store, "cpu@alpha")
    second = store.submit(factories.matrix(batch_sizes=(8, 32)))
    assert factories.measure_all(store, "cpu@alpha") == 1
    adopted, measured_now = store.results(second.run_id)
    assert (adopted.state, adopted.outcome, adopted.attempts) == (State.DONE, Outcome.OK, 0)
    assert adopted.measurement is not None
    assert adopted.measured_by is not None
    assert not adopted.measured_by.startswith(second.run_id)
    assert (measured_now.attempts, measured_now.measured_by) == (1, measured_now.job_id)


def test_a_job_named_whose_result_is_there_is_passed_over(store: Store) -> None:
    store.submit(factories.matrix(batch_sizes=(1,)))
    factories.measure_all(store, "cpu@alpha")
    run = store.submit(factories.matrix(batch_sizes=(1, 8), repeats=1)).run_id
    known, other = (result.job_id for result in store.results(run))
    assert claimed(store, job_id=known).job_id == other
    assert [result.state for result in store.results(run)] == [State.DONE, State.RUNNING]


def test_one_claim_passes_over_however_many_have_their_result_already(store: Store) -> None:
    many = 30
    store.submit(factories.matrix(batch_sizes=tuple(range(1, many + 1))))
    while (claim := store.claim("cpu@alpha")) is not None:
        store.finish(claim, MISSING_PYTHON_PACKAGE)
    run = store.submit(factories.matrix(batch_sizes=tuple(range(1, many + 2)))).run_id
    assert claimed(store).spec.batch_size == many + 1
    assert store.claim("cpu@alpha") is None
    states = Counter((result.state, result.attempts) for result in store.results(run))
    assert states == {(State.DONE, 0): many, (State.RUNNING, 1): 1}


def test_processes_that_claim_at_once_adopt_every_result_once(url: str) -> None:
    with closing(open_store(url)) as store:
        store.register(factories.worker())
        store.submit(factories.matrix(batch_sizes=tuple(range(1, 41))))
        while (claim := store.claim("cpu@alpha")) is not None:
            store.finish(claim, MISSING_PYTHON_PACKAGE)
        run = store.submit(factories.matrix(batch_sizes=tuple(range(1, 42)))).run_id

    def work(number: int) -> int:
        with closing(open_store(url)) as store:
            store.register(factories.worker(f"cpu@{number}"))
            done = 0
            while (claim := store.claim(f"cpu@{number}")) is not None:
                done += store.finish(claim, MISSING_PYTHON_PACKAGE)
            return done

    assert sum(in_processes(4, work)) == 1
    with closing(open_store(url)) as store:
        assert Counter(result.attempts for result in store.results(run)) == {0: 40, 1: 1}
        assert store.run(run).states == {State.DONE: 41}
        assert len(rows(store, sa.select(schema.results))) == 81


def test_a_job_whose_worker_vanished_adopts_what_another_run_measured_meanwhile(
    store: Store, hasty: Store
) -> None:
    run = store.submit(factories.matrix()).run_id
    lost = claimed(hasty)
    store.submit(factories.matrix(), again=True)
    assert store.finish(claimed(store, job_id=f"{store.run('latest').run_id}.000000"), MISSING_PYTHON_PACKAGE)
    assert store.claim("cpu@alpha") is None
    [adopted] = store.results(run)
    assert (adopted.state, adopted.outcome, adopted.attempts) == (State.DONE, Outcome.UNSUPPORTED, 1)
    assert sorted(map(str, attempt_outcomes(store))) == ["lost", "unsupported"]
    assert not store.finish(lost, factories.ok(lost))


def test_a_result_of_another_class_is_not_adopted(store: Store) -> None:
    store.submit(factories.matrix())
    factories.measure_all(store, "cpu@alpha")
    store.register(factories.worker("cpu@beta", environment=OTHER))
    store.submit(factories.matrix(batch_sizes=(1, 8)))
    assert factories.measure_all(store, "cpu@beta") == 2


def test_a_result_is_not_adopted_into_a_cell_that_a_living_worker_of_another_class_began(store: Store) -> None:
    store.submit(factories.matrix())
    factories.measure_all(store, "cpu@alpha")
    store.register(factories.worker("cpu@beta", environment=OTHER))
    store.submit(factories.matrix(repeats=2))
    begun = claimed(store, "cpu@beta")
    store.finish(begun, Ending(outcome=Outcome.CRASHED))
    assert store.claim("cpu@alpha") is None
    store.deregister("cpu@beta")
    assert factories.measure_all(store, "cpu@alpha") == 1
    assert store.run("latest").states == {State.DONE: 2}


# ---- claiming


def test_jobs_are_claimed_in_order_of_runs_and_then_of_measuring(store: Store) -> None:
    first = store.submit(factories.matrix(repeats=2, batch_sizes=(1, 8)))
    second = store.submit(factories.matrix(batch_sizes=(2,)))
    order = [f"{first.run_id}.{n:06d}" for n in range(4)] + [f"{second.run_id}.000000"]
    assert store.claimable() == {"cpu": order}
    assert store.claimable(second.run_id) == {"cpu": order[4:]}
    assert store.claimable(limit=2) == {"cpu": order[:2]}
    assert [claimed(store).job_id for _ in order] == order
    assert store.claim("cpu@alpha") is None


def test_several_workers_that_take_turns_claim_in_order_of_measuring(store: Store) -> None:
    run = store.submit(factories.matrix(batch_sizes=(1, 2, 4, 8), repeats=2)).run_id
    store.register(factories.worker("cpu@beta"))
    workers = ["cpu@alpha", "cpu@alpha", "cpu@beta"] * 3
    found = [claimed(store, worker).job_id for worker in workers[:8]]
    assert found == [f"{run}.{n:06d}" for n in range(8)]


def test_workers_at_once_claim_in_order_of_measuring_too(url: str) -> None:
    with closing(open_store(url)) as store:
        run = store.submit(factories.matrix(batch_sizes=tuple(range(1, 21)), repeats=2)).run_id

    def work(number: int) -> list[int]:
        with closing(open_store(url)) as store:
            store.register(factories.worker(f"cpu@{number}"))
            mine = []
            while (claim := store.claim(f"cpu@{number}")) is not None:
                mine.append(int(claim.job_id.removeprefix(f"{run}.")))
                assert store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED))
            return mine

    for mine in in_processes(4, work):
        assert mine == sorted(mine)


def test_the_job_named_is_claimed_and_where_it_is_gone_the_next_one(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=3)).run_id
    assert claimed(store, job_id=f"{run}.000001").job_id == f"{run}.000001"
    assert claimed(store, job_id=f"{run}.000001").job_id == f"{run}.000000"
    assert claimed(store, job_id="nonsense").job_id == f"{run}.000002"


def test_a_worker_claims_only_from_its_queues_and_the_earliest_of_all_of_them(store: Store) -> None:
    run = store.submit(factories.matrix(devices=("cpu", "cuda", "cuda.h200"), batch_sizes=(1, 8))).run_id
    store.register(factories.worker("gpu@alpha", queues=("gpu.h200", "gpu")))
    mine = [r.job_id for r in store.results(run) if r.spec.device != "cpu"]
    assert [claimed(store, "gpu@alpha").job_id for _ in mine] == sorted(mine)
    cpu_job = next(r.job_id for r in store.results(run) if r.spec.device == "cpu")
    assert store.claim("gpu@alpha", cpu_job) is None


def test_a_job_that_asks_for_more_threads_than_the_worker_has_is_left(store: Store) -> None:
    run = store.submit(factories.matrix(threads=4)).run_id
    assert store.claim("cpu@alpha", f"{run}.000000") is None
    store.register(factories.worker("big@alpha", threads=4))
    assert claimed(store, "big@alpha").spec.threads == 4


def test_a_claim_carries_what_to_measure_and_a_fence_that_grows(store: Store) -> None:
    matrix = factories.matrix()
    store.submit(matrix)
    first = claimed(store)
    assert first.spec == matrix.jobs()[0]
    assert (first.fence, first.attempt) == (1, 1)
    store.finish(first, Ending(outcome=Outcome.CRASHED, reason="signal 11"))
    second = claimed(store)
    assert (second.fence, second.attempt) == (2, 2)


def test_a_worker_that_is_not_registered_is_told_so(store: Store) -> None:
    with pytest.raises(FarmError, match="not registered"):
        store.claim("stranger")


def test_many_processes_claim_every_job_once_and_no_cell_in_two_classes(url: str) -> None:
    store = open_store(url)
    run = store.submit(factories.matrix(batch_sizes=tuple(range(1, 51)), repeats=4)).run_id

    def work(number: int) -> list[tuple[str, str]]:
        # the parent's store, used after the fork: the child must connect anew
        environment = OTHER if number % 2 else factories.environment()
        name = f"cpu@{number}"
        store.register(factories.worker(name, environment=environment))
        mine = []
        deadline = time.monotonic() + 60
        while store.claimable(run) and time.monotonic() < deadline:
            if (claim := store.claim(name)) is not None:
                assert store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED))
                mine.append((claim.job_id, environment.key))
        store.close()
        return mine

    found = [pair for mine in in_processes(8, work) for pair in mine]
    assert sorted(job for job, _ in found) == [f"{run}.{n:06d}" for n in range(200)]
    classes: dict[int, set[str | None]] = {}
    for result in store.results(run):
        assert (result.state, result.attempts) == (State.DONE, 1)
        classes.setdefault(result.cell_ordinal, set()).add(result.environment_key)
    assert len(classes) == 50
    assert all(len(keys) == 1 for keys in classes.values())
    store.close()


def test_a_claim_among_100_000_jobs_is_fast(store: Store) -> None:
    store.submit(factories.matrix())
    insert_many_jobs(store, 100_000)
    change(store, sa.update(schema.jobs).where(schema.jobs.c.ordinal < 50_000).values(state="done"))
    for repeat in range(50_000, 50_020):
        key = factories.spec(repeat=repeat).key  # its own, and not that of the job it was copied from
        change(store, sa.update(schema.jobs).where(schema.jobs.c.ordinal == repeat).values(key=key))
    started = time.perf_counter()
    assert all(store.claim("cpu@alpha") for _ in range(20))
    assert (time.perf_counter() - started) / 20 < 0.05


def insert_many_jobs(store: Store, count: int) -> None:
    """Copies the only job until there are so many, in the database itself."""
    number = sa.select(sa.literal(1).label("n")).cte(recursive=True)
    number = number.union_all(sa.select(number.c.n + 1).where(number.c.n < count - 1))
    copied = {
        "job_id": sa.literal("many.") + sa.cast(number.c.n, sa.Text),
        "ordinal": number.c.n,
        "repeat": number.c.n,
    }
    columns = [copied.get(column.name, column) for column in schema.jobs.c]
    numbered = sa.select(*columns).select_from(schema.jobs.join(number, sa.true()))
    with store._database.writing() as connection:
        connection.execute(sa.insert(schema.jobs).from_select(list(schema.jobs.c.keys()), numbered))


# ---- what a job asks of its worker

PLAIN = factories.environment(device_kind="cuda", device_model="Tesla T4", gpu={"compute_capability": 7.5})
ABLE = factories.environment(
    device_kind="cuda",
    device_model="NVIDIA H200",
    packages={"torch": "2", "onnx": "1", "onnxscript": "1", "tensorrt": "10"},
    gpu={"compute_capability": 9.0, "memory_bytes": 141 << 30},
)


def gpu_worker(store: Store, name: str, where: Environment, **fields: Any) -> str:
    store.register(factories.worker(name, environment=where, queues=("gpu",), **fields))
    return name


@pytest.mark.parametrize(
    "asked",
    [{"optimizations": ("tensorrt",)}, {"optimizations": ("bf16",)}, {"min_vram_mb": 40_000}],
    ids=["package", "compute capability", "memory"],
)
def test_a_job_is_left_to_the_living_worker_that_has_what_it_asks_for(store: Store, asked: dict[str, Any]) -> None:
    small = PLAIN.model_copy(update={"gpu": GpuFacts(compute_capability=7.5, memory_bytes=16 << 30)})
    plain, able = gpu_worker(store, "gpu@plain", small), gpu_worker(store, "gpu@able", ABLE)
    run = factories.submitted(store, devices=("cuda",), repeats=2, **asked)
    assert store.claim(plain, f"{run}.000000") is None
    assert store.waits_for_another(plain, f"{run}.000000")
    assert claimed(store, able, f"{run}.000000").job_id == f"{run}.000000"
    assert not store.waits_for_another(plain, f"{run}.000000")


def test_what_is_left_to_another_keeps_nobody_from_the_rest(store: Store) -> None:
    plain = gpu_worker(store, "gpu@plain", PLAIN)
    gpu_worker(store, "gpu@able", ABLE)
    run = factories.submitted(store, devices=("cuda",), optimizations=("tensorrt", "fp16+tensorrt", "amp"))
    claim = claimed(store, plain, f"{run}.000000")
    assert str(claim.spec.recipe) == "amp"
    assert store.claim(plain) is None


def test_what_no_living_worker_has_is_taken_all_the_same_so_that_it_does_not_wait_for_ever(store: Store) -> None:
    plain, able = gpu_worker(store, "gpu@plain", PLAIN), gpu_worker(store, "gpu@able", ABLE)
    factories.submitted(store, devices=("cuda",), optimizations=("tensorrt",))
    assert store.claim(plain) is None
    store.deregister(able)
    claim = claimed(store, plain)
    assert store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED, reason="tensorrt needs tensorrt"))
    assert store.run("latest").finished


@pytest.mark.parametrize(
    "fields",
    [{"queues": ("gpu.h200",)}, {"threads": 1}, {"queues": ("cpu",)}],
    ids=["own queue", "threads", "cpu"],
)
def test_a_worker_that_has_it_and_could_not_take_the_job_is_none_to_leave_it_to(
    store: Store, fields: dict[str, Any]
) -> None:
    plain = gpu_worker(store, "gpu@plain", PLAIN)
    store.register(factories.worker("gpu@able", environment=ABLE, **{"queues": ("gpu",), **fields}))
    factories.submitted(store, devices=("cuda",), optimizations=("tensorrt",), threads=2)
    assert claimed(store, plain)


def test_a_job_waits_for_the_worker_that_has_it_while_that_is_probed(store: Store) -> None:
    plain = gpu_worker(store, "gpu@plain", PLAIN)
    able = gpu_worker(store, "gpu@able", ABLE, quarantined="its device has not been probed yet")
    factories.submitted(store, devices=("cuda",), optimizations=("tensorrt",))
    assert store.claim(plain) is None
    assert store.claim(able) is None
    assert [worker for worker, _ in store.progress("latest").quarantined] == [able]
    store.recover(able)
    assert claimed(store, able)


def test_what_a_class_has_begun_it_goes_on_with_though_another_that_has_it_comes(store: Store) -> None:
    plain = gpu_worker(store, "gpu@plain", PLAIN)
    factories.submitted(store, devices=("cuda",), optimizations=("tensorrt",), repeats=2)
    assert store.finish(claimed(store, plain), Ending(outcome=Outcome.UNSUPPORTED))
    able = gpu_worker(store, "gpu@able", ABLE)
    assert store.claim(able) is None
    assert claimed(store, plain)


def test_a_requirement_that_cannot_be_read_any_more_asks_for_nothing(store: Store) -> None:
    plain = gpu_worker(store, "gpu@plain", PLAIN)
    gpu_worker(store, "gpu@able", ABLE)
    factories.submitted(store, devices=("cuda",), optimizations=("tensorrt",))
    change(store, sa.update(schema.requirements).values(requirement='{"of a newer farm": true}'))
    assert claimed(store, plain)


def test_a_worker_of_another_version_that_cannot_be_read_is_in_nobodys_way(store: Store) -> None:
    store.register(factories.worker("cpu@newer"))
    newer = schema.workers.c.worker_id == "cpu@newer"
    change(store, sa.update(schema.workers).where(newer).values(environment='{"of a newer farm": true}'))
    assert [worker.id for worker in store.workers()] == ["cpu@alpha"]


def test_a_job_waits_for_another_worker_only_where_there_is_one_that_might_take_it(store: Store) -> None:
    run = store.submit(factories.matrix(threads=2)).run_id
    job = f"{run}.000000"
    assert not store.waits_for_another("cpu@alpha", job)
    store.register(factories.worker("small@alpha", threads=1))
    store.register(factories.worker("gpu@alpha", queues=("gpu",)))
    assert not store.waits_for_another("cpu@alpha", job)
    assert store.waits_for_another("small@alpha", job)
    store.deregister("cpu@alpha")
    assert not store.waits_for_another("small@alpha", job)
    assert not store.waits_for_another("small@alpha", "no.000000")


def test_the_requirements_of_a_matrix_are_noted_once(store: Store) -> None:
    wanted = {"devices": ("cuda",), "optimizations": ("bf16", "channels_last+bf16", "baseline")}
    factories.submitted(store, batch_sizes=(1, 8), **wanted)
    factories.submitted(store, batch_sizes=(2, 4), **wanted)
    assert len(rows(store, sa.select(schema.requirements))) == 1
    asked = rows(store, sa.select(schema.cells.c.requirement).where(schema.cells.c.requirement.is_not(None)))
    assert len(asked) == 8


def test_equal_requirements_submitted_at_once_are_no_trouble(url: str) -> None:
    open_store(url).close()

    def work(number: int) -> str:
        with closing(open_store(url)) as store:
            asked = ("bf16", "tf32", "tensorrt", "onnxruntime")
            return factories.submitted(store, devices=("cuda",), optimizations=asked, seed=number)

    assert len(set(in_processes(4, work))) == 4


# ---- binding a cell to an environment class


def test_repeats_of_a_cell_stay_in_one_class_while_a_worker_of_it_lives(store: Store) -> None:
    store.submit(factories.matrix(repeats=3))
    store.register(factories.worker("cpu@beta", environment=OTHER))
    claimed(store)
    assert store.claim("cpu@beta") is None
    assert claimed(store).attempt == 1


def test_another_class_may_go_on_when_no_worker_of_the_first_is_left(store: Store) -> None:
    store.submit(factories.matrix(repeats=3))
    store.register(factories.worker("cpu@beta", environment=OTHER))
    measured(store)
    store.deregister("cpu@alpha")
    assert claimed(store, "cpu@beta").job_id.endswith("1")
    store.register(factories.worker())
    assert store.claim("cpu@alpha") is None


def test_a_worker_whose_heartbeat_stopped_holds_no_cell(store: Store) -> None:
    store.submit(factories.matrix(repeats=2))
    store.register(factories.worker("cpu@beta", environment=OTHER))
    claimed(store)
    silent = schema.workers.c.worker_id == "cpu@alpha"
    change(store, sa.update(schema.workers).where(silent).values(last_seen=schema.workers.c.last_seen - 31))
    assert [worker.id for worker in store.workers()] == ["cpu@beta"]
    assert len(store.workers(alive_only=False)) == 2
    assert claimed(store, "cpu@beta")


def test_two_classes_that_claim_repeats_of_one_cell_at_once_do_not_both_get_it() -> None:
    # on SQLite the write lock leaves no such moment
    with databases.postgresql() as url, closing(open_store(url)) as store, ThreadPoolExecutor() as pool:
        store.register(factories.worker())
        store.register(factories.worker("cpu@beta", environment=OTHER))
        store.submit(factories.matrix(repeats=2))
        with store._database.writing() as connection:
            assert claiming.claim(connection, "cpu@alpha", None, 30.0)[0] is not None
            other = pool.submit(store.claim, "cpu@beta")
            wait_for_a_blocked_transaction(store)
        assert other.result(timeout=30) is None


def wait_for_a_blocked_transaction(store: Store) -> None:
    deadline = time.monotonic() + 30
    blocked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while time.monotonic() < deadline:
        with store._database.reading() as connection:
            if connection.scalar(blocked):
                return
    raise AssertionError("nobody waits")


def test_a_claim_does_not_wait_for_who_cancels_or_resumes_its_run() -> None:
    # On SQLite one writes at a time. It would wait in a circle: who cancels wants the job that is being claimed.
    with databases.postgresql() as url, closing(open_store(url)) as store, ThreadPoolExecutor() as pool:
        store.register(factories.worker())
        run = looking_up(store, factories.submitted(store))
        with store._database.writing() as connection:
            submitting._hold(connection, run)
            assert pool.submit(store.claim, "cpu@alpha").result(timeout=10) is not None


def looking_up(store: Store, run_id: str) -> int:
    with store._database.reading() as connection:
        return looking.run_number(connection, run_id)


def test_who_stands_still_in_the_middle_of_a_claim_keeps_nobody_from_the_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a host does that lost its power or its cable: its server would wait for it for two hours.
    monkeypatch.setattr(database, "IDLE_IN_TRANSACTION_S", 0.5)
    with databases.postgresql() as url, closing(open_store(url)) as store, ThreadPoolExecutor() as pool:
        store.register(factories.worker())
        store.register(factories.worker("other@alpha"))
        store.submit(factories.matrix(repeats=2))
        with pytest.raises(Unreachable), store._database.writing() as connection:
            assert claiming.claim(connection, "cpu@alpha", None, 30.0)[0] is not None
            other = pool.submit(store.claim, "other@alpha").result(timeout=10)
            assert other is not None
            assert other.job_id.endswith(".000001")


def test_a_job_that_another_has_claimed_meanwhile_is_not_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot read it, for want of a plug-in, says so a moment later than it looked."""
    run = factories.submitted(store)
    store.register(factories.worker("able@alpha"))
    with monkeypatch.context() as patched:
        patched.setattr(records, "is_as_submitted", lambda *_: False)
        with pytest.raises(claiming.Unreadable) as unreadable:
            store._database.transact(claiming.claim, "cpu@alpha", None, 30.0)
    claim = claimed(store, "able@alpha")
    store._database.transact(claiming.refuse, *unreadable.value.args)
    assert store.finish(claim, factories.ok(claim))
    assert store.run(run).states == {State.DONE: 1}


# ---- ending


def test_a_measurement_comes_back_as_it_was_given(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    claim = claimed(store)
    given = factories.measurement(spec=claim.spec, missing={"energy": "no counter"})
    assert store.finish(claim, Ending(outcome=Outcome.OK, measurement=given))
    [result] = store.results(run)
    assert result.measurement == given
    assert (result.state, result.outcome, result.attempts) == (State.DONE, Outcome.OK, 1)
    assert (result.environment_key, result.measured_by) == (factories.environment().key, claim.job_id)


def test_a_profile_comes_back_as_it_was_given_but_for_a_trace_that_must_be_asked_for(store: Store) -> None:
    run = store.submit(factories.matrix(optimizations=("baseline", "amp"))).run_id
    claim = claimed(store)
    given = factories.profile(
        operators=(Operator(name="a\0b \ud800 é \u2028", provider='"', calls=1, host_self_s=0.1),),
        trace=json.dumps({"traceEvents": [{"name": "a\0b \ud800 é"}] * 100_000}),
    )
    assert store.finish(claim, factories.ok(claim, profile=given))
    assert store.profile(claim.job_id) == given.model_copy(update={"trace": None})
    assert store.trace(claim.job_id) == given.trace
    # what reads all results reads neither
    bare = given.model_copy(update={"trace": None, "operators": ()})
    assert [r.measurement.profile for r in store.results(run) if r.measurement] == [bare]
    [(text, blob)] = rows(store, sa.select(schema.attempts.c.measurement, schema.attempts.c.trace))
    assert "traceEvents" not in text
    assert len(blob) < 100_000 < len(given.trace or "")
    other = measured(store)
    assert (store.profile(other.job_id), store.trace(other.job_id)) == (None, None)
    assert (store.profile("no job"), store.trace("no job")) == (None, None)


def test_a_profile_is_adopted_with_its_result(store: Store) -> None:
    store.submit(factories.matrix())
    claim = claimed(store)
    assert store.finish(claim, factories.ok(claim, profile=factories.profile()))
    store.submit(factories.matrix(batch_sizes=(1, 2)))
    factories.measure_all(store, "cpu@alpha")
    [adopted] = [result for result in store.results("latest") if result.measured_by != result.job_id]
    assert store.trace(adopted.job_id) == factories.profile().trace


@pytest.mark.parametrize("outcome", [Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY])
def test_unsupported_and_out_of_memory_are_results(store: Store, outcome: Outcome) -> None:
    run = store.submit(factories.matrix()).run_id
    assert store.finish(claimed(store), Ending(outcome=outcome, reason="why"))
    [result] = store.results(run)
    assert (result.state, result.outcome, result.reason) == (State.DONE, outcome, "why")
    assert store.claim("cpu@alpha") is None


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TIMEOUT])
def test_three_crashes_or_timeouts_fail_a_job(store: Store, outcome: Outcome) -> None:
    run = store.submit(factories.matrix()).run_id
    for _ in range(MAX_FAILURES):
        assert store.finish(claimed(store), Ending(outcome=outcome, reason="signal 11"))
    assert store.claim("cpu@alpha") is None
    [result] = store.results(run)
    assert (result.state, result.outcome, result.attempts) == (State.FAILED, outcome, 3)
    assert "signal 11" in result.reason
    [(name, shown, reason)] = store.progress(run).failures
    assert (name, shown, reason) == ("densenet121_baseline batch 1 cpu #1", outcome, result.reason)


def test_an_error_fails_a_job_at_once(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    assert store.finish(claimed(store), Ending(outcome=Outcome.ERROR, reason="KeyError"))
    assert store.run(run).states == {State.FAILED: 1}


def test_finishing_twice_gives_the_same_answer_and_one_result(store: Store) -> None:
    store.submit(factories.matrix())
    ending = factories.ok(claim := claimed(store))
    assert store.finish(claim, ending)
    assert store.finish(claim, ending)
    assert len(rows(store, sa.select(schema.results))) == 1


def test_a_late_writer_is_kept_as_a_stale_attempt_and_writes_no_result(store: Store, hasty: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    late = claimed(hasty)
    current = claimed(store)
    assert (current.job_id, current.fence) == (late.job_id, 2)
    assert store.renew(late) is Lease.LOST
    assert not store.finish(late, factories.ok(late))
    assert store.run(run).states == {State.RUNNING: 1}
    assert rows(store, sa.select(schema.results)) == []
    assert store.finish(current, MISSING_PYTHON_PACKAGE)
    assert not store.finish(late, factories.ok(late))
    [result] = store.results(run)
    assert result.outcome is Outcome.UNSUPPORTED
    stale = sa.select(schema.attempts.c.fence, schema.attempts.c.stale).order_by(schema.attempts.c.fence)
    assert [tuple(row) for row in rows(store, stale)] == [(1, True), (2, False)]


def test_text_that_a_database_would_refuse_is_stored_all_the_same(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    log = "x" * 10 + "ü" * MAX_LOG_BYTES
    assert store.finish(claimed(store), Ending(outcome=Outcome.ERROR, reason="a\0b\udc80", log_tail=log))
    [result] = store.results(run)
    assert result.reason.startswith("a\N{REPLACEMENT CHARACTER}b")
    [(kept,)] = rows(store, sa.select(schema.attempts.c.log_tail))
    assert kept == "ü" * (MAX_LOG_BYTES // 2)


# ---- measuring again


SPOILT, CLEAN, BUSY = 0.8, 0.04, 0.5  # seconds of 4 that others took of two processors: INVALID, VALID, SUSPECT


def submitted_once(store: Store, remeasure: int = 2) -> str:
    protocol = factories.PROTOCOL.model_copy(update={"remeasure": remeasure})
    return store.submit(factories.matrix(protocol=protocol)).run_id


def spoilt(store: Store, others_s: float = 3 * SPOILT, started_at: float = 1000.0) -> Claim:
    """Measured while others had so much of the processors, and by that to be measured again."""
    claim = claimed(store)
    ending = factories.ok(claim, contention=factories.contention(others_s), started_at=started_at)
    assert store.finish(claim, replace(ending, remeasure=True))
    return claim


def shown(store: Store, run: str) -> tuple[State, Outcome | None, float]:
    """How the only job stands, and how much others took while its result was measured."""
    [result] = store.results(run)
    found = result.measurement
    return result.state, result.outcome, found.contention.others_s if found and found.contention else -1.0


def test_a_spoilt_measurement_is_made_again_and_the_better_one_becomes_the_result(store: Store) -> None:
    run = submitted_once(store)
    spoilt(store)
    assert store.run(run).states == {State.QUEUED: 1}
    assert list(store.claimable(run).values()) == [[f"{run}.000000"]]
    assert rows(store, sa.select(schema.results)) == []
    measured(store)
    assert shown(store, run) == (State.DONE, Outcome.OK, CLEAN)
    [result] = store.results(run)
    assert (result.attempts, result.remeasured) == (2, 1)
    assert store.progress(run).remeasured == 1
    kept = rows(store, sa.select(schema.attempts.c.measurement, schema.attempts.c.device_ns))
    assert [None not in row for row in kept] == [True, True]


def test_a_measurement_is_made_again_only_so_often_and_then_the_mildest_counts(store: Store) -> None:
    run = submitted_once(store)
    for others_s in (3 * SPOILT, BUSY, 2 * SPOILT):
        spoilt(store, others_s)
    assert store.claim("cpu@alpha") is None
    assert shown(store, run) == (State.DONE, Outcome.OK, BUSY)
    assert attempt_outcomes(store) == ["ok"] * 3


def test_of_measurements_with_equal_verdicts_the_latest_counts(store: Store) -> None:
    run = submitted_once(store, remeasure=1)
    for others_s in (2 * SPOILT, 3 * SPOILT):
        spoilt(store, others_s)
    assert shown(store, run) == (State.DONE, Outcome.OK, 3 * SPOILT)


def test_a_protocol_that_allows_no_second_measurement_gets_none(store: Store) -> None:
    run = submitted_once(store, remeasure=0)
    spoilt(store)
    assert shown(store, run) == (State.DONE, Outcome.OK, 3 * SPOILT)


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.OUT_OF_MEMORY, Outcome.UNSUPPORTED])
def test_a_later_end_without_a_measurement_does_not_take_away_what_was_measured(
    store: Store, outcome: Outcome
) -> None:
    run = submitted_once(store)
    spoilt(store)
    assert store.finish(claimed(store), Ending(outcome=outcome, reason="why"))
    assert shown(store, run) == (State.DONE, Outcome.OK, 3 * SPOILT)
    assert len(rows(store, sa.select(schema.results))) == 1


def test_what_was_measured_outlives_crashes_and_losses_past_their_limits(store: Store, hasty: Store) -> None:
    crashing = submitted_once(store)
    spoilt(store)
    for _ in range(MAX_FAILURES):
        assert store.finish(claimed(store), Ending(outcome=Outcome.CRASHED, reason="signal 11"))
    assert shown(store, crashing) == (State.DONE, Outcome.OK, 3 * SPOILT)
    losing = submitted_once(store, remeasure=3)
    spoilt(store)
    for _ in range(MAX_LOSSES):
        claimed(hasty)
        assert store.reconcile().failed == 0
    assert shown(store, losing) == (State.DONE, Outcome.OK, 3 * SPOILT)


def test_what_was_measured_outlives_a_cancellation_of_the_run(store: Store) -> None:
    waiting = submitted_once(store)
    spoilt(store)
    assert store.cancel(waiting) == (0, 0)
    running = submitted_once(store, remeasure=3)
    spoilt(store)
    claim = claimed(store)
    store.cancel(running)
    assert store.finish(claim, Ending(outcome=Outcome.CANCELLED))
    released = submitted_once(store, remeasure=4)
    spoilt(store)
    claimed(store)
    store.cancel(released)
    assert store.release("cpu@alpha", "the worker ended") == 1
    for run in (waiting, running, released):
        assert shown(store, run) == (State.DONE, Outcome.OK, 3 * SPOILT)
        assert store.resume(run) == 0


def test_a_cancelled_run_measures_nothing_again(store: Store) -> None:
    run = submitted_once(store)
    claim = claimed(store)
    store.cancel(run)
    assert store.finish(claim, replace(factories.ok(claim), remeasure=True))
    assert shown(store, run) == (State.DONE, Outcome.OK, CLEAN)


def test_a_wish_to_measure_again_that_is_said_twice_counts_once(store: Store) -> None:
    run = submitted_once(store)
    ending = replace(factories.ok(claim := claimed(store)), remeasure=True)
    assert store.finish(claim, ending)
    assert store.finish(claim, ending)
    assert [result.remeasured for result in store.results(run)] == [1]


def test_a_late_writer_has_nothing_measured_again(store: Store, hasty: Store) -> None:
    run = submitted_once(store)
    late, current = claimed(hasty), claimed(store)
    assert store.finish(current, factories.ok(current))
    assert not store.finish(late, replace(factories.ok(late), remeasure=True))
    assert store.run(run).finished


# ---- controls between the jobs of a matrix


def submitted_with_controls(store: Store, **fields: Any) -> str:
    """Six jobs of one cell, and a control before the first, after the fourth and after the last."""
    protocol = factories.PROTOCOL.model_copy(update={"paired": False, "control_every": 4})
    return store.submit(factories.matrix(protocol=protocol, repeats=6), **fields).run_id


def is_control(claim: Claim) -> bool:
    return claim.spec.protocol.name == "control"


def test_controls_are_measured_between_the_jobs_and_are_no_rows_of_the_matrix(store: Store) -> None:
    run = submitted_with_controls(store)
    claims = [measured(store) for _ in range(9)]
    assert [is_control(claim) for claim in claims] == [True, *[False] * 4, True, *[False] * 2, True]
    assert store.claim("cpu@alpha") is None
    assert [result.spec.repeat for result in store.results(run)] == list(range(6))
    controls = list(store.controls(run))
    assert [result.spec.repeat for result in controls] == [1, 2, 3]
    assert all(result.measurement is not None for result in controls)


def test_controls_are_counted_apart_from_the_jobs_of_the_matrix(store: Store) -> None:
    run = submitted_with_controls(store)
    first = claimed(store)
    progress, info = store.progress(run), store.run(run)
    for found in (progress, info, store.runs()[0]):
        assert found.states == {State.QUEUED: 6}
        assert found.control_states == {State.RUNNING: 1, State.QUEUED: 2}
        assert (found.jobs, found.controls) == (6, 3)
    assert (progress.cells, progress.cells_done) == (1, 0)
    assert [label for label, _, _ in progress.running] == ["control densenet121_baseline batch 1 cpu #1"]
    store.finish(first, Ending(outcome=Outcome.ERROR, reason="why"))
    for _ in range(7):
        measured(store)
    progress = store.progress(run)
    assert (progress.states, progress.outcomes, progress.failures) == ({State.DONE: 6}, {Outcome.OK: 6}, ())
    assert progress.cells_done == 1
    assert not progress.finished
    assert store.ended_runs() == []
    measured(store)
    assert store.progress(run).finished
    assert store.run(run).control_states == {State.FAILED: 1, State.DONE: 2}


def test_a_control_is_measured_anew_in_every_run_and_never_twice_in_one(store: Store) -> None:
    submitted_with_controls(store)
    factories.measure_all(store, "cpu@alpha")
    protocol = factories.PROTOCOL.model_copy(update={"paired": False, "control_every": 4})
    mine = frozenset({factories.environment().key})
    again = store.submit(factories.matrix(protocol=protocol, repeats=7), environments=mine)
    assert (again.jobs, again.done_already) == (7, 6)
    control = claimed(store)
    assert is_control(control)
    assert store.finish(control, replace(factories.ok(control), remeasure=True))
    assert store.run(again.run_id).control_states[State.DONE] == 1
    # two controls more, and the job that no run has had before
    assert factories.measure_all(store, "cpu@alpha") == 3


def test_a_run_with_controls_that_is_cancelled_is_brought_back_whole(store: Store) -> None:
    run = submitted_with_controls(store)
    assert store.cancel(run) == (6, 0)
    assert store.run(run).finished
    assert store.resume(run) == 6
    assert factories.measure_all(store, "cpu@alpha") == 9


# ---- leases


def test_an_expired_lease_is_queued_again_as_lost(store: Store, hasty: Store) -> None:
    store.submit(factories.matrix())
    claimed(hasty)
    assert store.reconcile() == Reconciled(requeued=1, failed=0)
    assert store.reconcile() == Reconciled(requeued=0, failed=0)
    assert attempt_outcomes(store) == ["lost"]
    assert claimed(store).attempt == 2


def test_a_lease_that_was_renewed_is_left_alone(store: Store, hasty: Store) -> None:
    store.submit(factories.matrix())
    claim = claimed(hasty)
    assert store.renew(claim) is Lease.HELD
    assert store.reconcile() == Reconciled(requeued=0, failed=0)


def test_an_expired_lease_can_be_claimed_without_a_reconciler(store: Store, hasty: Store) -> None:
    store.submit(factories.matrix())
    claimed(hasty)
    assert claimed(store).attempt == 2
    assert attempt_outcomes(store) == ["lost", None]


def test_a_worker_that_comes_back_before_another_took_its_job_keeps_it(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    first, second = claimed(store), claimed(store)
    expire(store)
    store.reconcile()
    assert store.renew(first) is Lease.HELD
    assert store.run(run).states == {State.QUEUED: 1, State.RUNNING: 1}
    assert store.finish(second, factories.ok(second))
    assert store.run(run).states == {State.DONE: 1, State.RUNNING: 1}
    losses = sa.select(schema.jobs.c.losses)
    assert [row.losses for row in rows(store, losses)] == [0, 0]


def test_ten_lost_attempts_fail_a_job(store: Store, hasty: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    for lost in range(1, MAX_LOSSES + 1):
        claimed(hasty)
        assert store.reconcile() == Reconciled(requeued=int(lost < MAX_LOSSES), failed=int(lost == MAX_LOSSES))
    assert store.claim("cpu@alpha") is None
    [result] = store.results(run)
    assert (result.state, result.outcome) == (State.FAILED, Outcome.LOST)


def test_ten_lost_attempts_fail_a_job_also_where_claims_overtake_the_reconciler(hasty: Store) -> None:
    run = hasty.submit(factories.matrix()).run_id
    for _ in range(MAX_LOSSES):
        claimed(hasty)
    assert hasty.claim("cpu@alpha") is None
    assert hasty.reconcile() == Reconciled(requeued=0, failed=1)
    assert hasty.run(run).finished


def test_lost_attempts_and_crashes_are_counted_apart(store: Store, hasty: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    for _ in range(MAX_FAILURES - 1):
        store.finish(claimed(store), Ending(outcome=Outcome.CRASHED))
    for _ in range(MAX_LOSSES - 1):
        claimed(hasty)
        store.reconcile()
    measured(store)
    assert store.run(run).states == {State.DONE: 1}


def test_a_measurement_that_cannot_be_read_any_more_keeps_no_job_from_being_reconciled(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    for _ in range(2):
        claim = claimed(store, job_id=f"{run}.000000")
        assert store.finish(claim, replace(factories.ok(claim), remeasure=True))
    claimed(store, job_id=f"{run}.000000")
    edited = schema.attempts.c.attempt_id == f"{run}.000000.2"
    change(store, sa.update(schema.attempts).where(edited).values(measurement="{}"))
    claimed(store, job_id=f"{run}.000001")
    last = schema.jobs.c.ordinal == 0
    change(store, sa.update(schema.jobs).where(last).values(losses=MAX_LOSSES - 1))
    expire(store)
    assert store.reconcile() == Reconciled(requeued=1, failed=0)
    assert store.run(run).states == {State.DONE: 1, State.QUEUED: 1}
    [kept] = rows(store, sa.select(schema.results.c.attempt_id))
    assert kept.attempt_id == f"{run}.000000.1"


def test_what_an_ended_worker_held_is_released_at_once_and_not_counted(store: Store) -> None:
    store.submit(factories.matrix())
    for _ in range(MAX_LOSSES + MAX_FAILURES):
        claim = claimed(store)
        assert store.release("cpu@alpha", "worker stopped") == 1
        assert store.renew(claim) is Lease.LOST
    assert store.release("cpu@alpha", "worker stopped") == 0
    measured(store)
    assert Counter(attempt_outcomes(store)) == {"lost": MAX_LOSSES + MAX_FAILURES, "ok": 1}


# ---- cancelling


def test_cancel_stops_what_is_queued_and_tells_what_runs(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=3)).run_id
    claim = claimed(store)
    assert store.cancel(run) == (2, 1)
    assert store.claim("cpu@alpha") is None
    assert store.renew(claim) is Lease.CANCELLED
    assert store.finish(claim, Ending(outcome=Outcome.CANCELLED))
    assert store.run(run).states == {State.CANCELLED: 3}
    assert store.resume(run) == 3
    assert claimed(store).job_id == claim.job_id


def test_a_job_that_was_measured_before_it_heard_of_the_cancel_is_done(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    claim = claimed(store)
    store.cancel(run)
    assert store.finish(claim, factories.ok(claim))
    assert store.run(run).states == {State.DONE: 1}


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.LOST])
def test_a_cancelled_job_is_not_tried_again(store: Store, hasty: Store, outcome: Outcome) -> None:
    run = store.submit(factories.matrix()).run_id
    claim = claimed(hasty)
    store.cancel(run)
    assert store.claim("cpu@alpha") is None
    if outcome is Outcome.LOST:
        store.reconcile()
    else:
        store.finish(claim, Ending(outcome=outcome))
    assert store.run(run).states == {State.CANCELLED: 1}


def test_a_cancelled_job_that_its_worker_released_is_not_tried_again(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    claimed(store)
    store.cancel(run)
    store.release("cpu@alpha", "worker stopped")
    assert store.run(run).states == {State.CANCELLED: 1}


def test_resuming_while_a_job_is_still_being_stopped_queues_it_again(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    claim = claimed(store)
    store.cancel(run)
    assert store.resume(run) == 1
    assert store.finish(claim, Ending(outcome=Outcome.CANCELLED))
    assert store.run(run).states == {State.QUEUED: 2}


def test_resume_brings_back_only_what_was_cancelled(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=3)).run_id
    measured(store)
    store.finish(claimed(store), Ending(outcome=Outcome.ERROR))
    store.cancel(run)
    assert store.resume(run) == 1
    assert store.run(run).states == {State.DONE: 1, State.FAILED: 1, State.QUEUED: 1}


def vanish(store: Store, worker_id: str = "cpu@alpha") -> None:
    """A worker is killed, and what it held is over."""
    this = schema.workers.c.worker_id == worker_id
    change(store, sa.update(schema.workers).where(this).values(last_seen=0.0))
    expire(store)


def test_what_a_vanished_worker_held_is_cancelled_though_nobody_is_there_to_reconcile(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=3)).run_id
    claimed(store)
    expire(store)
    # its worker lives, and will hear of it
    assert store.cancel(run) == (2, 1)
    assert not store.run(run).finished
    vanish(store)
    assert store.cancel(run) == (1, 0)
    assert store.run(run).states == {State.CANCELLED: 3}
    assert attempt_outcomes(store) == ["lost"]
    assert store.resume(run) == 3


def test_what_was_measured_before_its_worker_vanished_is_kept_when_the_run_is_cancelled(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    claim = claimed(store)
    assert store.finish(claim, replace(factories.ok(claim), remeasure=True))
    claimed(store)
    vanish(store)
    store.cancel(run)
    assert store.run(run).states == {State.DONE: 1}


def test_a_job_that_is_queued_again_just_while_its_run_is_cancelled_is_cancelled_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    first = claimed(store)
    assert store.finish(first, replace(factories.ok(first), remeasure=True))
    second = claimed(store, job_id=f"{run}.000001")
    settle, crashing = keeping.settle, ThreadPoolExecutor(1)
    crashed: list[Any] = []

    def crash_meanwhile(connection: sa.Connection, job_id: str) -> bool:
        if not crashed:
            crashed.append(crashing.submit(store.finish, second, Ending(outcome=Outcome.CRASHED)))
            wait(crashed, timeout=1)  # it may have to wait for us
        return settle(connection, job_id)

    with crashing, monkeypatch.context() as patched:
        patched.setattr(keeping, "settle", crash_meanwhile)
        store.cancel(run)
    assert crashed[0].result()
    assert store.run(run).states == {State.DONE: 1, State.CANCELLED: 1}


# ---- retrying


def failing(store: Store, times: int, outcome: Outcome = Outcome.CRASHED) -> None:
    for _ in range(times):
        assert store.finish(claimed(store), Ending(outcome=outcome, reason="signal 11"))


def test_failed_jobs_are_queued_again_with_their_counts_at_nothing_and_their_attempts_kept(
    store: Store, hasty: Store
) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    for _ in range(MAX_LOSSES - 1):
        claimed(hasty)
        store.reconcile()
    failing(store, MAX_FAILURES)
    measured(store)
    assert store.retry(run) == Retried(failed=0, measured=0)
    assert store.retry(run, failed=True) == Retried(failed=1, measured=0)
    assert store.run(run).states == {State.QUEUED: 1, State.DONE: 1}
    counts = sa.select(schema.jobs.c.failures, schema.jobs.c.losses).where(schema.jobs.c.state == "queued")
    assert [tuple(row) for row in rows(store, counts)] == [(0, 0)]
    failing(store, MAX_FAILURES - 1)
    assert store.run(run).states == {State.QUEUED: 1, State.DONE: 1}
    assert measured(store).attempt == MAX_LOSSES - 1 + 2 * MAX_FAILURES
    assert Counter(attempt_outcomes(store)) == {"lost": MAX_LOSSES - 1, "crashed": 2 * MAX_FAILURES - 1, "ok": 2}
    assert store.retry(run, failed=True) == Retried(failed=0, measured=0)


def test_an_error_can_be_retried_too_and_nothing_else_of_the_run_is_touched(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=4)).run_id
    failing(store, 1, Outcome.ERROR)
    assert store.finish(claimed(store), MISSING_PYTHON_PACKAGE)
    running = claimed(store)
    store.cancel(run)
    store.resume(run)
    before = store.ended_runs()
    assert store.retry(run, failed=True, remeasure=Level.SUSPECT) == Retried(failed=1, measured=0)
    assert store.run(run).states == {State.QUEUED: 2, State.DONE: 1, State.RUNNING: 1}
    assert store.finish(running, factories.ok(running))
    assert store.ended_runs() == before == []


@pytest.mark.parametrize(("level", "taken"), [(Level.INVALID, 1), (Level.SUSPECT, 2), (Level.VALID, 3)])
def test_measurements_of_a_verdict_or_a_worse_one_are_made_again(store: Store, level: Level, taken: int) -> None:
    run = store.submit(factories.matrix(repeats=4)).run_id
    for others_s in (3 * SPOILT, BUSY, CLEAN):
        claim = claimed(store)
        assert store.finish(claim, factories.ok(claim, contention=factories.contention(others_s)))
    assert store.finish(claimed(store), MISSING_PYTHON_PACKAGE)
    assert store.retry(run, remeasure=level) == Retried(failed=0, measured=taken)
    assert store.run(run).states == {State.QUEUED: taken, State.DONE: 4 - taken}
    # the result stays where it was
    assert len(rows(store, sa.select(schema.results))) == 4
    assert factories.measure_all(store, "cpu@alpha") == taken
    assert store.progress(run).remeasured == taken
    kept = [result.measurement for result in store.results(run) if result.measurement]
    second = BUSY if level is Level.INVALID else CLEAN
    assert [m.contention for m in kept] == [factories.contention(s) for s in (CLEAN, second, CLEAN)]


def doubted(store: Store) -> str:
    """A run of one job whose measurement was spoilt, queued again."""
    run = submitted_once(store, remeasure=0)
    spoilt(store)
    assert store.retry(run, remeasure=Level.INVALID) == Retried(failed=0, measured=1)
    return run


def test_what_is_to_be_measured_again_keeps_its_measurement_meanwhile(store: Store) -> None:
    run = doubted(store)
    assert shown(store, run) == (State.QUEUED, Outcome.OK, 3 * SPOILT)
    claimed(store)
    assert shown(store, run) == (State.RUNNING, Outcome.OK, 3 * SPOILT)


@pytest.mark.parametrize("again_s", [2 * SPOILT, BUSY])
def test_the_newest_of_the_mildest_measurements_is_the_result_after_a_retry(store: Store, again_s: float) -> None:
    run = doubted(store)
    claim = claimed(store)
    assert store.finish(claim, factories.ok(claim, contention=factories.contention(again_s)))
    assert shown(store, run) == (State.DONE, Outcome.OK, again_s)
    worse = 4 * SPOILT if again_s == BUSY else CLEAN
    assert store.retry(run, remeasure=Level.SUSPECT).measured == 1
    claim = claimed(store)
    assert store.finish(claim, factories.ok(claim, contention=factories.contention(worse)))
    assert shown(store, run) == (State.DONE, Outcome.OK, min(again_s, worse))
    assert attempt_outcomes(store) == ["ok"] * 3


@pytest.mark.parametrize("end", ["crashes", "error", "cancel", "cancelled in mid-run", "losses", "released"])
def test_no_later_end_takes_away_what_was_measured_before_a_retry(store: Store, hasty: Store, end: str) -> None:
    run = doubted(store)
    if end == "crashes":
        failing(store, MAX_FAILURES)
    elif end == "error":
        failing(store, 1, Outcome.ERROR)
    elif end == "cancel":
        assert store.cancel(run) == (0, 0)
    elif end == "losses":
        for _ in range(MAX_LOSSES):
            claimed(hasty)
            store.reconcile()
    else:
        claim = claimed(store)
        store.cancel(run)
        if end == "released":
            store.release("cpu@alpha", "the worker ended")
        else:
            store.finish(claim, Ending(outcome=Outcome.CANCELLED))
    assert shown(store, run) == (State.DONE, Outcome.OK, 3 * SPOILT)
    assert len(rows(store, sa.select(schema.results))) == 1


@pytest.mark.parametrize(("again_s", "kept_s"), [(CLEAN, CLEAN), (4 * SPOILT, BUSY), (None, BUSY)])
def test_what_was_adopted_counts_beside_what_is_measured_after_a_retry(
    store: Store, again_s: float | None, kept_s: float
) -> None:
    store.submit(factories.matrix())
    claim = claimed(store)
    assert store.finish(claim, factories.ok(claim, contention=factories.contention(BUSY)))
    run = store.submit(factories.matrix(batch_sizes=(1, 2))).run_id
    assert factories.measure_all(store, "cpu@alpha") == 1
    assert store.retry(run, remeasure=Level.SUSPECT) == Retried(failed=0, measured=1)
    again = claimed(store)
    if again_s is None:
        assert store.finish(again, Ending(outcome=Outcome.ERROR, reason="why"))
    else:
        assert store.finish(again, factories.ok(again, contention=factories.contention(again_s)))
    [result] = [result for result in store.results(run) if result.job_id == again.job_id]
    assert result.state is State.DONE
    assert result.measurement is not None
    assert result.measurement.contention == factories.contention(kept_s)


def test_a_run_that_is_retried_ends_once_more_and_controls_stay_as_they_are(store: Store) -> None:
    run = submitted_with_controls(store)
    control = claimed(store)
    assert store.finish(control, Ending(outcome=Outcome.ERROR, reason="why"))
    while (claim := store.claim("cpu@alpha")) is not None:
        assert store.finish(claim, factories.ok(claim, contention=factories.contention(3 * SPOILT)))
    [before] = store.ended_runs()
    assert store.retry(run, failed=True, remeasure=Level.INVALID) == Retried(failed=0, measured=6)
    assert store.ended_runs() == []
    assert store.run(run).control_states == {State.FAILED: 1, State.DONE: 2}
    factories.measure_all(store, "cpu@alpha")
    [after] = store.ended_runs()
    assert after.begun_at > before.begun_at


# ---- quarantine


def test_a_quarantined_worker_claims_nothing_until_it_recovers(store: Store) -> None:
    store.submit(factories.matrix())
    assert store.quarantined("cpu@alpha") is None
    assert store.quarantine("cpu@alpha", "a\0 known product is wrong")
    assert store.quarantined("cpu@alpha") == "a\N{REPLACEMENT CHARACTER} known product is wrong"
    assert store.claim("cpu@alpha") is None
    store.heartbeat("cpu@alpha")
    [worker] = store.workers()
    assert worker.quarantined is not None
    assert worker.quarantined_since is not None
    assert abs(worker.quarantined_since - time.time()) < 5
    store.recover("cpu@alpha")
    [worker] = store.workers()
    assert (worker.quarantined, worker.quarantined_since) == (None, None)
    assert measured(store)
    assert store.quarantined("nobody") is None


def test_a_quarantine_is_news_once_and_since_its_beginning(store: Store) -> None:
    assert store.quarantine("cpu@alpha", "hangs")
    [before] = store.workers()
    assert not store.quarantine("cpu@alpha", "hangs")
    assert store.quarantine("cpu@alpha", "computes wrong")
    [after] = store.workers()
    assert (after.quarantined, after.quarantined_since) == ("computes wrong", before.quarantined_since)


def test_a_worker_may_register_in_quarantine_and_one_that_registers_anew_has_left_it(store: Store) -> None:
    store.register(factories.worker("gpu@alpha", quarantined="not probed yet"))
    assert store.claim("gpu@alpha") is None
    assert store.quarantined("gpu@alpha") == "not probed yet"
    store.register(factories.worker("gpu@alpha"))
    assert store.quarantined("gpu@alpha") is None


def test_what_a_quarantined_worker_runs_is_still_its_own(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    claim = claimed(store)
    store.quarantine("cpu@alpha", "hangs")
    assert store.renew(claim) is Lease.HELD
    assert store.finish(claim, factories.ok(claim))
    assert store.run(run).states == {State.DONE: 1}


def test_a_cell_is_not_kept_for_a_class_whose_only_worker_is_quarantined(store: Store) -> None:
    store.submit(factories.matrix(repeats=2))
    store.register(factories.worker("cpu@beta", environment=OTHER))
    measured(store)
    assert store.claim("cpu@beta") is None
    store.quarantine("cpu@alpha", "hangs")
    assert claimed(store, "cpu@beta")


def broken(store: Store, **fields: Any) -> Claim:
    """An attempt whose device failed its probe afterwards."""
    claim = claimed(store)
    assert store.finish(claim, Ending(outcome=Outcome.CRASHED, reason="asserted", handed_back=True, **fields))
    return claim


def test_an_attempt_that_is_handed_back_is_no_failure_of_its_job(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    for _ in range(MAX_HAND_BACKS - 1):
        broken(store)
    failing(store, MAX_FAILURES - 1)
    assert store.run(run).states == {State.QUEUED: 1}
    measured(store)
    assert store.run(run).states == {State.DONE: 1}
    assert Counter(attempt_outcomes(store)) == {"crashed": MAX_HAND_BACKS + MAX_FAILURES - 2, "ok": 1}


def test_a_job_that_leaves_broken_devices_again_and_again_has_failed_until_it_is_retried(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    for _ in range(MAX_HAND_BACKS):
        last = broken(store)
    assert store.finish(last, Ending(outcome=Outcome.CRASHED, reason="asserted", handed_back=True))  # said again
    [result] = store.results(run)
    assert (result.state, result.outcome) == (State.FAILED, Outcome.CRASHED)
    assert f"{MAX_HAND_BACKS} attempts, each of which left its worker in quarantine" in result.reason
    assert store.retry(run, failed=True).failed == 1
    broken(store)
    assert store.run(run).states == {State.QUEUED: 1}


def test_what_is_handed_back_stays_cancelled_and_keeps_what_was_measured(store: Store) -> None:
    cancelled = store.submit(factories.matrix()).run_id
    claim = claimed(store)
    store.cancel(cancelled)
    assert store.finish(claim, Ending(outcome=Outcome.CRASHED, handed_back=True))
    assert store.run(cancelled).states == {State.CANCELLED: 1}
    kept = doubted(store)
    for _ in range(MAX_HAND_BACKS):
        broken(store)
    assert shown(store, kept) == (State.DONE, Outcome.OK, 3 * SPOILT)


def test_quarantined_workers_are_counted_apart_and_shown_to_the_runs_that_wait_for_them(store: Store) -> None:
    store.register(factories.worker("gpu@alpha", device_kind="cuda", queues=("gpu", "gpu.h200")))
    store.register(factories.worker("gone@alpha", device_kind="cuda", queues=("gpu",)))
    for worker in ("gpu@alpha", "gone@alpha"):
        store.quarantine(worker, "hangs")
    store.deregister("gone@alpha")
    found = store.tally()
    assert found.workers == {("cpu", "cpu"): 1}
    assert found.quarantined == {("cuda", "gpu"): 1, ("cuda", "gpu.h200"): 1}
    waits = store.submit(factories.matrix(devices=("cpu", "cuda"))).run_id
    other = store.submit(factories.matrix(batch_sizes=(2,))).run_id
    assert store.progress(waits).quarantined == (("gpu@alpha", "hangs"),)
    assert store.progress(other).quarantined == ()
    store.cancel(waits)
    assert store.progress(waits).quarantined == ()


# ---- looking


def test_progress_counts_jobs_cells_and_time(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2, batch_sizes=(1, 8))).run_id
    before = store.progress(run)
    assert (before.started_at, before.seconds_per_job, before.cells, before.cells_done) == (None, None, 2, 0)
    measured(store)
    assert store.progress(run).seconds_per_job is None  # the longest, which also trained, is left out
    for _ in range(2):
        measured(store)
    running = claimed(store)
    progress = store.progress(run)
    assert progress.states == {State.DONE: 3, State.RUNNING: 1}
    assert progress.outcomes == {Outcome.OK: 3}
    assert (progress.cells, progress.cells_done, progress.jobs, progress.finished) == (2, 1, 4, False)
    [(name, worker, since)] = progress.running
    assert (worker, name.endswith(f"batch {running.spec.batch_size} cpu #2")) == ("cpu@alpha", True)
    assert progress.started_at is not None
    assert progress.seconds_per_job is not None
    assert progress.started_at <= since <= progress.now
    assert abs(progress.now - time.time()) < 5


def test_runs_without_a_job_to_do_have_ended_and_change_by_being_resumed(store: Store) -> None:
    assert store.ended_runs() == []
    first = store.submit(factories.matrix(repeats=2)).run_id
    second = store.submit(factories.matrix(batch_sizes=(8,))).run_id
    measured(store)
    running = claimed(store)
    assert store.ended_runs() == []
    store.cancel(first)
    store.cancel(second)
    [ended] = store.ended_runs()
    assert ended.run_id == second
    assert ended.begun_at == store.run(second).created_at
    store.finish(running, Ending(outcome=Outcome.CANCELLED))
    assert [run.run_id for run in store.ended_runs()] == [first, second]
    store.resume(second)
    assert [run.run_id for run in store.ended_runs()] == [first]
    store.cancel(second)
    again = store.ended_runs()[1]
    assert again.run_id == second
    assert ended.begun_at < again.begun_at < time.time() + 5


def test_resuming_a_run_without_cancelled_jobs_changes_nothing(store: Store) -> None:
    run = store.submit(factories.matrix()).run_id
    measured(store)
    before = store.ended_runs()
    assert store.resume(run) == 0
    assert store.ended_runs() == before


def test_ended_runs_are_found_by_the_index_alone(tmp_path: Path) -> None:
    # on SQLite, whose plans do not depend on what is in the tables
    with closing(open_store(f"sqlite:///{tmp_path}/farm.db")) as store, store._database.reading() as connection:
        asked: list[str] = []
        sa.event.listen(connection, "before_cursor_execute", lambda *given: asked.append(given[2]))
        looking.ended_runs(connection)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}").all()
    assert any("USING INDEX jobs_run_number_state (run_number=? AND state=?)" in row[3] for row in plan)


def test_a_tally_counts_everything_once(store: Store, hasty: Store) -> None:
    empty = store.tally()
    assert set(empty.jobs.values()) == set(empty.ended.values()) == set(empty.attempts.values()) == {0}
    assert (empty.oldest_waiting_s, empty.open_runs, empty.ended_runs) == (0.0, 0, 0)
    store.register(factories.worker("gpu@alpha", device_kind="cuda", queues=("gpu", "gpu.h200")))
    store.register(factories.worker("cpu@beta"))
    store.deregister("cpu@beta")
    ended = store.submit(factories.matrix(batch_sizes=(1,))).run_id
    measured(store)
    store.submit(factories.matrix(batch_sizes=(2, 3, 4, 5, 6), devices=("cpu",)))
    store.submit(factories.matrix(batch_sizes=(7,), devices=("cuda",)))
    for outcome in (Outcome.ERROR, Outcome.UNSUPPORTED):
        store.finish(claimed(store), Ending(outcome=outcome))
    claimed(hasty)
    store.reconcile()
    claimed(store)
    found = store.tally()
    assert found.jobs == {"queued": 3, "running": 1, "done": 2, "failed": 1, "cancelled": 0}
    assert {outcome: n for outcome, n in found.ended.items() if n} == {"ok": 1, "error": 1, "unsupported": 1}
    assert {outcome: n for outcome, n in found.attempts.items() if n} == {
        "ok": 1,
        "error": 1,
        "unsupported": 1,
        "lost": 1,
    }
    assert found.waiting == {"cpu": 2, "gpu": 1}
    assert found.workers == {("cpu", "cpu"): 1, ("cuda", "gpu"): 1, ("cuda", "gpu.h200"): 1}
    assert (found.open_runs, found.ended_runs) == (2, 1)
    assert [run.run_id for run in store.ended_runs()] == [ended]


def test_the_latest_results_are_told_by_attempt_oldest_first_and_without_known_ones(store: Store) -> None:
    run = factories.submitted(store, batch_sizes=(1, 2, 4))
    assert store.latest(run, limit=5) == {}
    order = [measured(store), measured(store)]
    refused = claimed(store)
    assert store.finish(refused, MISSING_PYTHON_PACKAGE)
    found = store.latest(run, limit=5)
    assert list(found) == [claim.attempt_id for claim in (*order, refused)]
    assert [result.outcome for result in found.values()] == [Outcome.OK, Outcome.OK, Outcome.UNSUPPORTED]
    first = found[order[0].attempt_id]
    assert first.measurement is not None
    assert first.spec == order[0].spec
    assert list(store.latest(run, limit=2)) == [order[1].attempt_id, refused.attempt_id]
    assert list(store.latest(run, limit=5, known=list(found)[:2])) == [refused.attempt_id]


def test_queued_jobs_are_counted_by_queue(store: Store) -> None:
    run = factories.submitted(store, batch_sizes=(1, 2, 4), devices=("cpu", "cuda"))
    factories.submitted(store, batch_sizes=(8,))
    assert store.progress(run).waiting == {"cpu": 3, "gpu": 3}
    measured(store)
    claimed(store)
    assert store.progress(run).waiting == {"cpu": 1, "gpu": 3}
    store.cancel(run)
    assert store.progress(run).waiting == {}


def test_the_oldest_waiting_job_waits_since_its_run_was_submitted_or_resumed(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    runs = schema.runs
    change(store, sa.update(runs).values(created_at=time.time() - 1000))
    store.submit(factories.matrix(batch_sizes=(8,)))
    assert 999 < store.tally().oldest_waiting_s < 1010
    store.cancel(run)
    assert store.tally().oldest_waiting_s < 10
    store.resume(run)
    assert store.tally().oldest_waiting_s < 10
    change(store, sa.update(runs).where(runs.c.run_id == run).values(resumed_at=time.time() - 500))
    assert 499 < store.tally().oldest_waiting_s < 510
    assert {claimed(store).run_id for _ in range(2)} == {run}
    assert store.tally().oldest_waiting_s < 10


def test_a_cancelled_job_counts_as_cancelled_however_an_attempt_of_it_ended(store: Store) -> None:
    run = store.submit(factories.matrix(repeats=2)).run_id
    store.finish(claimed(store), Ending(outcome=Outcome.CRASHED))
    store.cancel(run)
    found = store.tally()
    assert {outcome: n for outcome, n in found.ended.items() if n} == {"cancelled": 2}
    assert found.waiting == {"cpu": 0}


def test_a_run_is_found_by_the_beginning_of_its_id_or_as_the_latest(store: Store) -> None:
    with pytest.raises(BadInput, match="no run yet"):
        store.run("latest")
    first = store.submit(factories.matrix()).run_id
    assert store.run(first[:-1]).run_id == first
    second = store.submit(factories.matrix(), again=True).run_id
    assert store.run("latest").run_id == second
    assert [run.run_id for run in store.runs()] == [second, first]
    with pytest.raises(BadInput, match="may be any of"):
        store.run(first[:6])
    with pytest.raises(BadInput, match=f"Did you mean '{second}'"):
        store.run(second[:-1] + "x")


def test_a_worker_is_shown_as_it_registered(store: Store) -> None:
    given = factories.worker("gpu@alpha", queues=("gpu", "gpu.h200"), device_uuid="GPU-1")
    store.register(given)
    shown = next(worker for worker in store.workers() if worker.id == "gpu@alpha")
    assert {**vars(shown), "last_seen": 0.0} == vars(given)
    assert abs(shown.last_seen - time.time()) < 5
    store.deregister("gpu@alpha")
    assert [worker.id for worker in store.workers()] == ["cpu@alpha"]


def test_a_lock_has_one_holder_until_it_expires(store: Store) -> None:
    assert store.try_lock("reconciler", "a", 60)
    assert store.try_lock("reconciler", "a", 60)
    assert not store.try_lock("reconciler", "b", 60)
    assert store.try_lock("reconciler", "a", -1)
    assert store.try_lock("reconciler", "b", 60)


def test_a_lock_asked_for_at_once_by_many_has_one_holder(url: str) -> None:
    open_store(url).close()

    def work(number: int) -> bool:
        with closing(open_store(url)) as store:
            return store.try_lock("reconciler", str(number), 60)

    assert sorted(in_processes(6, work)) == [False] * 5 + [True]


# ---- a database that is not there


@pytest.mark.parametrize(
    "url", ["", "nonsense", "postgresql://u:geheim@host:port/x", "mysql://u:geheim@h/x", "sqlite://"]
)
def test_a_malformed_url_is_bad_input_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match="Write sqlite:") as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(Unreachable, match="Check that PostgreSQL runs") as caught:
        open_store("postgresql://farm:geheim@127.0.0.1:9/farm")
    assert "geheim" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_a_password_behind_the_question_mark_is_not_shown_either() -> None:
    with pytest.raises(Unreachable, match="Check that PostgreSQL runs") as caught:
        open_store("postgresql://farm@127.0.0.1:9/farm?password=geheim&sslpassword=geheim2")
    assert "geheim" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_a_role_that_may_make_no_tables_is_told_what_it_needs() -> None:
    with databases.postgresql() as url, closing(Database(url)) as owner:
        with owner.writing() as connection:
            connection.exec_driver_sql("CREATE ROLE guest LOGIN")
            connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        try:
            with pytest.raises(Unreachable, match=r"permission denied.*GRANT it USAGE and CREATE"):
                open_store(url.replace("postgres@", "guest@"))
        finally:
            with owner.writing() as connection:
                connection.exec_driver_sql("DROP ROLE guest")


def test_tables_of_another_program_are_left_alone(url: str) -> None:
    with closing(Database(url)) as other:
        with other.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE runs (mine integer)")
        with pytest.raises(Unreachable, match="Another program's tables"):
            open_store(url)
        with other.reading() as connection:
            assert sa.inspect(connection).get_table_names() == ["runs"]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "farm.db"
    path.write_text("my own notes, long enough to be no header of a database file\n" * 20)
    before = path.read_bytes()
    with pytest.raises(Unreachable, match="not a database"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="cannot be made"):
        open_store(f"sqlite:///{tmp_path}/file/data/farm.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Unreachable, match="can be written"):
        open_store(f"sqlite:///{tmp_path}/farm.db")


def test_the_directory_of_a_file_is_made(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/new/deep/farm.db").close()
    assert (tmp_path / "new/deep/farm.db").exists()


def test_a_database_that_goes_away_is_unreachable_and_a_finish_said_again_succeeds() -> None:
    with databases.postgresql() as url, closing(open_store(url)) as store:
        store.register(factories.worker())
        store.submit(factories.matrix())
        claim = claimed(store)
        with databases.closed(url):
            with pytest.raises(Unreachable):
                store.renew(claim)
            with pytest.raises(Unreachable):
                store.finish(claim, factories.ok(claim))
        assert store.renew(claim) is Lease.HELD
        assert store.finish(claim, factories.ok(claim))


def test_a_locked_file_is_unreachable_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results_store.database.BUSY_TIMEOUT_MS", 50)
    url = f"sqlite:///{tmp_path}/farm.db"
    with closing(open_store(url)) as store, closing(Database(url)) as other:
        with other.writing(), pytest.raises(Unreachable, match="locked"):
            store.submit(factories.matrix())
        assert store.submit(factories.matrix()).created
