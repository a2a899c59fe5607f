"""Redis, PostgreSQL and two workers, each started on its own, give what the embedded farm gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import databases
from tests.acceptance.farms import FOUR, Farm, overlaps, table, worker
from tests.redis_servers import redis_server

#: What must be the same wherever it was measured.
SAME = ("model_variant", "batch_size", "device", "accuracy_top1", "accuracy_top5", "model_size_mb", "outcome")


@dataclass(frozen=True, kw_only=True)
class Both:
    """The same matrix, measured by both farms."""

    separate: Farm
    run_id: str
    separate_csv: Path
    local_csv: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    local = Farm(folder=folder)
    code, output = local.run("producer", "submit-matrix", *FOUR, "--local", "--output-dir", str(folder / "local"))
    assert code == 0, output
    with redis_server(folder / "redis") as redis, databases.postgresql() as url:
        variables = {"CELERY_BROKER_URL": redis.url, "FARM_DATABASE_URL": url}
        separate = Farm(folder=folder, variables=variables)
        with worker(separate, "one"), worker(separate, "two"):
            more = ("--wait", "--require-workers", "--output-dir", str(folder / "separate"))
            code, output = separate.run("producer", "submit-matrix", *FOUR, *more)
        assert code == 0, output
        with separate.store() as store:
            run_id = store.run("latest").run_id
        csv = "benchmark_results.csv"
        yield Both(
            separate=separate,
            run_id=run_id,
            separate_csv=folder / "separate" / csv,
            local_csv=folder / "local" / csv,
        )


def test_rows_columns_outcomes_and_accuracies_are_the_same(both: Both) -> None:
    separate, local = table(both.separate_csv), table(both.local_csv)
    assert list(separate[0]) == list(local[0])
    assert [[row[name] for name in SAME] for row in separate] == [[row[name] for name in SAME] for row in local]
    assert all(0 < float(row["accuracy_top1"]) <= 100 for row in separate)


def test_both_workers_completed_a_job_and_never_at_the_same_time(both: Both) -> None:
    attempts = both.separate.attempts(both.run_id)
    assert {row.worker_id.partition("@")[0] for row in attempts if row.outcome == "ok"} == {"one", "two"}
    assert overlaps(attempts) == []


def test_two_workers_leave_nothing_when_they_are_told_to_end(both: Both) -> None:
    both.separate.assert_nothing_is_left()
