"""The standing collator: what it writes and when, what it leaves alone, and what it survives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import sqlalchemy as sa

from farm.errors import BadInput, Unreachable
from results_store import schema, watch
from results_store.collate import collate
from results_store.exporters import csv, detailed, profiles, report
from results_store.store import Store
from results_store.watch import STAMP, LateStore, Watch
from tests import factories

ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """A watch whose clock stands still, and what it said."""

    def __init__(self, store: Callable[[], Store], folder: Path, **fields: Any) -> None:
        self.said: list[str] = []
        self.complaints: list[str] = []
        self.now = 0.0
        self.results = folder / "results"
        formats = fields.pop("formats", ("csv",))
        self.watch = Watch(
            store,
            self.results,
            formats,
            say=self.said.append,
            complain=self.complaints.append,
            clock=lambda: self.now,
            **fields,
        )

    def step(self) -> list[str]:
        """What one round says."""
        self.said.clear()
        self.watch.step()
        return list(self.said)

    def table(self, run_id: str) -> str:
        return (self.results / run_id / csv.FILE).read_text()


def ended(store: Store, **fields: Any) -> str:
    run = store.submit(factories.matrix(**fields), again=True).run_id
    factories.measure_all(store, "cpu@alpha")
    return run


def test_a_run_is_written_once_it_has_ended_and_then_left_alone(store: Store, tmp_path: Path) -> None:
    desk = Desk(lambda: store, tmp_path, formats=("csv", "tensorboard"))
    run = store.submit(factories.matrix(repeats=2)).run_id
    assert desk.step() == []
    factories.measure_all(store, "cpu@alpha")
    folder = desk.results / run
    assert desk.step() == [f"Run {run}: {folder / csv.FILE}, {folder / 'tensorboard'}"]
    assert ",ok,VALID," in desk.table(run)
    assert list((folder / "tensorboard").rglob("*tfevents*"))
    before = folder.stat().st_mtime_ns
    assert desk.step() == []
    assert folder.stat().st_mtime_ns == before
    assert desk.complaints == []


def test_a_run_that_was_resumed_and_has_ended_again_is_written_again(store: Store, tmp_path: Path) -> None:
    desk = Desk(lambda: store, tmp_path)
    run = store.submit(factories.matrix()).run_id
    store.cancel(run)
    assert len(desk.step()) == 1
    assert ",cancelled," in desk.table(run)
    store.resume(run)
    assert desk.step() == []
    factories.measure_all(store, "cpu@alpha")
    assert len(desk.step()) == 1
    assert ",ok,VALID," in desk.table(run)


def test_resuming_is_noticed_also_between_two_rounds(store: Store, tmp_path: Path) -> None:
    desk = Desk(lambda: store, tmp_path)
    run = store.submit(factories.matrix()).run_id
    store.cancel(run)
    desk.step()
    store.resume(run)
    factories.measure_all(store, "cpu@alpha")
    assert len(desk.step()) == 1


def test_what_another_process_wrote_is_not_written_again_but_what_is_missing_is(
    store: Store, tmp_path: Path
) -> None:
    run = ended(store)
    assert len(Desk(lambda: store, tmp_path).step()) == 1
    assert Desk(lambda: store, tmp_path).step() == []
    both = Desk(lambda: store, tmp_path, formats=("csv", "tensorboard"))
    assert len(both.step()) == 1
    shutil.rmtree(both.results / run / "tensorboard")
    assert len(both.step()) == 1
    shutil.rmtree(both.results)
    assert len(both.step()) == 1


@pytest.mark.parametrize("found", ["", "3", '{"csv": 1.0}', '{"csv": "x"}'])
def test_a_note_that_says_nothing_means_that_nothing_is_written(store: Store, tmp_path: Path, found: str) -> None:
    run = ended(store)
    Desk(lambda: store, tmp_path).step()
    (tmp_path / "results" / run / STAMP).write_text(found)
    assert len(Desk(lambda: store, tmp_path).step()) == 1


def test_a_file_that_somebody_else_put_there_is_not_taken_for_ours(store: Store, tmp_path: Path) -> None:
    run = ended(store)
    desk = Desk(lambda: store, tmp_path)
    (desk.results / run).mkdir(parents=True)
    (desk.results / run / csv.FILE).touch()
    assert len(desk.step()) == 1
    assert ",ok,VALID," in desk.table(run)


def test_an_idle_round_asks_the_database_once_however_many_runs_there_are(store: Store, tmp_path: Path) -> None:
    desk = Desk(lambda: store, tmp_path)
    for _ in range(5):
        ended(store)
    assert len(desk.step()) == 5
    asked: list[str] = []
    sa.event.listen(store._database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert desk.step() == []
    assert len([text for text in asked if text.startswith("SELECT")]) == 1


def test_a_run_that_cannot_be_written_stops_no_other_and_is_tried_again_less_and_less_often(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = ended(store), ended(store, batch_sizes=(8,))
    tried: list[float] = []

    def breaks(store: Store, run_id: str) -> Any:
        if run_id == bad:
            tried.append(desk.now)
            raise KeyError("x")
        return collate(store, run_id)

    monkeypatch.setattr(watch, "collate", breaks)
    desk = Desk(lambda: store, tmp_path)
    assert [line.split(":")[0] for line in desk.step()] == [f"Run {good}"]
    [complaint] = desk.complaints
    assert complaint.startswith(f"Run {bad} cannot be written")
    assert complaint.endswith("KeyError: 'x'")
    for desk.now in (1.0, 5.0, 6.0, 14.0, 15.0):
        desk.step()
    assert tried == [0.0, 5.0, 15.0]
    assert desk.complaints == [complaint]
    monkeypatch.setattr(watch, "collate", collate)
    desk.now = 1000.0
    assert len(desk.step()) == 1


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_is_collated_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(store)
    ended(store, batch_sizes=(8,))
    (tmp_path / "results").touch()
    desk = Desk(lambda: store, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "collate", lambda *_: pytest.fail("collated for a folder that cannot be written"))
        for _ in range(3):
            assert desk.step() == []
    [complaint] = desk.complaints
    assert "results cannot be written" in complaint
    assert "--output-dir" in complaint
    (tmp_path / "results").unlink()
    assert len(desk.step()) == 2
    assert desk.complaints[1:] == [f"Results folder {tmp_path / 'results'} is well again."]


def test_a_database_that_is_away_for_a_while_is_said_once_and_no_sign_of_life_is_given(
    store: Store, tmp_path: Path
) -> None:
    there = False

    def late() -> Store:
        if not there:
            raise Unreachable("Database does not answer.")
        return store

    ended(store)
    health = tmp_path / "run" / "health"
    desk = Desk(late, tmp_path, health_file=health)
    for _ in range(3):
        assert desk.step() == []
    assert desk.complaints == ["Database does not answer. Trying again until it does."]
    assert not health.exists()
    there = True
    assert len(desk.step()) == 1
    assert desk.complaints[1:] == ["The database is well again."]
    assert health.exists()


def test_a_database_that_goes_away_while_a_run_is_collated_does_not_put_the_run_off(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise Unreachable("Database does not answer.")

    ended(store)
    desk = Desk(lambda: store, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "collate", away)
        assert desk.step() == []
    assert desk.complaints == ["Database does not answer. Trying again until it does."]
    assert len(desk.step()) == 1


def test_a_sign_of_life_is_given_in_every_round_and_trouble_with_it_stops_nothing(
    store: Store, tmp_path: Path
) -> None:
    health = tmp_path / "health"
    desk = Desk(lambda: store, tmp_path, health_file=health)
    desk.step()
    os.utime(health, (0, 0))
    desk.step()
    assert health.stat().st_mtime > 0
    (tmp_path / "file").touch()
    ill = Desk(lambda: store, tmp_path, health_file=tmp_path / "file" / "health")
    ended(store)
    assert len(ill.step()) == 1
    [complaint] = ill.complaints
    assert "FARM_HEALTH_FILE" in complaint


def test_an_exporter_that_does_not_exist_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Did you mean 'csv'"):
        Desk(lambda: store, tmp_path, formats=("cvs",))


def test_a_late_store_is_opened_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "farm").touch()
    with closing(LateStore(f"sqlite:///{tmp_path}/farm/farm.db")) as late:
        with pytest.raises(Unreachable):
            late()
        (tmp_path / "farm").unlink()
        assert late() is late()
        assert late().ended_runs() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_service_writes_what_ends_and_stops_quietly(store: Store, tmp_path: Path, number: int) -> None:
    run = ended(store)
    health, port = tmp_path / "health", free_port()
    command = [sys.executable, "-m", "results_store", "collate", "--watch", "--every", "0.1"]
    environment = {
        **os.environ,
        "FARM_DATABASE_URL": f"sqlite:///{tmp_path}/farm.db",
        "FARM_HEALTH_FILE": str(health),
    }
    with subprocess.Popen(
        [*command, "--output-dir", tmp_path / "results", "--metrics-port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        files = [tmp_path / "results" / run / exporter.FILE for exporter in (csv, detailed, profiles, report)]
        assert process.stdout.readline() == f"Run {run}: {', '.join(map(str, files))}\n"
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b'farm_runs{state="ended"} 1.0' in answer.read()
        assert health.exists()
        began = time.monotonic()
        process.send_signal(number)
        rest = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, ("", ""))
    assert time.monotonic() - began < 5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_named_run_is_written_into_a_folder_of_its_name(store: Store, tmp_path: Path) -> None:
    desk = Desk(lambda: store, tmp_path)
    run = store.submit(factories.matrix(), name="nightly").run_id
    factories.measure_all(store, "cpu@alpha")
    assert desk.step() == [f"Run nightly ({run}): {desk.results / 'nightly' / csv.FILE}"]
    assert desk.step() == []
    assert [folder.name for folder in desk.results.iterdir()] == ["nightly"]


def test_a_name_that_was_put_into_the_database_leads_nowhere_else(store: Store, tmp_path: Path) -> None:
    run = ended(store)
    with store._database.writing() as connection:
        connection.execute(sa.update(schema.runs).values(name="../escaped"))
    desk = Desk(lambda: store, tmp_path)
    desk.step()
    assert (desk.results / run / csv.FILE).exists()
    assert not (tmp_path / "escaped").exists()
