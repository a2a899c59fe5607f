"""300 SIGKILLs: to workers, to the processes that serve their jobs, and to those that measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.faults.farms import ORPHANED_S, Farm, Farms, Worker

pytestmark = pytest.mark.timeout(900)

#: With this seed measuring is real, of a real model, forked from the real template, which takes seconds to import
#: what it has: each kill but those of measuring processes costs one.
REAL_SEED = 0

#: Crashed twice, a job is tried once more; crashed three times, it would have failed.
MAX_KILLS_OF_A_JOB = 2

#: Starts a process in a session of its own that would stay for long.
LEAVE = "subprocess.Popen(['sleep', '300'], start_new_session=True)"

#: A job's first attempt does that, forks another one that has the locks of its device, and hangs.
LEAVE_AND_HANG = """
try:
    name = "hung-" + request["spec"]["protocol"]["name"]
    os.close(os.open(os.path.join(os.environ["FAULTS_FOLDER"], name), os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    subprocess.Popen(['sleep', '300'], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
    time.sleep(300)
"""


@pytest.mark.seeds(5)
@pytest.mark.short("sqlite")
def test_workers_are_killed(farms_of: Farms, seed: int, whole: bool) -> None:
    killed(farms_of, "worker", seed, whole, kill_a_worker)


@pytest.mark.seeds(5)
@pytest.mark.short("postgresql")
def test_pool_processes_are_killed(farms_of: Farms, seed: int, whole: bool) -> None:
    killed(farms_of, "pool's process", seed, whole, kill_a_pool_process)


@pytest.mark.seeds(5)
@pytest.mark.short("sqlite")
def test_measuring_processes_are_killed(farms_of: Farms, seed: int, whole: bool) -> None:
    of_job: Counter[str] = Counter()
    killed(farms_of, "measuring process", seed, whole, lambda farm: kill_a_measuring_process(farm, of_job))


@pytest.mark.on("sqlite")
def test_what_a_measuring_process_had_started_ends_with_it(farms_of: Farms) -> None:
    with farms_of.begin("SIGKILL: what has descendants") as farm:
        farm.start("one")
        farm.script(LEAVE_AND_HANG, repeats=[0])
        worker = farm.workers["one"]
        for _ in range(3):
            farm.submit(1)
            # Beside those that every worker has: the one that measures, and its two.
            farm.until(lambda: sum("sleep" in name or "child.py" in name for name in names(worker)) == 3)
            victim = [hung(farm), worker.pool_process, worker.pid][farm.faults]
            assert farm.kill(victim or 0)
            farm.rest(ORPHANED_S)


def names(worker: Worker) -> list[str]:
    """Command lines of what descends from a worker."""
    found = []
    for process in worker.tree:
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(process.cmdline()))
    return found


def hung(farm: Farm) -> int:
    """The process that measures and does not end."""
    [sighting] = farm.measuring()
    return sighting.pid


def killed(farms_of: Farms, target: str, seed: int, whole: bool, kill: Callable[[Farm], bool]) -> None:
    """A run in the course of which `kill` strikes again and again, somewhere in the middle of a job."""
    kills, jobs = (20, 60) if whole else (5, 18)
    real = whole and seed == REAL_SEED
    with farms_of.begin(f"SIGKILL: {target}", seed=seed, child="real" if real else "canned") as farm:
        # Alone, a worker that hangs after a kill would be found out: nobody else does its jobs.
        farm.start(*(("one",) if seed == 1 else ("one", "two")))
        farm.script(LEAVE, repeats=range(0, jobs, 5))
        recipes = ("baseline",) if real else ("baseline", "channels_last", "system_malloc")
        isolation = "fork" if real or seed in (2, 3) else "spawn"
        min_s = 0.1 if target == "measuring process" else 0.03
        farm.submit(jobs // len(recipes), recipes=recipes, min_s=min_s, isolation=isolation)
        for number in range(kills):
            # A real worker needs seconds until it measures: most kills meet it on its way there.
            if not real or target == "measuring process" or number % 4 == 0:
                farm.until(lambda at=jobs * number // (kills + 4): farm.begun() >= at)  # type: ignore[misc]
            farm.rest(farm.random.uniform(0, 0.5 if real else 0.15))
            farm.until(lambda: kill(farm))
        farm.conclude()
        assert farm.faults == kills


def kill_a_worker(farm: Farm) -> bool:
    """Kills one worker's main process, now and then one that is only starting; False where there is none."""
    ready = [worker for worker in farm.workers.values() if worker.ready or farm.random.random() < 0.01]
    return bool(ready) and farm.kill(farm.random.choice(ready).pid)


def kill_a_pool_process(farm: Farm) -> bool:
    """Kills the process that serves one worker's jobs; False where none is there."""
    serving = [
        pid for worker in farm.workers.values() if worker.ready and (pid := worker.pool_process) is not None
    ]
    return bool(serving) and farm.kill(farm.random.choice(serving))


def kill_a_measuring_process(farm: Farm, of_job: Counter[str]) -> bool:
    """Kills one process that measures, of a job that has an attempt left; False where there is none."""
    measuring = [sighting for sighting in farm.measuring() if of_job[sighting.key] < MAX_KILLS_OF_A_JOB]
    if not measuring:
        return False
    victim = farm.random.choice(measuring)
    struck = farm.kill(victim.pid)
    of_job[victim.key] += struck
    return struck
