"""One command from nothing to a CSV, and nothing left of it but that and the store."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil

from producer.local import TERMINAL
from results_store.values import State
from tests.acceptance.farms import FOUR, SMALL, Ended, Farm, overlaps, submit, until_running
from tests.redis_servers import eventually


def baselines(farm: Farm, batch_sizes: str, *more: str) -> list[str]:
    """A command with one job for each batch size; a test has its own, so that nothing is done already."""
    matrix = (*SMALL, "--optimizations", "baseline", "--batch-sizes", batch_sizes)
    return submit(farm, *matrix, *more, output="other")


def test_every_cell_has_a_row_and_the_path_is_printed_last(ended: Ended) -> None:
    rows = ended.rows
    cells = {(row["model_variant"], row["batch_size"], row["device"]) for row in rows}
    variants = ("mobilenet_v3_small_baseline", "mobilenet_v3_small_channels_last")
    assert cells == {(variant, batch, "cpu") for variant in variants for batch in ("1", "2")}
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    assert ended.output.splitlines()[-1] == str(ended.csv)


def test_nothing_is_left_but_the_results(ended: Ended) -> None:
    ended.farm.assert_nothing_is_left()


def test_flower_shows_the_worker_while_a_job_runs(ended: Ended) -> None:
    [shown] = ended.workers_shown.values()
    assert [queue["name"] for queue in shown["active_queues"]] == ["cpu"]


def test_every_attempt_is_a_finished_task_and_every_other_task_was_skipped(ended: Ended) -> None:
    attempts = ended.farm.attempts(ended.run_id)
    results = [task["result"] for task in ended.tasks.values()]
    assert len(attempts) == 4
    assert {task["state"] for task in ended.tasks.values()} <= TERMINAL
    assert len([result for result in results if "skipped" not in result]) == len(attempts)
    jobs = {task["args"].split("'")[1] for task in ended.tasks.values()}
    assert {row.job_id for row in attempts} <= jobs


def test_no_two_jobs_held_the_device_at_once(ended: Ended) -> None:
    assert overlaps(ended.farm.attempts(ended.run_id)) == []


def test_a_second_run_attempts_nothing_and_brings_a_deleted_csv_back(ended: Ended) -> None:
    before = ended.csv.read_text()
    ended.csv.unlink()
    code, output = ended.farm.run("producer", *submit(ended.farm, *FOUR))
    assert code == 0
    assert f"All 4 jobs were already measured in run {ended.run_id}: 0 new attempts" in output
    assert "Flower" not in output
    assert len(ended.farm.attempts(ended.run_id)) == 4
    assert ended.csv.read_text() == before


def test_what_another_run_has_measured_needs_no_new_attempt_but_gets_one_when_asked(ended: Ended) -> None:
    code, output = ended.farm.run("producer", *baselines(ended.farm, "1"))
    assert code == 0, output
    assert "1 of them were measured before" in output
    with ended.farm.store() as store:
        assert ended.farm.attempts(store.run("latest").run_id) == []
    code, output = ended.farm.run("producer", *baselines(ended.farm, "1", "--again"))
    assert code == 0, output
    with ended.farm.store() as store:
        assert len(ended.farm.attempts(store.run("latest").run_id)) == 1


def running_with_some_done(farm: Farm) -> Callable[[], bool]:
    def check() -> bool:
        with farm.store() as store:
            progress = store.progress("latest")
        return progress.states.get(State.DONE, 0) >= 1 and bool(progress.running)

    return check


def test_an_interrupted_run_leaves_nothing_and_goes_on_with_the_same_command(ended: Ended) -> None:
    farm, command = ended.farm, baselines(ended.farm, "3,4")
    with farm.started("producer", *command) as process:
        process.until_said("Flower: ")
        eventually(running_with_some_done(farm), within_s=200)
        process.send(signal.SIGINT)
        assert process.ended(within_s=60) == 130
    assert "resume" in process.said
    farm.assert_nothing_is_left()
    with farm.store() as store:
        interrupted = store.run("latest")
    assert interrupted.states == {State.DONE: 1, State.QUEUED: 1}

    code, text = farm.run("producer", *command)
    assert code == 0, text
    with farm.store() as store:
        assert store.run("latest").run_id == interrupted.run_id
    assert [row.outcome for row in farm.attempts(interrupted.run_id)] == ["ok", "lost", "ok"]


def test_a_run_that_is_told_to_end_leaves_nothing_and_waits_to_be_resumed(ended: Ended) -> None:
    with ended.farm.started("producer", *baselines(ended.farm, "8")) as process:
        process.until_said("Flower: ")
        run_id = until_running(ended.farm)
        process.send(signal.SIGTERM)
        assert process.ended(within_s=60) == 130
    ended.farm.assert_nothing_is_left()
    code, text = ended.farm.run(
        "producer", "resume", run_id, "--local", "--output-dir", str(ended.farm.folder / "other")
    )
    assert code == 0, text
    assert [row.outcome for row in ended.farm.attempts(run_id)] == ["lost", "ok"]


def test_a_second_producer_says_who_is_measuring_and_disturbs_nothing(ended: Ended) -> None:
    command = baselines(ended.farm, "5")
    with ended.farm.started("producer", *command) as first:
        first.until_said("Flower: ")
        code, text = ended.farm.run("producer", *command)
        assert code == 2
        assert f"process {first.pid}" in text
        assert first.ended() == 0, first.said
    ended.farm.assert_nothing_is_left()


def test_a_worker_that_is_killed_is_started_again_and_the_run_ends_well(ended: Ended) -> None:
    with ended.farm.started("producer", *baselines(ended.farm, "6")) as process:
        process.until_said("Flower: ")
        until_running(ended.farm)
        with ended.farm.store() as store:
            [worker] = [w for w in store.workers() if psutil.pid_exists(w.pid)]
        psutil.Process(worker.pid).kill()
        assert process.ended() == 0, process.said
    assert "It is started again" in process.said
    ended.farm.assert_nothing_is_left()


def test_a_producer_that_is_killed_takes_its_farm_with_it(ended: Ended) -> None:
    with ended.farm.started("producer", *baselines(ended.farm, "7")) as process:
        process.until_said("Flower: ")
        until_running(ended.farm)
        process.send(signal.SIGKILL)
        process.ended()
    eventually(lambda: ended.farm.processes() == [])
    ended.farm.assert_nothing_runs()
