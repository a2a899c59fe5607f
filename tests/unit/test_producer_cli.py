from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from farm.measurement import Outcome
from producer.__main__ import app
from results_store.store import Ending, open_store
from tests import factories


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without broker or database."""
    for name in (
        "CELERY_BROKER_URL",
        "FARM_DATABASE_URL",
        "FARM_DATA_DIR",
        "FARM_DATASETS_DIR",
        "FARM_WEIGHTS_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def submit(*arguments: str) -> Result:
    return called("submit-matrix", *arguments)


def empty(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optimizations", "baseline", "--batch-sizes", "abc"], "--batch-sizes"),
        (["--optimizations", "baseline", "--batch-sizes", "0"], "--batch-sizes"),
        (["--optimizations", "baseline", "--batch-sizes=-1"], "--batch-sizes"),
        (["--optimizations", "baseline", "--batch-sizes", "1000000000"], "65536"),
        (["--optimizations", "baselin"], "'baseline'"),
        (["--optimizations", "baseline", "--models", "densnet121"], "'densenet121'"),
        (["--optimizations", "baseline", "--models", ""], "empty"),
        (["--optimizations", "baseline", "--protocol", "quik"], "'quick'"),
        (["--optimizations", "baseline", "--repeats", "many"], "--repeats"),
        (["--optimisations", "baseline"], "--optimizations"),
        (["--matrix", "missing.toml"], "missing.toml"),
        (["--optimizations", "baseline", "--set", "min_calls=0"], "--set min_calls"),
        (["--optimizations", "baseline", "--eval-samples", "0"], "--eval-samples 0"),
        (["--optimizations", "baseline", "--weights", "gone.pth"], "gone.pth is not there"),
        (["--optimizations", "baseline", "--weights", "/etc/hostname", "--sha256", "0"], "ends in .safetensors"),
        ([], "--optimizations"),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--local"], ["--dry-run"]])
def test_a_wrong_request_ends_with_2_and_one_message_and_leaves_nothing(
    place: Path, arguments: list[str], said: str, mode: list[str]
) -> None:
    result = submit(*arguments, *mode)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert empty(place)


def test_a_dry_run_counts_controls_apart_from_the_jobs(place: Path) -> None:
    asked = ("--batch-sizes", "1,2,4", "--optimizations", "baseline,amp", "--protocol", "quick")
    result = submit(*asked, "--repeats", "2", "--dry-run")
    assert "6 cells × 2 repeats = 12 jobs + 4 controls, about" in result.stdout
    assert empty(place)


def test_a_dry_run_prints_cells_and_jobs_and_needs_nothing(place: Path) -> None:
    result = submit("--optimizations", "baseline,channels_last+amp", "--repeats", "3", "--dry-run")
    assert result.exit_code == 0
    assert "6 cells × 3 repeats = 18 jobs, about" in result.stdout
    assert "channels_last+amp" in result.stdout
    assert empty(place)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "1024"], "--threads 1024: this host has"),
        (["--workers", "1000"], "--workers 1000: with"),
        (["--devices", "cpu,cuda.none"], "cuda.none"),
    ],
)
def test_a_dry_run_refuses_what_this_host_could_not_measure(place: Path, arguments: list[str], said: str) -> None:
    result = submit("--optimizations", "baseline", *arguments, "--local", "--dry-run")
    assert result.exit_code == 2
    assert said in result.stderr
    assert empty(place)


def test_a_dry_run_tells_of_a_changed_protocol(place: Path) -> None:
    changed = ["--set", "min_calls=100", "--set", "warmup_min_calls=10"]
    result = submit("--optimizations", "baseline", "--protocol", "quick", *changed, "--dry-run")
    assert result.exit_code == 0
    assert "protocol quick+;" in result.stdout


def test_without_a_broker_both_ways_out_are_named(place: Path) -> None:
    result = submit("--optimizations", "baseline")
    assert result.exit_code == 3
    assert "--local" in result.stderr
    assert "CELERY_BROKER_URL" in result.stderr
    assert empty(place)


def test_a_broker_that_does_not_answer_ends_with_3_and_hides_its_password(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:geheim@127.0.0.1:1/0")
    for mode in ([], ["--local"]):
        result = submit("--optimizations", "baseline", *mode)
        assert result.exit_code == 3
        assert "127.0.0.1:1" in result.stderr
        assert "geheim" not in result.output
    assert empty(place)


def test_a_database_that_does_not_answer_ends_with_3(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", "postgresql://farm:geheim@127.0.0.1:1/farm")
    result = submit("--optimizations", "baseline", "--local")
    assert result.exit_code == 3
    assert "geheim" not in result.output
    assert empty(place)


def test_an_output_directory_that_cannot_be_written_is_refused_before_anything_is(place: Path) -> None:
    (place / "file").write_text("")
    result = submit("--optimizations", "baseline", "--local", "--output-dir", "file/results")
    assert result.exit_code == 2
    assert "--output-dir file/results" in result.stderr
    assert [path.name for path in place.iterdir()] == ["file"]


def test_processors_that_this_host_does_not_have_are_refused(place: Path) -> None:
    result = submit("--optimizations", "baseline", "--local", "--threads", "1000")
    assert result.exit_code == 2
    assert "--threads 1000" in result.stderr
    assert empty(place)


def test_a_device_that_this_host_does_not_have_is_refused_with_what_is_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.devices.nvml.gpus", lambda: ())
    result = submit("--optimizations", "baseline", "--local", "--devices", "cpu,cuda")
    assert result.exit_code == 2
    assert "it has: cpu" in result.stderr
    assert empty(place)


def test_an_image_folder_that_is_not_here_is_named(place: Path) -> None:
    result = submit("--optimizations", "baseline", "--local", "--dataset", "image_folder:mine")
    assert result.exit_code == 2
    assert str(place / ".farm" / "datasets" / "mine") in result.stderr
    assert empty(place)


def test_settings_that_cannot_be_read_are_explained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_LEASE_S", "long")
    result = called("status")
    assert result.exit_code == 2
    assert "lease_s" in result.stderr.lower()


@pytest.mark.parametrize("command", ["status", "watch", "resume", "cancel", "retry"])
def test_a_run_that_is_not_there_is_named(place: Path, command: str) -> None:
    mode = {"resume": ["--local"], "retry": ["--failed", "--local"]}.get(command, [])
    result = called(command, "20990101-000000-abcd", *mode)
    assert result.exit_code == 2
    assert "20990101-000000-abcd" in result.stderr


@pytest.mark.parametrize("command", ["submit-matrix", "status", "watch", "resume", "cancel", "retry"])
def test_the_help_of_every_command_has_examples(command: str) -> None:
    result = called(command, "--help")
    assert result.exit_code == 0
    assert f"python -m producer {command}" in result.stdout


def test_status_lists_runs_and_says_how_one_stands(place: Path) -> None:
    store = open_store(f"sqlite:///{place}/.farm/farm.db")
    run = store.submit(factories.matrix(batch_sizes=(1, 2))).run_id
    store.register(factories.worker())
    claim = store.claim("cpu@alpha")
    assert claim is not None
    store.finish(claim, factories.ok(claim))
    everything = called("status")
    assert run in everything.stdout
    assert "cpu@alpha" in everything.stdout
    one = called("status", "latest")
    assert "[1/2 jobs]" in one.stdout
    store.close()


def test_a_cancelled_run_ends_with_1_and_can_be_watched_to_its_end(place: Path) -> None:
    store = open_store(f"sqlite:///{place}/.farm/farm.db")
    run = store.submit(factories.matrix(batch_sizes=(1, 2))).run_id
    cancelled = called("cancel", run)
    assert cancelled.exit_code == 0
    assert "2 waiting jobs cancelled" in cancelled.stdout
    watched = called("watch", run)
    assert watched.exit_code == 1
    assert "2 cancelled" in watched.stdout
    store.close()


@pytest.mark.parametrize("mode", [[], ["--local"], ["--dry-run"]])
def test_a_file_of_weights_with_another_digest_ends_with_2_and_leaves_nothing(
    place: Path, mode: list[str]
) -> None:
    (place / "mine.pth").write_bytes(b"x")
    result = submit("--optimizations", "baseline", "--weights", "mine.pth", "--sha256", "0" * 64, *mode)
    assert result.exit_code == 2
    assert "as --sha256 says" in result.stderr
    assert [path.name for path in place.iterdir()] == ["mine.pth"]


@pytest.mark.parametrize("mode", [["--local"], ["--local", "--dry-run"]])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--weights", "pretrained"], "dataset 'digits' has others"),
        (["--weights", f"sha256:{'a' * 64}"], "FARM_WEIGHTS_DIR"),
        (["--dataset", "image_folder:gone"], "gone"),
    ],
)
def test_weights_and_folders_that_cannot_be_are_refused_before_anything_is_queued(
    place: Path, flags: list[str], said: str, mode: list[str]
) -> None:
    result = submit("--optimizations", "baseline", *flags, *mode)
    assert result.exit_code == 2
    assert said in result.stderr
    assert empty(place)


def test_a_dry_run_tells_of_the_weights_and_keeps_none(place: Path) -> None:
    (place / "mine.pth").write_bytes(b"x")
    result = submit("--optimizations", "baseline", "--weights", "mine.pth", "--eval-samples", "all", "--dry-run")
    assert result.exit_code == 0
    assert "weights sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" in result.stdout
    assert [path.name for path in place.iterdir()] == ["mine.pth"]


def test_a_name_is_checked_before_anything_is_done(place: Path) -> None:
    for mode in ([], ["--local"], ["--dry-run"]):
        result = submit("--optimizations", "baseline", "--name", "../results", *mode)
        assert result.exit_code == 2
        assert "--name '../results'" in result.stderr
    assert empty(place)


def test_a_name_in_a_matrix_file_is_refused_with_where_it_belongs(place: Path) -> None:
    (place / "mine.toml").write_text('optimizations = ["baseline"]\nname = "nightly"\n')
    result = submit("--matrix", "mine.toml", "--dry-run")
    assert result.exit_code == 2
    assert "name the run with --name" in result.stderr


def test_status_shows_names_and_takes_them(place: Path) -> None:
    with closing(open_store(f"sqlite:///{place}/.farm/farm.db")) as store:
        run = store.submit(factories.matrix(), name="nightly").run_id
    assert "nightly" in called("status").stdout
    assert f"Run nightly ({run}):" in called("status", "nightly").stdout
    wrong = called("status", "nightli")
    assert wrong.exit_code == 2
    assert "Did you mean 'nightly'" in wrong.stderr
    assert "producer resume nightly" in called("cancel", "nightly").stdout
    assert "1 cancelled" in called("watch", "nightly").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--failed"),
        (["--remeasure", "suspicious"], "Did you mean 'suspect'"),
        (["--remeasure", "VALID"], "Possible: invalid, suspect"),
        (["--failed", "--workers", "2"], "--workers belongs to --local"),
    ],
)
def test_a_retry_of_nothing_or_of_an_unknown_verdict_ends_with_2(
    place: Path, arguments: list[str], said: str
) -> None:
    result = called("retry", "latest", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert empty(place)


def test_a_run_with_failed_jobs_says_how_to_try_them_again(place: Path) -> None:
    with closing(open_store(f"sqlite:///{place}/.farm/farm.db")) as store:
        store.submit(factories.matrix(), name="nightly")
        store.register(factories.worker())
        claim = store.claim("cpu@alpha")
        assert claim is not None
        store.finish(claim, Ending(outcome=Outcome.ERROR, reason="KeyError"))
    for command in ("status", "watch"):
        assert "1 job has failed. Try again: python -m producer retry nightly --failed" in (
            called(command, "nightly").stdout
        )


def test_a_run_that_has_ended_is_not_said_to_be_cancelled(place: Path) -> None:
    with closing(open_store(f"sqlite:///{place}/.farm/farm.db")) as store:
        store.submit(factories.matrix(), name="nightly")
        store.register(factories.worker())
        assert factories.measure_all(store, "cpu@alpha") == 1
    ended = called("cancel", "nightly")
    assert ended.exit_code == 0
    assert "has ended already: nothing of it waits or runs" in ended.stdout
    assert "resume" not in ended.stdout


def test_a_run_that_is_cancelled_twice_says_both_times_how_to_bring_it_back(place: Path) -> None:
    with closing(open_store(f"sqlite:///{place}/.farm/farm.db")) as store:
        store.submit(factories.matrix(batch_sizes=(1, 2)), name="nightly")
    assert "2 waiting jobs cancelled" in called("cancel", "nightly").stdout
    for command in ("cancel", "status", "watch"):
        said = called(command, "nightly").stdout
        assert "2 jobs were cancelled. Bring back: python -m producer resume nightly" in said


def test_status_shows_why_a_worker_does_not_serve(place: Path) -> None:
    with closing(open_store(f"sqlite:///{place}/.farm/farm.db")) as store:
        run = store.submit(factories.matrix()).run_id
        store.register(factories.worker())
        assert " yes" in called("status").stdout
        store.quarantine("cpu@alpha", "crashed: SIGBUS")
    assert "crashed: SIGBUS" in called("status").stdout
    assert "cpu@alpha is quarantined and claims nothing: crashed: SIGBUS" in called("status", run).stdout
