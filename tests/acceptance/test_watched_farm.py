"""A farm with passwords and logs for machines: a job is found everywhere by its id, a password nowhere."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from results_store.database import Database
from results_store.schema import attempts, jobs, results
from tests.acceptance.farms import SMALL, Farm, submit
from tests.redis_servers import redis_server

BROKER_PASSWORD, FLOWER_PASSWORD = "b0-very-secret-of-the-broker", "f0-very-secret-of-flower"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A run that has ended, and what was seen meanwhile."""

    farm: Farm
    run_id: str
    output: str
    #: Command lines that any process of this host had.
    commands: set[bytes] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where its logs are."""
        return self.farm.folder / "farm" / "logs" / self.run_id

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line of the worker's log."""
        return [json.loads(line) for line in (self.folder / "worker-1.log").read_text().splitlines()]

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        database = Database(self.farm.database)
        try:
            with database.reading() as connection:
                return list(connection.execute(query))
        finally:
            database.close()

    @property
    def job_ids(self) -> list[str]:
        return [row.job_id for row in self.rows(sa.select(jobs.c.job_id).order_by(jobs.c.ordinal))]


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """Those of every process of this host, looked at all the time."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        seen.add((entry / "cmdline").read_bytes())
                    except OSError:
                        continue  # it has ended

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    # A folder within its own, so that its artifacts are, too: what is built says so.
    folder = tmp_path_factory.mktemp("watched") / "farm"
    folder.mkdir()
    with redis_server(folder / "redis") as server:
        with server.client() as client:
            user = ("farm", "on", f">{BROKER_PASSWORD}", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", *user)
        variables: Mapping[str, str] = {
            "CELERY_BROKER_URL": f"redis://farm:{BROKER_PASSWORD}@127.0.0.1:{server.port}/0",
            "FLOWER_BASIC_AUTH": f"farm:{FLOWER_PASSWORD}",
            "FARM_LOG_FORMAT": "json",
        }
        farm = Farm(folder=folder, variables=variables)
        matrix = (*SMALL, "--optimizations", "baseline", "--batch-sizes", "1,2", "--repeats", "2")
        with command_lines() as commands:
            code, output = farm.run("producer", *submit(farm, *matrix))
        assert code == 0, output
        with farm.store() as store:
            run_id = store.run("latest").run_id
        yield Watched(farm=farm, run_id=run_id, output=output, commands=commands)


def test_every_line_is_an_object_with_a_time_a_level_and_a_sentence(watched: Watched) -> None:
    assert len(watched.lines) > 8
    for line in watched.lines:
        assert datetime.fromisoformat(line["ts"]).utcoffset() is not None
        assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        assert line["logger"]
        assert line["message"]
        assert line["worker"].startswith("cpu-local-")


def test_a_job_can_be_followed_from_its_submission_to_its_row(watched: Watched) -> None:
    assert f"Run {watched.run_id}: 2 cells, 4 jobs." in watched.output
    assert len(watched.job_ids) == 4
    with (watched.farm.folder / "results" / "benchmark_results.csv").open(newline="") as file:
        in_rows = [job_id for row in csv.DictReader(file) for job_id in row["job_ids"].split()]
    assert sorted(in_rows) == watched.job_ids
    tasks = json.loads((watched.folder / "flower-tasks.json").read_text())
    kept = {row.job_id: row for row in watched.rows(sa.select(attempts))}
    stored = {row.job_id for row in watched.rows(sa.select(results.c.job_id))}
    for job_id in watched.job_ids:
        assert job_id.startswith(f"{watched.run_id}.")
        named = [task for task_id, task in tasks.items() if task_id.startswith(f"{job_id}-")]
        assert any(job_id in task["args"] for task in named)
        about = [line for line in watched.lines if line.get("job") == job_id]
        begins, ends = (next(line for line in about if word in line["message"]) for word in ("begins", "ends"))
        assert begins["run"] == ends["run"] == watched.run_id
        assert begins["attempt"] == ends["attempt"] == kept[job_id].number == 1
        assert ends["outcome"] == kept[job_id].outcome == "ok"
        assert ends["duration_s"] > 0
        assert begins["device"] == "cpu"
        assert job_id in stored


def test_what_a_measuring_process_says_names_its_job_too(watched: Watched) -> None:
    said = [
        (row.job_id, json.loads(line))
        for row in watched.rows(sa.select(attempts.c.job_id, attempts.c.log_tail))
        for line in row.log_tail.splitlines()
        if line.startswith("{")
    ]
    assert said, "no process said anything, so nothing is shown here"
    for job_id, line in said:
        assert (line["job"], line["run"], line["attempt"]) == (job_id, watched.run_id, 1)
        assert line["phase"] in ("build", "measure")


def test_the_producer_says_for_machines_what_it_says_for_people(watched: Watched) -> None:
    lines = [json.loads(line) for line in watched.output.splitlines() if line.startswith("{")]
    about_run = [line["message"] for line in lines if line.get("run") == watched.run_id]
    assert any("is submitted" in message for message in about_run)
    assert any("4 messages sent" in message for message in about_run)
    assert any("has ended" in message for message in about_run)


@pytest.mark.parametrize("secret", [BROKER_PASSWORD, FLOWER_PASSWORD])
def test_a_password_is_in_no_list_of_processes(watched: Watched, secret: str) -> None:
    assert any(b"workers" in command for command in watched.commands)
    assert any(b"flower" in command for command in watched.commands)
    assert not [command for command in watched.commands if secret.encode() in command]


@pytest.mark.parametrize("secret", [BROKER_PASSWORD, FLOWER_PASSWORD])
def test_a_password_is_in_nothing_that_the_farm_prints_or_writes(watched: Watched, secret: str) -> None:
    assert secret not in watched.output
    files = [path for path in watched.farm.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"worker-1.log", "flower.log", "farm.db", "benchmark_results.csv"} <= {path.name for path in files}
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
