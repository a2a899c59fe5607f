"""Farms to be hurt: real workers on a real Redis and a real database, kept going as an operator would.

A scenario is a test that begins a farm, hurts it, and leaves. Leaving waits until every job has ended, stops the
workers, looks at every invariant (`invariants`), notes one row for the table, and fails where anything is amiss:

    @pytest.mark.seeds(5)              # seeds where the suite runs whole; one in the short form
    @pytest.mark.short("postgresql")   # the database of the short form; both where the suite runs whole
    def test_a_worker_is_killed(farms_of: Farms, seed: int, whole: bool) -> None:
        with farms_of.begin("SIGKILL: the worker", seed=seed) as farm:
            farm.start("one", "two")              # workers, which take one processor for each job
            farm.script("os.abort()", repeats=[7])    # what the job of this repeat does; see `child.canned`
            farm.submit(60)                       # a run of so many jobs, with their messages
            for number in range(20 if whole else 5):
                farm.until(lambda number=number: farm.begun() > 2 * number)
                farm.rest(farm.random.uniform(0, 0.1))
                farm.kill(farm.workers["one"].pid)            # counted as a fault; started again by itself

Faults that are done otherwise are counted by `farm.faults += 1`. `farm.until` and `farm.rest` start ended workers
again, so a scenario waits with nothing else. Jobs that have to end otherwise than with a result:
`farm.conclude(lambda job: …)` with what the table `jobs` may say of one, as the last line within the `with`.
`farm.redis` can be stopped and started, `farm.store` asked, `farm.rows(query)` reads the database. Workers that
shall reach broker or database by another way are told by `begin(…, variables={"CELERY_BROKER_URL": …})`; another
Redis is given as `begin(…, redis=…)`.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import sqlalchemy as sa

from farm import queue
from farm.errors import FarmError, Unreachable
from farm.settings import Settings
from farm.spec import Matrix, Protocol
from results_store.database import Database
from results_store.schema import is_open, jobs
from results_store.store import Store, open_store
from tests import factories
from tests.faults import crashes, invariants
from tests.faults.invariants import Findings, Job
from tests.faults.ledger import Row
from tests.faults.sightings import Sighting, Sightings
from tests.redis_servers import RedisServer, redis_server

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "faults"

PROCESSORS = len(os.sched_getaffinity(0))

#: A condition that is not met by then never will be; far more than a busy host needs.
PATIENCE_S = 120.0
#: What a process that is killed had started is gone after so long, and so is what a farm had when it stopped.
ORPHANED_S = 2.0
#: A worker that is told to stop, with no job in hand, has stopped after so long.
STOP_S = 60.0

_LOOK_S = 0.01
_MARK = "FAULTS_MARK"
_FOLDER = "FAULTS_FOLDER"

T = TypeVar("T")


def environment() -> dict[str, str]:
    """This process's variables without the farm's, and with the farm to be imported from anywhere."""
    theirs = ("FARM_", "CELERY_", "FAULTS_", "FLOWER_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return {**clean, "PYTHONPATH": str(ROOT)}


def matrix(
    repeats: int,
    name: str,
    *,
    recipes: Sequence[str] = ("baseline",),
    min_s: float = 0.03,
    builds: bool = False,
    **protocol: Any,
) -> Matrix:
    """The suite's matrix: the smallest model, measured as briefly as possible, each job once.

    Args:
        repeats: of each recipe.
        name: of the protocol; matrices of another name have jobs of other keys.
        recipes: one cell each.
        min_s: what a canned measurement takes.
        builds: whether every job has a build phase: what it needs is never there.
        protocol: more of its fields.
    """
    short = {
        "warmup_min_s": 0,
        "warmup_max_s": 0.05,
        "warmup_min_calls": 1,
        "min_calls": 3,
        "max_s": max(0.05, min_s),
        "target_half_width": 1,
        "paired": False,
        "control_every": None,
        "remeasure": 0,
        "profile": False,
        "energy_s": 0,
        "distinct_inputs": 1,
        "accuracy_samples": 4,
        "measure_deadline_s": 120,
        "build_deadline_s": 120,
    }
    return factories.matrix(
        models=("mobilenet_v3_small",),
        optimizations=recipes,
        dataset="synthetic",
        image_size=48 if builds else 32,
        protocol=Protocol.model_validate({"name": name, "min_s": min_s, **short, **protocol}),
        repeats=repeats,
    )


class Worker:
    """A worker as its operator sees it; `start` starts it again under its name."""

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self.name = name
        #: How often it was started.
        self.starts = 0
        self._command = command
        self._variables = variables
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, which has ended or never begun."""
        self.starts += 1
        mark = f"{self._variables[_MARK]}.{self.name}.{self.starts}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._variables, _MARK: mark},
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its main process."""
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether its main process has not ended."""
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it takes messages."""
        return self.alive and "ready: " in self.log

    @property
    def log(self) -> str:
        """What it wrote since its last start."""
        return self._log.read_text(errors="replace")

    @property
    def pool_process(self) -> int | None:
        """What serves its jobs: forked, so it has its parent's command line; None while there is none."""
        found = self._only_child(lambda command: command == list(self._command))
        # What waited for the end of one that was killed has that command line, too, and a session of its own.
        with suppress(ProcessLookupError):
            return found if found and os.getsid(found) == self.pid else None
        return None

    @property
    def reconciler(self) -> int | None:
        """What reconciles beside it; None while there is none."""
        return self._only_child(lambda command: str(FOLDER / "companion.py") in command)

    @property
    def tree(self) -> list[psutil.Process]:
        """Its main process and all that descends from it."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _only_child(self, is_it: Callable[[list[str]], bool]) -> int | None:
        """None, too, where it cannot be told: a process has its parent's command line until it has its own."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    found += [child.pid] if is_it(child.cmdline()) else []
        return found[0] if len(found) == 1 else None

    @property
    def _log(self) -> Path:
        return self._folder / f"{self.name}.{self.starts}.log"


