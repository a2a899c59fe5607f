"""Whole workers on a real Redis and a real store; only the measuring itself is a small script."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from farm import queue
from farm.devices import nvml
from farm.measurement import Outcome
from farm.settings import Settings
from farm.spec import Protocol
from results_store.store import JobResult, Store, open_store
from tests import databases, factories
from tests.redis_servers import RedisServer, eventually, redis_server
from workers import __main__ as door
from workers import processes, service

THREADS = len(os.sched_getaffinity(0))

#: Takes as long as the protocol says at least, and notes when it was in and out.
CHILD = """
import json, os, sys, time
sys.path.insert(0, os.getcwd())
template, trace, request_from, report_to = sys.argv[1:]
request = json.load(os.fdopen(int(request_from)))
from workers import child
child.settle(request["parent"], request["processors"])
spec = request["spec"]
def note(what):
    with open(trace, "a") as out:
        out.write(f"{what} {os.getpid()} {request['processors']}\\n")
answer = {"outcome": "ok", "reason": "", "build_spent_s": 0.0}
if request["phase"] == "measure":
    note("in")
    time.sleep(spec["protocol"]["min_s"])
    note("out")
    answer["measurement"] = {**json.loads(open(template).read()), "spec": spec}
json.dump(answer, os.fdopen(int(report_to), "w"))
"""

WORKER = """
import logging, sys
from farm.settings import Settings
from workers import capabilities
from workers.service import Service
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
name, threads, *command = sys.argv[1:]
worker = capabilities.capabilities("cpu", int(threads), name=name)
sys.exit(Service(Settings(), worker, "INFO", command=(sys.executable, "-S", *command)).run())
"""


class Worker:
    """A worker in a process of its own, and what it wrote."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self, program: str) -> set[int]:
        """Its children whose command line contains this."""
        return {pid for pid in processes.children(self.process.pid) if program in command_line(pid)}

    @property
    def pool_process(self) -> int:
        """The process that serves the jobs: forked, so it has its parent's command line."""
        [pid] = self.children("Service")
        return pid

    def stop(self, number: int = signal.SIGTERM, within_s: float = 15.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(within_s)


class Farm:
    """Redis, a store, and workers."""

    def __init__(self, folder: Path, server: RedisServer, database_url: str) -> None:
        self.folder = folder
        self.health_file = folder / "run" / "alive"
        self.server = server
        self.settings = Settings(
            data_dir=folder,
            database_url=database_url,
            broker_url=server.url,
            lock_dir=folder / "locks",
            lease_s=2.0,
            renew_s=0.3,
            reconcile_s=0.4,
            health_file=self.health_file,
        )
        self.store: Store = open_store(database_url, lease_s=2.0)
        self.trace = folder / "trace"
        self._workers: list[Worker] = []
        (folder / "child.py").write_text(CHILD)
        (folder / "template.json").write_text(factories.measurement().model_dump_json())

    def worker(
        self, name: str = "cpu@test", threads: int = THREADS, drain_s: float | None = None, program: str = WORKER
    ) -> Worker:
        log = self.folder / f"{name}.log"
        child = (str(self.folder / "child.py"), str(self.folder / "template.json"), str(self.trace))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", program, name, str(threads), *child],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.settings.model_copy(update={"drain_s": drain_s}).variables()},
            )
        started = Worker(name, process, log)
        self._workers.append(started)
        eventually(lambda: "ready: " in started.log)
        return started

    def submit(self, jobs: int, seconds: float = 0.0, publish: int = 1) -> list[str]:
        """A run of so many jobs that take so long, with so many messages each."""
        protocol = Protocol(name="test", min_s=seconds)
        run_id = self.store.submit(factories.matrix(protocol=protocol, repeats=jobs), again=True).run_id
        ids = [f"{run_id}.{number:06d}" for number in range(jobs)]
        queue.publish(self.server.url, {"cpu": ids * publish})
        return ids

    def results(self) -> list[JobResult]:
        return list(self.store.results("latest"))

    def finished(self) -> bool:
        return self.store.run("latest").finished

    def measured(self) -> list[str]:
        """`in` and `out` in the order in which they came."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [line.split()[0] for line in lines]

    def measuring(self) -> int | None:
        """The process that measures right now."""
        lines = [line.split() for line in self.trace.read_text().splitlines()] if self.trace.exists() else []
        return int(lines[-1][1]) if lines and lines[-1][0] == "in" else None

    def close(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
        self.store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite"])
def farm(request: pytest.FixtureRequest, tmp_path: Path, server: RedisServer) -> Iterator[Farm]:
    with server.client() as client:
        client.flushall()
    with databases.fresh(request.param, tmp_path) as url:
        made = Farm(tmp_path, server, url)
        try:
            yield made
        finally:
            made.close()


def test_the_same_message_five_times_measures_once_and_the_rest_is_skipped(farm: Farm) -> None:
    with listening(farm.server) as events:
        worker = farm.worker()
        farm.submit(3, publish=5)
        eventually(lambda: sum(e["type"] == "task-succeeded" for e in events) >= 15)
        assert worker.stop() == 0
    assert [(found.outcome, found.attempts) for found in farm.results()] == [(Outcome.OK, 1)] * 3
    assert farm.measured() == ["in", "out"] * 3
    results = [event["result"] for event in events if event["type"] == "task-succeeded"]
    assert sum("ok" in result for result in results) == 3
    assert sum("skipped" in result for result in results) == 12
    assert not {e["uuid"] for e in events if e["type"] == "task-received"} - {
        e["uuid"] for e in events if e["type"] == "task-succeeded"
    }


@pytest.mark.parametrize("farm", ["postgresql"], indirect=True)
def test_two_workers_of_one_device_share_the_jobs_and_never_overlap(farm: Farm) -> None:
    workers = [farm.worker("one@test"), farm.worker("two@test")]
    farm.submit(6, seconds=0.1)
    eventually(farm.finished)
    assert farm.measured() == ["in", "out"] * 6
    assert {found.worker_id for found in farm.results()} == {"one@test", "two@test"}
    assert [worker.stop() for worker in workers] == [0, 0]


def test_during_a_long_job_the_worker_answers_and_losing_all_of_redis_loses_nothing(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(3, seconds=1.5)
    eventually(farm.measuring)
    ping = [sys.executable, "-m", "celery", "-b", farm.server.url, "inspect", "ping", "--timeout", "1.0"]
    answer = subprocess.run(ping, capture_output=True, text=True, check=False)
    assert "cpu@test: OK" in answer.stdout
    with farm.server.client() as client:
        client.flushall()
    eventually(farm.finished)
    assert [(found.outcome, found.attempts) for found in farm.results()] == [(Outcome.OK, 1)] * 3
    assert worker.stop() == 0


def test_a_broker_that_restarts_in_mid_job_loses_nothing(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(2, seconds=1.0)
    eventually(farm.measuring)
    farm.server.stop()
    farm.server.start()
    eventually(farm.finished)
    assert [(found.outcome, found.attempts) for found in farm.results()] == [(Outcome.OK, 1)] * 2
    assert "CPendingDeprecationWarning" not in worker.log
    assert worker.stop() == 0


def test_a_worker_that_is_killed_takes_its_child_along_and_another_takes_the_job(farm: Farm) -> None:
    killed = farm.worker("killed@test")
    [job] = farm.submit(1, seconds=2.0)
    eventually(farm.measuring)
    measuring = farm.measuring()
    assert measuring is not None
    left = {killed.pool_process, measuring, *killed.children("companion")}
    assert len(left) == 3
    killed.process.kill()
    killed.process.wait()
    eventually(lambda: not any(runs(pid) for pid in left))
    farm.worker("other@test")
    eventually(farm.finished)
    [found] = farm.results()
    assert (found.job_id, found.outcome, found.attempts, found.worker_id) == (job, Outcome.OK, 2, "other@test")
    assert farm.measured() == ["in", "in", "out"]


def test_a_pool_process_that_is_killed_is_replaced_and_its_job_done_again(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(1, seconds=1.0)
    eventually(farm.measuring)
    measuring = farm.measuring()
    assert measuring is not None
    os.kill(worker.pool_process, signal.SIGKILL)
    eventually(lambda: not runs(measuring))
    eventually(farm.finished)
    [found] = farm.results()
    assert (found.outcome, found.attempts) == (Outcome.OK, 2)
    assert worker.stop() == 0


def test_the_reconciler_is_started_again_when_it_dies(farm: Farm) -> None:
    worker = farm.worker()
    [first] = worker.children("workers.companion")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: worker.children("workers.companion") - {first})
    farm.submit(1, publish=0)
    eventually(farm.finished)
    assert worker.stop() == 0


def test_a_reconciler_that_cannot_be_started_just_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    started, refused = service.Companion._start, iter([True, True])

    def start(companion: service.Companion) -> subprocess.Popen[bytes]:
        if next(refused, False):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")  # as fork says it
        return started(companion)

    monkeypatch.setattr(service, "_RESTART_PAUSE_S", 0.01)
    with service.Companion(("sleep", "60")) as companion:
        first = companion._process
        monkeypatch.setattr(service.Companion, "_start", start)
        first.kill()
        eventually(lambda: companion._process is not first and companion._process.poll() is None)


def test_one_signal_lets_the_job_end_and_leaves_nothing_behind(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(2, seconds=1.0)
    eventually(farm.measuring)
    left = processes.children(worker.process.pid)
    assert worker.stop() == 0
    assert farm.measured() == ["in", "out"]
    assert [found.attempts for found in farm.results()] == [1, 0]
    assert not any(runs(pid) for pid in left)
    assert farm.store.workers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_and_hands_the_job_back(farm: Farm, number: int) -> None:
    worker = farm.worker()
    farm.submit(1, seconds=60)
    eventually(farm.measuring)
    measuring = farm.measuring()
    assert measuring is not None
    left = processes.children(worker.process.pid) | {measuring}
    worker.process.send_signal(number)
    eventually(lambda: "stopping after the job in hand" in worker.log)
    assert worker.stop(number, within_s=5) == 1
    assert not any(runs(pid) for pid in left)
    [found] = farm.results()
    assert found.state == "queued"
    assert "stopped in the middle" in found.reason
    assert farm.store.workers() == []


def test_a_job_that_is_not_done_when_the_drain_is_over_is_handed_back(farm: Farm) -> None:
    worker = farm.worker(drain_s=1.0)
    farm.submit(1, seconds=60)
    eventually(farm.measuring)
    measuring = farm.measuring()
    assert measuring is not None
    left = processes.children(worker.process.pid) | {measuring}
    began = time.monotonic()
    assert worker.stop(within_s=10) == 1
    assert time.monotonic() - began >= 1.0
    assert "not done after 1 s" in worker.log
    assert not any(runs(pid) for pid in left)
    [found] = farm.results()
    assert found.state == "queued"
    assert "stopped in the middle" in found.reason
    assert farm.store.workers() == []


def test_a_job_that_is_done_within_the_drain_counts(farm: Farm) -> None:
    worker = farm.worker(drain_s=20.0)
    farm.submit(1, seconds=1.0)
    eventually(farm.measuring)
    assert worker.stop() == 0
    assert farm.measured() == ["in", "out"]
    assert farm.finished()


def test_a_worker_touches_its_health_file_for_as_long_as_it_lives(farm: Farm) -> None:
    worker = farm.worker()
    eventually(farm.health_file.exists)
    first = farm.health_file.stat().st_mtime_ns
    eventually(lambda: farm.health_file.stat().st_mtime_ns > first)
    assert worker.stop() == 0


def test_a_worker_with_fewer_threads_leaves_bigger_jobs_and_their_messages_do_not_go_round(farm: Farm) -> None:
    if THREADS < 2:
        pytest.skip("one processor is too few")
    worker = farm.worker(threads=1)
    run_id = farm.store.submit(factories.matrix(threads=2), again=True).run_id
    with listening(farm.server) as events:
        queue.publish(farm.server.url, {"cpu": [f"{run_id}.000000"]})
        # many rounds of the reconciler: the first may send it once more
        rounds = itertools.count()
        eventually(lambda: next(rounds) > 12)
    skipped = [event for event in events if event["type"] == "task-succeeded"]
    assert 1 <= len(skipped) <= 2
    assert farm.measured() == []
    assert worker.stop() == 0


DOOR = [sys.executable, "-m", "workers"]


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "said"),
    [
        ({}, {}, 2, "CELERY_BROKER_URL"),
        ({}, {}, 2, "--local"),
        ({"device": "tpu"}, {"CELERY_BROKER_URL": "redis://x"}, 2, "Possible: auto, cpu, cuda"),
        ({"device": "cuda"}, {"CELERY_BROKER_URL": "redis://x"}, 2, "--device cpu"),
        ({"threads": 9999}, {"CELERY_BROKER_URL": "redis://x"}, 2, "Possible: 1 to"),
        ({"threads": 0}, {"CELERY_BROKER_URL": "redis://x"}, 2, "Possible: 1 to"),
        ({"name": "a b"}, {"CELERY_BROKER_URL": "redis://x"}, 2, "not possible"),
        ({"log_level": "LOUD"}, {"CELERY_BROKER_URL": "redis://x"}, 2, "Possible: DEBUG"),
        ({}, {"CELERY_BROKER_URL": "amqp://:hunter2@x"}, 2, "not one of Redis"),
        ({}, {"CELERY_BROKER_URL": "{redis}", "FARM_LEASE_S": "soon"}, 2, "FARM_LEASE_S is 'soon'"),
        ({}, {"CELERY_BROKER_URL": "{redis}", "FARM_SECRETS_DIR": "/nowhere"}, 2, "no such folder"),
        ({}, {"CELERY_BROKER_URL": "redis://:hunter2@127.0.0.1:1/0"}, 3, "does not answer"),
        ({}, {"CELERY_BROKER_URL": "{redis}", "FARM_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, 3, ""),
        ({}, {"CELERY_BROKER_URL": "{redis}", "FARM_LOCK_DIR": "/proc/locks"}, 2, "FARM_LOCK_DIR"),
    ],
)
def test_what_is_wrong_with_the_start_is_said_with_what_to_do(
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    variables: dict[str, str],
    status: int,
    said: str,
) -> None:
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    where = {"FARM_DATA_DIR": str(tmp_path), "FARM_LOCK_DIR": str(tmp_path / "locks"), **variables}
    for name, value in where.items():
        monkeypatch.setenv(name, value.replace("{redis}", server.url))
    monkeypatch.setattr(nvml, "gpus", tuple)
    with pytest.raises(typer.Exit) as ended:
        door.main(**{"device": "cpu", **arguments})
    printed = capfd.readouterr()
    assert ended.value.exit_code == status
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert "hunter2" not in printed.out + printed.err


def test_the_real_door_says_when_it_is_ready_and_ends_on_a_signal(farm: Farm) -> None:
    variables = {**environment(), **farm.settings.variables()}
    with subprocess.Popen([*DOOR, "--device", "cpu"], env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        [worker] = farm.store.workers()
        assert line.startswith(f"ready: {worker.id} on ")
        assert line.endswith("queues: cpu\n")
        assert (worker.pid, worker.threads) == (process.pid, THREADS)
        process.terminate()
        assert process.wait(15) == 0
    assert farm.store.workers() == []


def environment() -> dict[str, str]:
    """This process's variables without the farm's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "CELERY_"))}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def listening(server: RedisServer) -> Iterator[list[dict[str, Any]]]:
    """What Flower would hear."""
    events: list[dict[str, Any]] = []
    app = queue.create_app(server.url)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        ready = threading.Event()

        def capture() -> None:
            with receiver.consumer_context():
                ready.set()
                with contextlib.suppress(OSError):
                    receiver.capture(limit=None, timeout=None, wakeup=False)

        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        ready.wait(10)
        yield events
        receiver.should_stop = True
        thread.join(10)


def test_a_worker_whose_broker_is_gone_stops_on_one_signal_after_its_job(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(1, seconds=3.0)
    eventually(farm.measured)
    farm.server.stop()
    try:
        eventually(lambda: "Cannot connect to redis" in worker.log)
        assert worker.stop(within_s=20) == 0
    finally:
        farm.server.start()
    assert farm.store.workers() == []
    assert [found.outcome for found in farm.results()] == [Outcome.OK]


#: Starts as a worker with a GPU does: nobody knows yet whether its device computes.
UNPROBED_WORKER = WORKER.replace(
    "sys.exit(",
    "import dataclasses\nworker = dataclasses.replace(worker, quarantined='not probed yet')\nsys.exit(",
)


def test_a_worker_that_starts_in_quarantine_serves_once_its_device_was_probed(farm: Farm) -> None:
    worker = farm.worker(program=UNPROBED_WORKER)
    farm.submit(1)
    eventually(farm.finished, within_s=60)
    assert [(found.outcome, found.attempts) for found in farm.results()] == [(Outcome.OK, 1)]
    assert "its device computes, and it serves" in worker.log
    assert worker.stop() == 0
