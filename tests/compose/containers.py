"""A farm in containers as a stranger would have it: a copy of the tree, `compose/setup`, `docker compose`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from results_store.database import Database
from results_store.schema import attempts
from results_store.store import Store, open_store
from tests.redis_servers import eventually

ROOT = Path(__file__).resolve().parents[2]

#: Trained in seconds; a job is a few more.
#: An attempt for each job, however busy this host is.
SMALL = (
    *("--models", "mobilenet_v3_small", "--dataset", "digits", "--image-size", "32", "--protocol", "quick"),
    *("--set", "remeasure=0", "--set", "control_every=none"),
)


def missing() -> str:
    """Why no farm in containers can be had here; empty where it can."""
    if shutil.which("docker") is None:
        return "there is no docker on this host"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"`{' '.join(command)}` fails: {done.stderr.strip().splitlines()[-1]}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Containers:
    """One Compose project in a folder of its own."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """What `.env` says."""
        lines = (line for line in (self.folder / ".env").read_text().splitlines() if "=" in line)
        return {name: value for name, _, value in (line.partition("=") for line in lines if line[0] != "#")}

    @property
    def image(self) -> str:
        """What the farm's services run from."""
        return f"{self.variables['COMPOSE_PROJECT_NAME']}:cpu"

    @property
    def environment(self) -> dict[str, str]:
        """The test's own, without what would set up another farm."""
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FARM_", "CELERY_", "COMPOSE_", "FLOWER_"))
        }

    def compose(self, *arguments: str, within_s: float = 300, check: bool = True) -> str:
        """What `docker compose` prints, both streams together."""
        return self.run("docker", "compose", *arguments, within_s=within_s, check=check)

    def run(
        self,
        *command: str,
        within_s: float = 300,
        check: bool = True,
        variables: Mapping[str, str] = {},
    ) -> str:
        """What a command prints in the folder."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def config(self, *profiles: str) -> dict[str, Any]:
        """What Compose makes of the files."""
        options = [part for profile in profiles for part in ("--profile", profile)]
        done = subprocess.run(
            ["docker", "compose", *options, "config", "--format", "json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(json.loads(done.stdout))

    def states(self) -> dict[str, str]:
        """Health or, without a health check, state of every container, by service and number."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return {one["Name"]: one["Health"] or one["State"] for one in found}

    def up(self, *arguments: str) -> None:
        """Starts what is not running."""
        self.compose("up", "--detach", "--no-build", *arguments)

    def until_healthy(self, within_s: float = 120) -> None:
        """Waits until every container that has a health check is healthy."""
        eventually(lambda: set(self.states().values()) <= {"healthy", "running"}, within_s=within_s)

    def submit(self, *arguments: str) -> str:
        """Submits through the producer's container; the run's id."""
        self.compose("run", "--rm", "-T", "producer", "submit-matrix", *SMALL, *arguments)
        with self.store() as store:
            return store.run("latest").run_id

    def submit_from_host(self, *arguments: str) -> str:
        """Submits from this host, by the URLs of `.env`; what it prints."""
        variables = self.variables
        own = {name: variables[name] for name in ("CELERY_BROKER_URL", "FARM_DATABASE_URL")}
        own |= {"FARM_DATA_DIR": str(self.folder / ".farm"), "PYTHONPATH": str(ROOT)}
        return self.run(sys.executable, "-m", "producer", "submit-matrix", *SMALL, *arguments, variables=own)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The farm's store, through its published port."""
        with closing(open_store(self.variables["FARM_DATABASE_URL"])) as store:
            yield store

    def until_ended(self, run_id: str, within_s: float = 300) -> None:
        """Waits until no job of a run is left to do."""
        with self.store() as store:
            eventually(lambda: store.run(run_id).finished, within_s=within_s)

    def attempts(self, run_id: str) -> list[Any]:
        """Every attempt of a run, by start."""
        database = Database(self.variables["FARM_DATABASE_URL"])
        wanted = sa.select(attempts).where(attempts.c.job_id.startswith(run_id)).order_by(attempts.c.started_at)
        try:
            with database.reading() as connection:
                return list(connection.execute(wanted))
        finally:
            database.close()


@contextmanager
def project(folder: Path, variables: Mapping[str, str] = {}) -> Iterator[Containers]:
    """A copy of the tree, set up; afterwards neither containers nor volumes of it are left."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    farm = Containers(folder=folder)
    farm.run("compose/setup")
    text = (folder / ".env").read_text()
    locks = folder / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    lines = [f"{name}={value}" for name, value in {"FARM_LOCKS": str(locks), **variables}.items()]
    (folder / ".env").write_text("\n".join([text, *lines, ""]))
    try:
        yield farm
    finally:
        farm.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
        farm.run("docker", "image", "rm", farm.image, check=False)
