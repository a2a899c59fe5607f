"""Runs the producer and workers as a user would, each farm in a directory of its own, and looks what is left."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from results_store.database import Database
from results_store.schema import attempts
from results_store.store import Store, open_store
from tests.redis_servers import eventually

#: What takes the least time and still is a model and real images.
#: An attempt for each job, however busy this host is.
SMALL = (
    *("--models", "mobilenet_v3_small", "--dataset", "digits", "--image-size", "32", "--protocol", "quick"),
    *("--set", "remeasure=0", "--set", "control_every=none"),
)
#: Two recipes, two batch sizes.
FOUR = (*SMALL, "--optimizations", "baseline,channels_last", "--batch-sizes", "1,2")


@dataclass(frozen=True, kw_only=True)
class Farm:
    """Where one farm's things live, as environment variables."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        return self.variables.get("FARM_DATABASE_URL", f"sqlite:///{self.folder / 'farm' / 'farm.db'}")

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "CELERY_"))}
        own = {"FARM_DATA_DIR": str(self.folder / "farm"), "FARM_LOCK_DIR": str(self.folder / "locks")}
        return {**clean, **own, **self.variables}

    @contextmanager
    def started(self, module: str, *arguments: str) -> Iterator[Process]:
        """A command that runs; interrupted where it still does at the end."""
        self._share_artifacts()
        process = Process([sys.executable, "-m", module, *arguments], self.environment)
        try:
            yield process
        finally:
            process.send(signal.SIGINT)
            process.ended(within_s=60)

    def run(self, module: str, *arguments: str) -> tuple[int, str]:
        """Exit code and everything printed."""
        with self.started(module, *arguments) as process:
            return process.ended(), process.said

    @contextmanager
    def store(self) -> Iterator[Store]:
        with closing(open_store(self.database)) as store:
            yield store

    def attempts(self, run_id: str) -> list[Any]:
        """The rows of every attempt of a run, by start."""
        database = Database(self.database)
        wanted = sa.select(attempts).where(attempts.c.job_id.startswith(run_id)).order_by(attempts.c.started_at)
        try:
            with database.reading() as connection:
                return list(connection.execute(wanted))
        finally:
            database.close()

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started for this farm."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def held_locks(self) -> list[Path]:
        return [path for path in (self.folder / "locks").glob("**/*") if path.is_file() and _is_held(path)]

    def assert_nothing_runs(self) -> None:
        assert self.processes() == []
        assert self.held_locks() == []

    def assert_nothing_is_left(self) -> None:
        self.assert_nothing_runs()
        assert not (self.folder / "farm" / "broker").exists()

    def _share_artifacts(self) -> None:
        """All farms of a session train the same model: once is enough."""
        shared, own = self.folder.parent / "artifacts", self.folder / "farm" / "artifacts"
        shared.mkdir(exist_ok=True)
        own.parent.mkdir(exist_ok=True)
        if not own.exists():
            own.symlink_to(shared)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("FARM_DATA_DIR") == str(self.folder / "farm")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


class Process:
    """A running command and what it has said so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.said = ""
        self._process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.pid = self._process.pid
        # One processor, before it has looked how many there are: workers take turns for it, and what a
        # measurement costs does not depend on who else is at work on this host.
        os.sched_setaffinity(self.pid, {max(os.sched_getaffinity(0))})
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()

    def until_said(self, text: str) -> None:
        eventually(lambda: text in self.said or self._process.poll() is not None, within_s=60)
        assert text in self.said, self.said

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, within_s: float = 400) -> int:
        """Its exit code, once it has ended and everything that it said is heard."""
        code = self._process.wait(timeout=within_s)
        self._reader.join()
        return code

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.said += line


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A local run that has ended."""

    farm: Farm
    run_id: str
    csv: Path
    #: What the CSV held then.
    rows: list[dict[str, str]]
    output: str
    #: Flower's workers, asked while a job was running.
    workers_shown: dict[str, Any]

    @property
    def tasks(self) -> dict[str, Any]:
        kept = self.farm.folder / "farm" / "logs" / self.run_id / "flower-tasks.json"
        return dict(json.loads(kept.read_text()))


def submit(farm: Farm, *matrix: str, output: str = "results") -> list[str]:
    """The arguments that measure a matrix with an embedded farm."""
    return ["submit-matrix", *matrix, "--local", "--wait", "--output-dir", str(farm.folder / output)]


def until_running(farm: Farm) -> str:
    """The newest run's id, once a job of it is running."""
    with farm.store() as store:
        eventually(lambda: store.runs() and store.progress("latest").running, within_s=120)
        return store.run("latest").run_id


@contextmanager
def worker(farm: Farm, name: str) -> Iterator[None]:
    """A worker for the CPU that serves, until the end."""
    with farm.started("workers", "--device", "cpu", "--name", name) as process:
        process.until_said("ready: ")
        yield


def table(path: Path) -> list[dict[str, str]]:
    """A CSV's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def overlaps(found: list[Any]) -> list[tuple[float, float]]:
    """Times in which two attempts held a device at once."""
    spans = sorted((row.device_from, row.device_until) for row in found if row.device_from is not None)
    return [later for earlier, later in itertools.pairwise(spans) if later[0] < earlier[1]]


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
