"""The producer against a real Redis and a real store, with workers that only the store knows."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from farm import queue
from farm.measurement import Outcome
from farm.settings import Settings
from producer import local
from producer.__main__ import app
from results_store.__main__ import app as results_app
from results_store.store import Ending, Store, open_store
from results_store.values import State
from tests import factories
from tests.redis_servers import RedisServer, eventually, redis_server

MATRIX = ("--optimizations", "baseline", "--batch-sizes", "1,2,4", "--protocol", "quick")


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        monkeypatch.setenv("CELERY_BROKER_URL", server.url)
        monkeypatch.setenv("FARM_DATA_DIR", str(tmp_path / "farm"))
        monkeypatch.delenv("FARM_DATABASE_URL", raising=False)
        yield server


@pytest.fixture
def store(redis: RedisServer, tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{tmp_path}/farm/farm.db")) as found:
        yield found


def called(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def waiting(redis: RedisServer) -> set[str]:
    return queue.waiting_jobs(redis.url, "cpu")


def test_a_file_of_weights_is_kept_and_the_jobs_name_its_digest(
    redis: RedisServer, store: Store, tmp_path: Path
) -> None:
    file, digest = tmp_path / "mine.safetensors", hashlib.sha256(b"weights").hexdigest()
    file.write_bytes(b"weights")
    wrong = called("submit-matrix", *MATRIX, "--weights", str(file), "--sha256", "1" * 64)
    assert wrong.exit_code == 2
    assert store.runs() == []
    assert waiting(redis) == set()
    assert not (tmp_path / "farm/weights").exists()
    result = called("submit-matrix", *MATRIX, "--weights", str(file), "--sha256", digest, "--eval-samples", "all")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "farm/weights").iterdir()] == [f"{digest}.safetensors"]
    [run] = store.runs()
    assert f'"weights":"sha256:{digest}"' in run.matrix_json
    assert len(waiting(redis)) == 3


def test_a_submission_sends_one_message_for_each_job_and_says_what_is_missing(
    redis: RedisServer, store: Store
) -> None:
    result = called("submit-matrix", *MATRIX)
    assert result.exit_code == 0
    run_id = store.run("latest").run_id
    assert waiting(redis) == {f"{run_id}.{ordinal:06d}" for ordinal in range(3)}
    assert "Queue cpu (3 jobs): no living worker serves it" in result.stdout
    for command in ("producer watch", "producer cancel", "results_store collate"):
        assert f"{command} {run_id}" in result.stdout


def test_the_same_submission_takes_the_run_up_and_sends_nothing_twice(redis: RedisServer, store: Store) -> None:
    called("submit-matrix", *MATRIX)
    result = called("submit-matrix", *MATRIX)
    assert "Taking up run" in result.stdout
    assert len(store.runs()) == 1
    assert queue.waiting(redis.url, ["cpu"]) == {"cpu": 3}


def test_messages_that_were_lost_are_sent_again(redis: RedisServer, store: Store) -> None:
    called("submit-matrix", *MATRIX)
    with redis.client() as client:
        client.flushall()
    assert called("resume", "latest").exit_code == 0
    assert len(waiting(redis)) == 3


def test_workers_that_are_required_and_missing_refuse_the_run(redis: RedisServer, store: Store) -> None:
    result = called("submit-matrix", *MATRIX, "--require-workers")
    assert result.exit_code == 2
    assert "python -m workers" in result.stderr
    assert store.runs() == []
    assert waiting(redis) == set()
    store.register(factories.worker())
    assert called("submit-matrix", *MATRIX, "--require-workers").exit_code == 0


def test_a_changed_matrix_under_a_name_is_refused_and_nothing_is_written(
    redis: RedisServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = ("--name", "nightly")
    assert called("submit-matrix", *MATRIX, *named).exit_code == 0
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    for changed in (["--batch-sizes", "8"], ["--weights", "mine.safetensors"], ["--again"]):
        result = called("submit-matrix", *MATRIX, *named, *changed)
        assert result.exit_code == 2
        assert "Nothing was submitted" in result.stderr
    assert (
        "batch_sizes: 1, 2, 4 -> 1, 2, 4, 8"
        in called("submit-matrix", *MATRIX, *named, "--batch-sizes", "8").stderr
    )
    assert len(store.runs()) == 1
    assert len(waiting(redis)) == 3
    assert not (tmp_path / "farm/weights").exists()
    assert not (tmp_path / "results").exists()


def test_the_results_of_a_named_run_go_into_a_folder_of_its_name(
    redis: RedisServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.register(factories.worker())
    result = called("submit-matrix", *MATRIX, "--name", "nightly")
    assert "producer watch nightly" in result.stdout
    assert factories.measure_all(store, "cpu@alpha") == 3
    again = called("submit-matrix", *MATRIX, "--name", "nightly")
    assert again.exit_code == 0
    assert again.stdout.splitlines()[-1] == "results/nightly/benchmark_results.csv"
    collated = CliRunner().invoke(results_app, ["collate", "nightly", "--format", "csv"])
    assert collated.stdout.splitlines() == ["results/nightly/benchmark_results.csv"]


def test_cancelled_jobs_come_back_with_resume(redis: RedisServer, store: Store) -> None:
    called("submit-matrix", *MATRIX)
    called("cancel", "latest")
    assert store.run("latest").states == {State.CANCELLED: 3}
    result = called("resume", "latest")
    assert "3 of 3 jobs wait" in result.stdout
    assert store.run("latest").states == {State.QUEUED: 3}


def test_a_named_run_that_was_cancelled_says_so_when_it_is_submitted_again(
    redis: RedisServer, store: Store, tmp_path: Path
) -> None:
    named = (*MATRIX, "--name", "nightly", "--output-dir", str(tmp_path / "out"))
    called("submit-matrix", *named)
    called("cancel", "nightly")
    again = called("submit-matrix", *named)
    assert again.exit_code == 1
    assert "3 jobs were cancelled. Bring back: python -m producer resume nightly" in again.stdout
    assert store.run("nightly").states == {State.CANCELLED: 3}


def test_failed_and_doubted_jobs_are_queued_again_and_get_their_messages(
    redis: RedisServer, store: Store, tmp_path: Path
) -> None:
    store.register(factories.worker())
    called("submit-matrix", *MATRIX, "--set", "remeasure=0")
    ends = iter([Outcome.ERROR, Outcome.OK, Outcome.UNSUPPORTED])
    while (claim := store.claim("cpu@alpha")) is not None:
        outcome = next(ends)
        spoilt = factories.ok(claim, contention=factories.contention(4.0))
        store.finish(claim, spoilt if outcome is Outcome.OK else Ending(outcome=outcome, reason="why"))
    with redis.client() as client:
        client.flushall()
    for command in (["submit-matrix", *MATRIX, "--set", "remeasure=0"], ["resume", "latest"]):
        said = called(*command, "--output-dir", str(tmp_path / "out"))
        assert said.exit_code == 1
        assert "1 job has failed. Try again: python -m producer retry" in said.stdout
        assert waiting(redis) == set()
    result = called("retry", "latest", "--failed", "--remeasure", "suspect", "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "jobs queued again: 1 failed, 1 SUSPECT or INVALID." in result.stdout
    assert len(waiting(redis)) == 2
    assert factories.measure_all(store, "cpu@alpha") == 2
    nothing = called("retry", "latest", "--failed", "--output-dir", str(tmp_path / "out"))
    assert nothing.exit_code == 0
    assert "jobs queued again: 0 failed." in nothing.stdout
    assert nothing.stdout.splitlines()[-1] == str(tmp_path / "out" / "benchmark_results.csv")


def test_what_is_measured_stays_measured_and_its_csv_comes_back(
    redis: RedisServer, store: Store, tmp_path: Path
) -> None:
    store.register(factories.worker())
    called("submit-matrix", *MATRIX)
    assert factories.measure_all(store, "cpu@alpha") == 3
    result = called("submit-matrix", *MATRIX, "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert "All 3 jobs were already measured" in result.stdout
    assert "0 new attempts" in result.stdout
    for name in ("benchmark_results.csv", "benchmark_results_detailed.csv", "profiles", "report.html"):
        assert (tmp_path / "out" / name).exists()
    assert result.stdout.splitlines()[-1] == str(tmp_path / "out" / "benchmark_results.csv")
    anew = called("submit-matrix", *MATRIX, "--again")
    assert anew.exit_code == 0
    assert len(store.runs()) == 2


def test_waiting_can_be_interrupted_and_the_run_goes_on(redis: RedisServer, store: Store) -> None:
    command = [sys.executable, "-m", "producer", "submit-matrix", *MATRIX, "--wait"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    eventually(lambda: len(waiting(redis)) == 3, within_s=60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on." in output
    assert "producer cancel" in output
    assert store.run("latest").states == {State.QUEUED: 3}


def test_waiting_ends_with_the_table_and_the_csv(redis: RedisServer, store: Store, tmp_path: Path) -> None:
    store.register(factories.worker())
    command = [sys.executable, "-m", "producer", "submit-matrix", *MATRIX, "--wait", "--output-dir", str(tmp_path)]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    eventually(lambda: len(waiting(redis)) == 3, within_s=60)
    assert factories.measure_all(store, "cpu@alpha") == 3
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.count("densenet121_baseline") == 3
    assert output.splitlines()[-1] == str(tmp_path / "benchmark_results.csv")


def test_flower_shows_everything_and_controls_nothing(redis: RedisServer, store: Store, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "farm", broker_url=redis.url, flower_basic_auth=None)
    with local.embedded(settings, store, [], "run", lambda _: None) as farm:
        pages = ("workers", "tasks", "broker", "api/workers", "api/tasks")
        shown = {page: asked(farm.flower_url, page) for page in pages}
        actions = (
            "worker/shutdown/any",
            "worker/pool/grow/any",
            "task/revoke/any",
            "task/async-apply/farm.measure",
        )
        done = {action: asked(farm.flower_url, f"api/{action}", b"{}") for action in actions}
    assert set(shown.values()) == {200}
    assert set(done.values()) == {403}


def asked(url: str, path: str, body: bytes | None = None) -> int:
    """The status of Flower's answer."""
    parts = urlsplit(url)
    credentials = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{parts.port}/{path}", data=body, headers={"Authorization": f"Basic {credentials}"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