class Farm:
    """One scenario's farm; see the head of this file."""

    def __init__(
        self,
        scenario: str,
        settings: Settings,
        redis: RedisServer,
        *,
        seed: int,
        child: str,
        passages: Mapping[str, Sequence[int]],
        variables: Mapping[str, str],
    ) -> None:
        self.scenario = scenario
        self.folder = settings.data_dir
        self.settings = settings
        self.redis = redis
        self.random = random.Random(f"{scenario} {seed}")
        self.store: Store = open_store(settings.database, lease_s=settings.lease_s)
        self.workers: dict[str, Worker] = {}
        #: Runs submitted, oldest first.
        self.runs: list[str] = []
        #: Faults injected by the scenario; processes that ended at a named point count themselves.
        self.faults = 0
        #: What was amiss at the end; None until then, and where it could not be looked up.
        self.findings: Findings | None = None
        self._child = child
        self._mark = secrets.token_hex(8)
        self._variables = {**crashes.variables(passages), **variables}
        self._sightings = Sightings(self.folder)
        #: (when it has to be gone by, what had to end with a process that was killed).
        self._doomed: list[tuple[float, psutil.Process]] = []
        self._orphans: list[str] = []
        self._database = Database(settings.database)
        crashes.prepare(self.folder)
        (self.folder / "scripts").mkdir()
        (self.folder / "measurement.json").write_text(factories.measurement().model_dump_json())

    # ---- what a scenario does

    @property
    def variables(self) -> dict[str, str]:
        """The environment of everything that is started for this farm."""
        own = {_FOLDER: str(self.folder), _MARK: self._mark}
        return {**environment(), **self.settings.variables(), **self._variables, **own}

    def start(self, *names: str, threads: int = 1) -> None:
        """Starts workers, which take so many processors for each job, and waits until they are ready."""
        for name in names:
            command = (sys.executable, str(FOLDER / "worker.py"), self._child, f"{name}@faults", str(threads))
            self.workers[name] = Worker(name, command, self.variables, self.folder)
            self.workers[name].start()
        self.until(lambda: all(self.workers[name].ready for name in names))

    def submit(self, repeats: int, *, messages: int = 1, **given: Any) -> str:
        """A run of so many repeats of each recipe; its id.

        Args:
            repeats: with one recipe, that many jobs.
            messages: so many for each job.
            given: more of `matrix`.
        """
        made = matrix(repeats, f"faults-{len(self.runs)}", **given)
        run_id = self.store.submit(made, again=True).run_id
        self.runs.append(run_id)
        for _ in range(messages):
            queue.publish(self.redis.url, self.store.claimable(run_id))
        return run_id

    def script(self, script: str, repeats: Iterable[int]) -> None:
        """What canned measurements of these repeats do before they report; from now on, in every run."""
        for repeat in repeats:
            (self.folder / "scripts" / f"{repeat}.py").write_text(script)

    def until(self, condition: Callable[[], T], within_s: float = PATIENCE_S, every_s: float = _LOOK_S) -> T:
        """What the condition gave once it held; meanwhile ended workers are started again."""
        deadline = time.monotonic() + within_s
        while not (found := condition()):
            self._tend()
            assert time.monotonic() < deadline, f"did not come true within {within_s:g} s"
            time.sleep(every_s)
        return found

    def rest(self, seconds: float) -> None:
        """Lets the farm work for so long."""
        until = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= until, within_s=seconds + PATIENCE_S)

    def kill(self, pid: int) -> bool:
        """Kills a process of this farm, as SIGKILL does; what it had started has to be gone soon after.

        Returns:
            False where it had ended already: then nothing was injected.
        """
        try:
            victim, handle = psutil.Process(pid), os.pidfd_open(pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False
        try:
            heirs = victim.children(recursive=True)
            if not (lives(victim) and self._is_ours(victim)):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False
        finally:
            os.close(handle)
        self.faults += 1
        self._doomed += [(time.monotonic() + ORPHANED_S, heir) for heir in heirs]
        return True

    def sightings(self) -> list[Sighting]:
        """Every process that built or measured so far."""
        return self._sightings.all()

    def begun(self) -> int:
        """How many processes have begun to measure."""
        return len(self._sightings.measuring())

    def measuring(self) -> list[Sighting]:
        """Those that measure now."""
        return [
            sighting for sighting in self._sightings.measuring() if not sighting.ended and self._runs(sighting)
        ]

    def rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        """What the database answers."""
        with self._database.reading() as connection:
            return connection.execute(query).all()

    def finished(self) -> bool:
        """Whether every job has ended; False, too, where the database does not answer."""
        with suppress(Unreachable):
            return not self.rows(sa.select(jobs.c.job_id).where(is_open(jobs)).limit(1))
        return False

    def conclude(self, may_end: Callable[[Job], bool] = invariants.is_done) -> Findings:
        """Waits for the end of every job, stops the workers, and fails where an invariant does not hold.

        Args:
            may_end: whether a job, a row of the table `jobs`, may have ended so.
        """
        self.until(self.finished, every_s=0.1)
        amiss = self._stop()
        self.findings = self._looked(may_end)
        self.findings.broken += amiss
        assert not self.findings.all(), "\n".join(self.findings.all())
        return self.findings

    # ---- what goes on besides

    def row(self, database: str) -> Row:
        """The scenario's row; where nothing could be looked up, one job counts as lost."""
        found = self.findings or Findings(jobs=0, lost=["the database does not answer"])
        return Row(
            scenario=self.scenario,
            database=database,
            faults=self.faults + len(crashes.struck(self.folder)),
            jobs=found.jobs,
            lost=len(found.lost),
            duplicated=len(found.duplicated),
            overlapping=len(found.overlapping),
        )

    def give_up(self) -> None:
        """Looks how the farm stands when its scenario has failed; the ends of its logs go to the output."""
        for path in sorted(self.folder.glob("*.log")):
            print(f"---- {path.name}", *path.read_text(errors="replace").splitlines()[-20:], sep="\n")
        with suppress(FarmError, sa.exc.SQLAlchemyError):
            self.findings = self.findings or self._looked(invariants.is_done)

    def close(self) -> None:
        """Ends everything that still runs."""
        for process in self._ours():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for worker in self.workers.values():
            worker.process.wait(STOP_S)
        self.store.close()
        self._database.close()

    def _tend(self) -> None:
        """Starts what has ended again, and looks for what should be gone."""
        for worker in self.workers.values():
            if not worker.alive:
                worker.start()
        now = time.monotonic()
        self._orphans += [described(heir) for by, heir in self._doomed if by <= now and lives(heir)]
        self._doomed = [(by, heir) for by, heir in self._doomed if by > now]

    def _looked(self, may_end: Callable[[Job], bool]) -> Findings:
        found = invariants.look(self.settings.database, self.sightings(), may_end)
        found.broken += [f"outlived what had started it: {orphan}" for orphan in self._orphans]
        return found

    def _stop(self) -> list[str]:
        """Stops the workers; a sentence for each that does not, and for what they leave behind."""
        amiss = []
        for worker in self.workers.values():
            if worker.alive:
                worker.process.terminate()
        for name, worker in self.workers.items():
            try:
                worker.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                amiss.append(f"the worker {name} did not stop")
        gone_by = time.monotonic() + ORPHANED_S
        while (left := self._ours()) and time.monotonic() < gone_by:
            time.sleep(_LOOK_S)
        amiss += [f"was left behind: {described(process)}" for process in left]
        return [*amiss, *(f"the lock {path.name} is still held" for path in self._held_locks())]

    def _held_locks(self) -> list[Path]:
        return [path for path in self.settings.lock_dir.glob("*.lock") if _is_held(path)]

    def _ours(self) -> list[psutil.Process]:
        """Every living process that was started for this farm, whoever is its parent."""
        return [process for process in psutil.process_iter() if lives(process) and self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            return process.environ().get(_MARK, "").startswith(self._mark)
        return False

    def _runs(self, sighting: Sighting) -> bool:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(sighting.pid)
            return lives(process) and self._is_ours(process)
        return False


class Farms:
    """Makes the farms of one test on one database."""

    def __init__(self, kind: str, url: str, folder: Path, artifacts: Path, rows: list[Row]) -> None:
        #: `sqlite` or `postgresql`.
        self.kind = kind
        self._url = url
        self._folder = folder
        self._artifacts = artifacts
        self._rows = rows

    @contextmanager
    def begin(
        self,
        scenario: str,
        *,
        seed: int = 0,
        child: str = "canned",
        lease_s: float = 1.5,
        passages: Mapping[str, Sequence[int]] | None = None,
        variables: Mapping[str, str] | None = None,
        redis: RedisServer | None = None,
    ) -> Iterator[Farm]:
        """A farm without workers; leaving the `with` concludes the scenario.

        Args:
            scenario: its name in the table; seeds of one name are added up.
            seed: of `farm.random`.
            child: `canned` measures in milliseconds, `real` as the farm does.
            lease_s: after so long a worker that fell silent has lost its job.
            passages: which passages of which named points end the process (`crashes.POINTS`).
            variables: more of the workers' environment.
            redis: a running one; where there is none, one is started for the farm.
        """
        folder = self._folder / "farm"
        folder.mkdir()
        (folder / "artifacts").symlink_to(self._artifacts)
        with ExitStack() as ending:
            server = redis or ending.enter_context(redis_server(folder / "redis"))
            settings = Settings(
                data_dir=folder,
                database_url=self._url,
                broker_url=server.url,
                lock_dir=folder / "locks",
                lease_s=lease_s,
                renew_s=min(0.3, lease_s / 5),
                reconcile_s=0.3,
            )
            farm = Farm(
                scenario,
                settings,
                server,
                seed=seed,
                child=child,
                passages=passages or {},
                variables=variables or {},
            )
            ending.callback(farm.close)
            ending.callback(lambda: self._rows.append(farm.row(self.kind)))
            try:
                yield farm
                if farm.findings is None:
                    farm.conclude()
            except BaseException:
                farm.give_up()
                raise


def lives(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def described(process: psutil.Process) -> str:
    """A process in a few words."""
    with suppress(psutil.NoSuchProcess), process.oneshot():
        return f"{process.pid} (child of {process.ppid()}): {' '.join(process.cmdline())[-200:]}"
    return f"{process.pid}, gone by now"


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
