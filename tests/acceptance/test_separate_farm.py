"""Redis, PostgreSQL and two workers, each started on its own, give what the embedded farm gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import databases
from tests.acceptance.farms import FOUR, Ended, Farm, overlaps, table, worker
from tests.redis_servers import redis_server

#: What must be the same wherever it was measured.
SAME = ("model_variant", "batch_size", "device", "accuracy_top1", "accuracy_top5", "model_size_mb", "outcome")


@dataclass(frozen=True, kw_only=True)
class Separate:
    """The matrix of `ended`, measured by two workers."""

    farm: Farm
    run_id: str
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def separate(ended: Ended) -> Iterator[Separate]:
    folder = ended.farm.folder
    with redis_server(folder / "redis") as redis, databases.postgresql() as url:
        farm = Farm(folder=folder, variables={"CELERY_BROKER_URL": redis.url, "FARM_DATABASE_URL": url})
        with worker(farm, "one"), worker(farm, "two"):
            more = ("--wait", "--require-workers", "--output-dir", str(folder / "separate"))
            code, output = farm.run("producer", "submit-matrix", *FOUR, *more)
        assert code == 0, output
        with farm.store() as store:
            run_id = store.run("latest").run_id
        yield Separate(farm=farm, run_id=run_id, rows=table(folder / "separate" / "benchmark_results.csv"))


def test_rows_columns_outcomes_and_accuracies_are_the_same(separate: Separate, ended: Ended) -> None:
    assert list(separate.rows[0]) == list(ended.rows[0])
    found = [[[row[name] for name in SAME] for row in rows] for rows in (separate.rows, ended.rows)]
    assert found[0] == found[1]
    assert all(0 < float(row["accuracy_top1"]) <= 100 for row in separate.rows)


def test_both_workers_completed_a_job_and_never_at_the_same_time(separate: Separate) -> None:
    attempts = separate.farm.attempts(separate.run_id)
    assert {row.worker_id.partition("@")[0] for row in attempts if row.outcome == "ok"} == {"one", "two"}
    assert overlaps(attempts) == []


def test_two_workers_leave_nothing_when_they_are_told_to_end(separate: Separate) -> None:
    separate.farm.assert_nothing_runs()
