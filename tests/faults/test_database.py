"""The database cuts connections, is locked, away or full: what is measured meanwhile is kept, and stored later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
import sqlalchemy as sa

from results_store.schema import attempts
from tests import databases
from tests.faults import disks
from tests.faults.farms import Farm, Farms
from tests.faults.ledger import Row

#: Makes the farms of a database: its kind and its URL.
FarmsOn: TypeAlias = Callable[[str, str], Farms]

#: Holds the write lock of a SQLite file for so many seconds, once it has it.
LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


@pytest.fixture
def farms_on(tmp_path: Path, artifacts: Path, rows: list[Row]) -> FarmsOn:
    return lambda kind, url: Farms(kind, url, tmp_path, artifacts, rows)


def lock(farm: Farm, path: Path, seconds: float) -> None:
    """Somebody else's process has the file for so long."""
    command = [sys.executable, "-S", "-c", LOCKER, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        farm.faults += 1
        farm.until(lambda: locker.poll() is not None)


def assert_nobody_ended(farm: Farm) -> None:
    """The database may do what it likes: workers wait for it."""
    assert [worker.starts for worker in farm.workers.values()] == [1] * len(farm.workers)


def lost(farm: Farm) -> int:
    """How many attempts came to nothing."""
    return len(farm.rows(sa.select(attempts.c.attempt_id).where(attempts.c.outcome != "ok")))


def until_begun(farm: Farm, jobs: int) -> None:
    """Waits until more jobs than these were begun."""
    farm.until(lambda: farm.begun() > jobs)


def test_connections_are_killed(farms_on: FarmsOn, whole: bool) -> None:
    with (
        databases.postgresql() as url,
        farms_on("postgresql", url).begin("PostgreSQL: connections killed") as farm,
    ):
        farm.start(*(("one", "two") if whole else ("one",)))
        kills = 10 if whole else 2
        farm.submit(8 * kills)
        for kill in range(kills):
            until_begun(farm, 6 * kill)
            # Several in a row: some meet a transaction.
            for _ in range(5):
                farm.rest(farm.random.uniform(0, 0.05))
                farm.faults += databases.disconnect(url)
        farm.conclude()
        assert farm.faults >= kills
        assert_nobody_ended(farm)


def test_a_foreign_process_locks_the_file(farms_on: FarmsOn, tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "farm.db"
    with farms_on("sqlite", f"sqlite:///{path}").begin("SQLite: locked for 5 s") as farm:
        farm.start(*(("one", "two") if whole else ("one",)))
        locks = 20 if whole else 1
        farm.submit(8 * locks)
        for number in range(locks):
            until_begun(farm, 6 * number)
            lock(farm, path, 5)
        farm.conclude()
        assert_nobody_ended(farm)


# ---- an outage: what is being measured then is kept, and stored afterwards

#: An outage is longer.
LEASE_S = 3.0


def spend(farm: Farm, outage: Callable[[], None]) -> None:
    """An outage while one worker measures and another one has nothing to do, and would take the job at once."""
    farm.start("one", "two")
    farm.submit(1, min_s=1.0)
    farm.until(farm.measuring)
    outage()
    farm.until(farm.finished)
    assert lost(farm) == 0
    assert farm.begun() == 1
    farm.submit(3)
    farm.conclude()
    assert_nobody_ended(farm)


def test_postgresql_is_stopped_and_started(farms_on: FarmsOn, whole: bool) -> None:
    with databases.server() as server:
        url = server.url("postgres")
        with farms_on("postgresql", url).begin("PostgreSQL: away for long", lease_s=LEASE_S) as farm:

            def outage() -> None:
                server.halt()
                farm.faults += 1
                farm.rest(60 if whole else LEASE_S + 1)
                server.start()

            spend(farm, outage)


@pytest.mark.whole
def test_the_file_is_locked_for_long(farms_on: FarmsOn, tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "farm.db"
    with farms_on("sqlite", f"sqlite:///{path}").begin("SQLite: locked for long", lease_s=LEASE_S) as farm:
        # Longer than anybody waits for a lock.
        spend(farm, lambda: lock(farm, path, 60))


# ---- a full disk

#: With less than this free, no job is begun; far less than a farm of some size has.
ROOM_MIB = 8


def fill_up_and_make_room(farm: Farm, disk: Path) -> None:
    """The disk is full for a while, in which the farm works."""
    farm.start("one", "two")
    farm.submit(40)
    until_begun(farm, 3)
    filler = disks.fill(disk)
    farm.faults += 1
    # Where a little room is given back, it is taken again at once: it stays full.
    for _ in range(10):
        farm.rest(1)
        disks.fill(disk)
    assert not farm.finished()
    filler.unlink()


@pytest.mark.whole
def test_the_disk_of_a_sqlite_file_is_full(farms_on: FarmsOn) -> None:
    with disks.small_disk(mib=16) as disk:
        url = f"sqlite:///{disk / 'farm.db'}"
        with farms_on("sqlite", url).begin("SQLite: its disk is full") as farm:
            fill_up_and_make_room(farm, disk)
            farm.conclude()
            assert_nobody_ended(farm)


@pytest.mark.whole
def test_the_disk_of_postgresql_is_full(farms_on: FarmsOn) -> None:
    with ExitStack() as farms:
        disk = farms.enter_context(disks.small_disk(mib=256))
        server = farms.enter_context(databases.server(disk))
        scenario = farms_on("postgresql", server.url("postgres")).begin("PostgreSQL: its disk is full")
        farm = farms.enter_context(scenario)
        fill_up_and_make_room(farm, disk)
        if not server.runs:
            # It gives up where it cannot write its log; whoever keeps it starts it again.
            server.start()
        farm.conclude()
        assert_nobody_ended(farm)


def test_the_disk_for_artifacts_and_scratch_is_full(farms_on: FarmsOn, tmp_path: Path, whole: bool) -> None:
    """Nothing is begun while it is; and what runs into it in the middle is done again, in the real process."""
    url = f"sqlite:///{tmp_path / 'farm.db'}"
    with disks.small_disk(mib=128) as disk:
        scenario = farms_on("sqlite", url).begin(
            "the disk of the data is full",
            child="real" if whole else "canned",
            lease_s=30.0,
            variables={
                "FARM_DATA_DIR": str(disk),
                "FARM_DISK_FREE_MB": str(ROOM_MIB),
                "FARM_PROBE_S": "0.5",
            },
        )
        with scenario as farm:
            filler = disks.fill(disk)
            farm.faults += 1
            farm.start("one")
            farm.submit(4, recipes=("torchscript",))
            farm.until(lambda: why_quarantined(farm))
            farm.rest(4 if whole else 1)
            assert farm.sightings() == []
            assert "make room" in why_quarantined(farm)
            if whole:
                run_into_it(farm, disk, filler)
            filler.unlink()
            farm.conclude()
            assert_nobody_ended(farm)


def why_quarantined(farm: Farm) -> str:
    """Why the first of the workers claims nothing; empty where it does."""
    [worker, *_] = farm.store.workers(alive_only=False)
    return worker.quarantined or ""


def run_into_it(farm: Farm, disk: Path, filler: Path) -> None:
    """Gives enough room to begin, and too little for all that is built: 10 MiB of weights, and as much again."""
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - (17 << 20))
    farm.until(lambda: lost(farm) > 0)
    disks.fill(disk)
    farm.faults += 1
    farm.until(lambda: why_quarantined(farm))
    farm.rest(4)
    assert not farm.finished()
