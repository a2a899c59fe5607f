"""Hostile input at every door: refused with words, nothing touched but the farm's own, and the work goes on."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from hypothesis import given
from typer.testing import CliRunner, Result

from farm import building, queue, weights
from farm.errors import BadInput
from farm.measurement import Operator, Outcome
from farm.recipe import Choice, Recipe
from farm.settings import Settings
from farm.spec import JobSpec, Matrix, job, validated
from producer import request
from producer.__main__ import app as producer_door
from results_store import records
from results_store.__main__ import app as store_door
from results_store.collate import Collated, collate, export
from results_store.database import Database
from results_store.schema import cells, runs
from results_store.store import Ending, State, Store, open_store
from results_store.watch import Watch
from tests import factories
from tests.faults import farms, hostile
from tests.faults.farms import Farm, Farms
from tests.faults.invariants import is_done
from workers.__main__ import main as serve

ROOT = Path(__file__).resolve().parents[2]

worker_door = typer.Typer()
worker_door.command()(serve)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which nothing is left, beside a folder that stays as it is."""
    for name in [name for name in os.environ if name.startswith(("FARM_", "CELERY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FARM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FARM_LOCK_DIR", str(tmp_path / "data" / "locks"))
    outside, home = tmp_path / "outside", tmp_path / "home"
    for folder in (outside / "images" / "a", outside / "images" / "b", home / "folder.pt", tmp_path / "data"):
        folder.mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / "secret.pt").write_text("secret")
    (home / "device.pt").symlink_to("/dev/zero")
    (home / "link").symlink_to(outside / "secret.txt")
    os.mkfifo(home / "pipe.pt")
    (tmp_path / "data" / "datasets").mkdir()
    (tmp_path / "data" / "datasets" / "loop").symlink_to("loop")
    monkeypatch.chdir(home)
    before, of_home = tree(outside), set(tree(home))
    yield home
    assert tree(outside) == before
    assert set(tree(home)) == of_home


def tree(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Everything in a folder, links not followed: mode, size, time of change, and what is in it."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        seen = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (seen.st_mode, seen.st_size, seen.st_mtime_ns, content)
    return found


def called(door: typer.Typer, *arguments: str) -> Result:
    result = CliRunner().invoke(door, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert "Traceback" not in result.output
    return result


def refused(door: typer.Typer, *arguments: str) -> str:
    """What is said of these arguments, which are not taken."""
    result = called(door, *arguments)
    assert result.exit_code == 2, result.output
    assert_clear(result.stderr)
    return result.stderr


def assert_clear(message: str) -> None:
    assert message.strip()
    assert len(message) < 20_000


# ---- specs, matrices, files and flags: 350 of 500; the other 150 are messages, below

MATRIX = {"models": ["resnet18"], "optimizations": ["baseline"], "batch_sizes": [1], "devices": ["cpu"], "seed": 0}


@hostile.seeded(100)
@given(fields=hostile.bent(hostile.SPEC))
def test_a_bent_spec_is_refused_with_words_or_is_a_whole_one(fields: dict[str, Any]) -> None:
    try:
        spec = validated(JobSpec, fields)
    except BadInput as error:
        assert_clear(str(error))
    else:
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@hostile.seeded(50)
@given(fields=hostile.bent(MATRIX))
def test_a_bent_matrix_is_refused_with_words_or_is_a_whole_one(fields: dict[str, Any]) -> None:
    try:
        matrix = validated(Matrix, fields)
    except BadInput as error:
        assert_clear(str(error))
    else:
        assert Matrix.model_validate_json(matrix.canonical()) == matrix


@hostile.seeded(100)
@given(content=hostile.files)
def test_a_strange_matrix_file_is_refused_with_words_or_is_a_matrix(home: Path, content: bytes) -> None:
    file = home.parent / "data" / "matrix.toml"
    file.write_bytes(content)
    try:
        request.weights_file({}, file)
        request.matrix({}, file)
    except BadInput as error:
        assert_clear(str(error))


@hostile.seeded(100)
@given(flags=hostile.flags)
def test_strange_flags_are_refused_with_words_or_make_a_matrix(home: Path, flags: list[str]) -> None:
    result = called(producer_door, "submit-matrix", *flags, "--dry-run")
    assert result.exit_code in (0, 2), result.output
    assert_clear(result.output)


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_hostile_matrix_file_is_refused(home: Path, name: str) -> None:
    file = home.parent / "data" / "matrix.toml"
    file.write_bytes(hostile.FILES[name])
    refused(producer_door, "submit-matrix", "--local", "--matrix", str(file))


@pytest.mark.parametrize("flags", hostile.FLAGS, ids=lambda flags: " ".join(flags)[:60])
def test_hostile_flags_are_refused(home: Path, flags: Sequence[str]) -> None:
    refused(producer_door, "submit-matrix", "--local", *flags)


def test_there_are_forty_made_by_hand() -> None:
    assert sum(map(len, (hostile.MESSAGES, hostile.ROWS, hostile.FILES, hostile.FLAGS))) >= 40


# ---- paths

SUBMIT = ("submit-matrix", "--local", "--optimizations", "baseline")
LONG = "x" * 5000

#: A door, what it is told, and what it says.
PATHS: dict[str, tuple[typer.Typer, tuple[str, ...], str]] = {
    "a model above": (producer_door, (*SUBMIT, "--models", "../../outside/secret.txt"), "Unknown model"),
    "an absolute model": (producer_door, (*SUBMIT, "--models", "/etc/passwd"), "Unknown model"),
    "a model that looks alike": (producer_door, (*SUBMIT, "--models", "r\u0435snet18"), "mean 'resnet18'"),
    "a very long model": (producer_door, (*SUBMIT, "--models", LONG), "Unknown model"),
    "a device with a path": (producer_door, (*SUBMIT, "--devices", "cuda.../../x"), "Unknown device"),
    "a dataset above": (producer_door, (*SUBMIT, "--dataset", "image_folder:../../outside/images"), "inside"),
    "an absolute dataset": (producer_door, (*SUBMIT, "--dataset", "image_folder:/etc"), "inside"),
    "a dataset down and up": (producer_door, (*SUBMIT, "--dataset", "image_folder:a/../../../outside"), "inside"),
    "dots that look alike": (
        producer_door,
        (*SUBMIT, "--dataset", "image_folder:\u2024\u2024/outside"),
        "no folder",
    ),
    "a very long dataset": (producer_door, (*SUBMIT, "--dataset", f"image_folder:{LONG}"), "inside"),
    "a dataset that turns text around": (producer_door, (*SUBMIT, "--dataset", "image_folder:\u202ea"), "inside"),
    "a link that leads to itself": (producer_door, (*SUBMIT, "--dataset", "image_folder:loop"), "no folder"),
    "a folder where none belongs": (producer_door, (*SUBMIT, "--dataset", "digits:../../outside"), "no folder"),
    "weights of no kind": (producer_door, (*SUBMIT, "--weights", "../outside/secret.txt"), "ends in"),
    "weights that are a device": (producer_door, (*SUBMIT, "--weights", "device.pt"), "no file"),
    "weights that are a pipe": (producer_door, (*SUBMIT, "--weights", "pipe.pt"), "no file"),
    "weights that are a folder": (producer_door, (*SUBMIT, "--weights", "folder.pt"), "no file"),
    "weights of nobody": (producer_door, (*SUBMIT, "--weights", "~nobody-has-this-name/x.pt"), "not there"),
    "very long weights": (producer_door, (*SUBMIT, "--weights", f"{LONG}.pt"), "too long"),
    "a digest that is a path": (producer_door, (*SUBMIT, "--weights", "sha256:../../outside"), "Unknown weights"),
    "results among processes": (
        producer_door,
        (*SUBMIT, "--output-dir", "/proc/self/fdinfo"),
        "cannot be written",
    ),
    "results on a device": (producer_door, (*SUBMIT, "--output-dir", "/dev/null/x"), "cannot be written"),
    "results through a link": (producer_door, (*SUBMIT, "--output-dir", "link/x"), "cannot be written"),
    "results of a very long name": (producer_door, (*SUBMIT, "--output-dir", LONG), "cannot be written"),
    "a run above": (producer_door, ("status", "../../outside"), "Unknown run"),
    "a run to collate above": (store_door, ("collate", "../../outside"), "Unknown run"),
    "a format that is a path": (store_door, ("collate", "--format", "../../outside/x"), "Unknown exporter"),
    "a worker above": (worker_door, ("--device", "cpu", "--name", "../../outside/x"), "not possible"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_trick_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert len(PATHS) >= 20
    door, arguments, said = PATHS[name]
    if door is worker_door:
        monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    assert said in refused(door, *arguments)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{tmp_path}/data/farm.db")) as store:
        store.register(factories.worker())
        yield store


def test_a_run_whose_name_was_made_a_path_is_written_nowhere(home: Path, store: Store) -> None:
    run_id = factories.submitted(store)
    factories.measure_all(store, "cpu@alpha")
    edit(home, sa.update(runs).where(runs.c.run_id == run_id).values(run_id="../../outside/escaped"))
    assert "../../outside/escaped" in refused(store_door, "collate")
    complaints: list[str] = []
    watch = Watch(lambda: store, home.parent / "data", ["csv"], say=complaints.append, complain=complaints.append)
    watch.step()
    assert "cannot be written" in complaints[0]


def edit(home: Path, statement: sa.Executable) -> None:
    """What somebody with the database's file may do."""
    engine = sa.create_engine(f"sqlite:///{home.parent}/data/farm.db")
    with engine.begin() as connection:
        assert connection.execute(statement).rowcount == 1
    engine.dispose()


def test_results_replace_a_link_and_do_not_follow_it(home: Path, store: Store) -> None:
    run_id = factories.submitted(store)
    factories.measure_all(store, "cpu@alpha")
    folder = home.parent / "results"
    folder.mkdir()
    (folder / "benchmark_results.csv").symlink_to(home.parent / "outside" / "secret.txt")
    (folder / "profiles").symlink_to(home.parent / "outside")
    assert not export(collate(store, run_id), folder, "csv").is_symlink()
    with pytest.raises(BadInput, match="not the farm's"):
        export(collate(store, run_id), folder, "profiles")


@pytest.mark.parametrize("name", ["profiles", "tensorboard"])
def test_traces_and_logs_stay_in_their_folder_whatever_a_cell_is_called(
    home: Path, store: Store, name: str
) -> None:
    results = home.parent / "results"
    # Refused, or written beneath a name that is none of a path: either will do.
    with contextlib.suppress(BadInput):
        export(saying(store, "../../../outside/escaped"), results, name)
    assert [path for path in home.parent.rglob("*escaped*") if results / name not in path.parents] == []


# ---- messages and rows, in a farm that goes on


def test_hostile_messages_are_discarded_and_a_good_job_is_measured_afterwards(farms_of: Farms) -> None:
    with farms_of.begin("input: messages") as farm, farm.redis.client() as client:
        farm.start("one")
        farm.submit(1)
        farm.until(farm.finished)
        worker = farm.workers["one"]
        before = worker.pid, worker.pool_process, worker.reconciler
        good = good_message(farm)
        by_hand = [made(good) for made in hostile.MESSAGES.values()]
        for raw in (*by_hand, *hostile.drawn(hostile.messages(good), 150)):
            client.lpush("cpu", raw)
            farm.until(lambda: not client.llen("cpu"), within_s=20, every_s=0.002)
            farm.faults += 1
        farm.submit(2)
        farm.conclude()
        assert (worker.pid, worker.starts) == (before[0], 1)
        assert "Traceback" not in worker.log
        assert worker.log.count("discarded a message") >= len(by_hand) - 5
        assert not (ROOT / "pwned").exists()


def good_message(farm: Farm) -> dict[str, Any]:
    """A message as the farm sends it, for a job that nobody has submitted."""
    queue.publish(farm.redis.url, {"elsewhere": ["20200101-000000-ffff.000000"]})
    with farm.redis.client() as client:
        return dict(json.loads(client.rpop("elsewhere")))


def test_a_row_that_somebody_edited_ends_its_job_with_a_reason_and_no_other(
    farms_of: Farms, monkeypatch: pytest.MonkeyPatch
) -> None:
    with farms_of.begin("input: edited rows") as farm:
        edited = {farm.submit(1, messages=0): edit for edit in hostile.ROWS.values()}
        for run_id, edit_row in edited.items():
            edit_spec(farm, run_id, edit_row)
            farm.faults += 1
        last = farm.submit(3)
        farm.start("one")
        farm.until(farm.finished)
        monkeypatch.setenv("FARM_DATABASE_URL", farm.settings.database)
        monkeypatch.setenv("FARM_DATA_DIR", str(farm.folder))
        for run_id in edited:
            status = called(producer_door, "status", run_id)
            assert status.exit_code == 0
            assert "store" in status.output
        damaged = [run_id for run_id in edited if is_damaged(farm, run_id)]
        assert len(damaged) >= len(edited) - 2
        for run_id in damaged:
            assert "store" in refused(store_door, "collate", run_id)
        assert called(store_door, "collate", last, "--output-dir", str(farm.folder / "results")).exit_code == 0
        farm.conclude(
            lambda job: (
                is_done(job)
                if job.job_id.startswith(last)
                else (job.state, job.outcome, job.attempts) == (State.FAILED, Outcome.ERROR, 0)
                and "store" in job.reason
            )
        )
        assert "Traceback" not in farm.workers["one"].log


def edit_spec(farm: Farm, run_id: str, how: Callable[[dict[str, Any]], str]) -> None:
    """Changes what a run of one job is to measure, as somebody may who can write to the database."""
    row = cell_of(farm, run_id)
    with closing(Database(farm.settings.database)) as database, database.writing() as connection:
        changed = sa.update(cells).where(cells.c.run_number == row.run_number)
        assert connection.execute(changed.values(spec=how(json.loads(row.spec)))).rowcount == 1


def cell_of(farm: Farm, run_id: str) -> Any:
    """The only cell of a run."""
    of_run = cells.join(runs, runs.c.number == cells.c.run_number)
    [row] = farm.rows(sa.select(cells).select_from(of_run).where(runs.c.run_id == run_id))
    return row


def is_damaged(farm: Farm, run_id: str) -> bool:
    """Whether not even a valid cell is left."""
    try:
        records.cell(cell_of(farm, run_id).spec)
    except BadInput:
        return True
    return False


@pytest.mark.whole
def test_a_malicious_file_of_weights_ends_its_job_in_the_real_process_and_no_other(
    farms_of: Farms, tmp_path: Path
) -> None:
    with farms_of.begin("input: a malicious file of weights", child="real", lease_s=10) as farm:
        marker, file = tmp_path / "pwned", tmp_path / "evil.pt"
        file.write_bytes(malicious("archive", marker))
        value, _ = weights.named(str(file), None)
        assert value is not None
        weights.keep(value, file, farm.settings.weights)
        evil = farms.matrix(1, "evil").model_copy(update={"weights": value})
        run_id = farm.store.submit(evil, again=True).run_id
        queue.publish(farm.redis.url, farm.store.claimable(run_id))
        farm.faults += 1
        farm.start("one")
        farm.submit(2)
        farm.conclude(
            lambda job: (
                "cannot be read as weights" in job.reason if job.job_id.startswith(run_id) else is_done(job)
            )
        )
        assert not marker.exists()
        assert farm.workers["one"].starts == 1


# ---- cells that a spreadsheet would execute


def saying(store: Store, text: str) -> Collated:
    """A run, measured and failed, in which all text says this: model, recipe, reason, what workers tell."""
    run_id = factories.submitted(store, batch_sizes=(1, 2))
    measured, failed = store.claim("cpu@alpha"), store.claim("cpu@alpha")
    assert measured is not None
    assert failed is not None
    told = factories.environment(host=text, device_model=text, driver=text, packages={"torch": text})
    operators = (Operator(name=text, provider=text, calls=1, host_total_s=0.1, host_self_s=0.1),)
    store.finish(
        measured,
        factories.ok(
            measured,
            environment=told,
            evidence={"note": text, text: text},
            missing={"energy": text},
            profile=factories.profile(operators=operators),
        ),
    )
    store.finish(failed, Ending(outcome=Outcome.ERROR, reason=text))
    found = collate(store, run_id)
    named = {"model": text, "recipe": Recipe(choices=(Choice(axis="runtime", name=text),)), "dataset": text}
    rows = [replace(row, cell=row.cell.model_copy(update=named)) for row in found.rows]
    return replace(found, rows=tuple(rows))


@pytest.mark.parametrize("text", hostile.FORMULAS, ids=ascii)
def test_no_cell_of_a_csv_is_executed_by_a_spreadsheet(store: Store, tmp_path: Path, text: str) -> None:
    assert len(hostile.FORMULAS) >= 20
    made = saying(store, text)
    for name in ("csv", "detailed"):
        file = export(made, tmp_path / "results", name)
        assert [cell for cell in seen(file) if is_executed(cell)] == []
        assert text.strip()[-2:] in file.read_text()


def seen(file: Path) -> Iterator[str]:
    """Every cell that a spreadsheet may see, whichever separator its language has."""
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(file.read_text(), newline=""), delimiter=separator):
            yield from row


def is_executed(cell: str) -> bool:
    seen = "".join(itertools.dropwhile(lambda sign: unicodedata.category(sign)[0] in "ZC", cell))
    return seen.startswith(hostile.STARTS) and not is_number(seen)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- files that run code when they are read


class Evil:
    """Its pickle makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def malicious(trick: str, marker: Path) -> bytes:
    """A file of weights that runs code where whoever reads it trusts it, or that has no end."""
    plain = pickle.dumps(Evil(marker))
    if trick == "archive":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"weight": Evil(marker)}, protocol=2))
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
        return made.getvalue()
    if trick == "endless header":
        return struct.pack("<Q", 2**62) + b'{"a":' + b"[" * 1000
    return plain


TRICKS = {
    "pickle": "evil.pt",
    "archive": "evil.pth",
    "endless header": "evil.safetensors",
    "misnamed": "evil.safetensors",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_malicious_file_of_weights_is_refused_and_runs_nothing(tmp_path: Path, trick: str) -> None:
    settings, marker = Settings(data_dir=tmp_path / "data"), tmp_path / "pwned"
    file = tmp_path / TRICKS[trick]
    file.write_bytes(malicious(trick, marker))
    value, _ = weights.named(str(file), None)
    assert value is not None
    weights.keep(value, file, settings.weights)
    spec = job(model="resnet18", dataset="synthetic", image_size=32, weights=value)
    with pytest.raises(BadInput, match="cannot be read as weights"):
        building.build(spec, settings)
    assert not marker.exists()


@pytest.mark.whole
def test_the_door_says_so_with_2(tmp_path: Path) -> None:
    marker, file = tmp_path / "pwned", tmp_path / "evil.pt"
    file.write_bytes(malicious("archive", marker))
    asked = ("--model", "resnet18", "--dataset", "synthetic", "--image-size", "32", "--weights", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "farm", "measure", *asked],
        env={**os.environ, "FARM_DATA_DIR": str(tmp_path / "data")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be read as weights" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_a_malicious_file_in_a_dataset_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    settings, marker = Settings(data_dir=tmp_path / "data"), tmp_path / "pwned"
    for place in ("train/a", "train/b", "test/a", "test/b"):
        folder = settings.datasets / "evil" / place
        folder.mkdir(parents=True)
        for name in ("evil.pt", "evil.png"):
            (folder / name).write_bytes(malicious("pickle", marker))
    spec = job(model="resnet18", dataset="image_folder:evil", image_size=32)
    with pytest.raises(BadInput, match="cannot be read"):
        building.build(spec, settings)
    assert not marker.exists()
