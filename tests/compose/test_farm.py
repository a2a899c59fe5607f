"""The farm in containers gives what the embedded one gives, and loses nothing, whatever is killed."""

from __future__ import annotations

import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from results_store.values import State
from tests.acceptance.farms import overlaps, table
from tests.compose.containers import ROOT, SMALL, Containers
from tests.redis_servers import eventually

FOUR = ("--optimizations", "baseline,channels_last", "--batch-sizes", "1,2")

#: What must be the same wherever it was measured.
SAME = ("model_variant", "batch_size", "device", "accuracy_top1", "accuracy_top5", "model_size_mb", "outcome")


def same(path: Path) -> list[list[str]]:
    return [[row[name] for name in SAME] for row in table(path)]


def assert_whole(farm: Containers, run_id: str, jobs: int) -> None:
    """Every job has one result, and each attempt that was lost has its reason."""
    with farm.store() as store:
        found = list(store.results(run_id))
    assert Counter(str(result.outcome) for result in found) == {"ok": jobs}
    attempts = farm.attempts(run_id)
    kept = Counter(row.job_id for row in attempts if row.outcome == "ok" and not row.stale)
    assert set(kept.values()) == {1}
    assert len(kept) == jobs
    assert all(row.reason for row in attempts if row.outcome != "ok")
    assert overlaps(attempts) == []


def test_the_producers_container_gives_what_the_embedded_farm_gives(farm: Containers, tmp_path: Path) -> None:
    run_id = farm.submit(*FOUR, "--wait")
    own = {"FARM_DATA_DIR": str(tmp_path / "farm"), "FARM_LOCK_DIR": str(farm.folder / "locks")}
    own |= {"PYTHONPATH": str(ROOT)}
    farm.run(
        *(sys.executable, "-m", "producer", "submit-matrix", *SMALL, *FOUR, "--local", "--wait"),
        *("--output-dir", str(tmp_path / "local")),
        variables=own,
    )
    csv = farm.folder / "results" / run_id / "benchmark_results.csv"
    assert same(csv) == same(tmp_path / "local/benchmark_results.csv")
    assert list(table(csv)[0]) == list(table(tmp_path / "local/benchmark_results.csv")[0])
    assert_whole(farm, run_id, 4)


def test_the_host_reaches_the_stores_with_the_values_of_env_and_the_collator_writes(farm: Containers) -> None:
    farm.submit_from_host("--optimizations", "amp", "--batch-sizes", "1,2")
    with farm.store() as store:
        run_id = store.run("latest").run_id
    farm.until_ended(run_id)
    folder = farm.folder / "results" / run_id
    eventually(lambda: (folder / "benchmark_results.csv").exists(), within_s=60)
    assert [row["outcome"] for row in table(folder / "benchmark_results.csv")] == ["ok", "ok"]
    assert folder.stat().st_uid == int(farm.variables["FARM_UID"])
    eventually(lambda: any((folder / "tensorboard").rglob("events.out.tfevents.*")), within_s=60)
    assert any((folder / "profiles").glob("*.json.gz"))
    eventually(lambda: run_id in asked(farm, "FARM_TENSORBOARD_PORT", "/data/runs"), within_s=120)


def test_three_workers_on_one_host_never_measure_at_once(farm: Containers) -> None:
    farm.up("--scale", "cpu-worker=3")
    with farm.store() as store:
        eventually(lambda: len(store.workers()) >= 3, within_s=60)
    run_id = farm.submit("--optimizations", "baseline,channels_last,amp", "--batch-sizes", "4,5,6", "--wait")
    assert_whole(farm, run_id, 9)
    assert len({row.worker_id for row in farm.attempts(run_id)}) >= 2


@pytest.fixture(scope="module")
def killed(clone: Containers) -> dict[str, Any]:
    """A run in whose middle each container was killed in turn."""
    clone.up("--scale", "cpu-worker=1")
    clone.until_healthy()
    more = ("--optimizations", "baseline,channels_last,amp", "--batch-sizes", "7,8,9,10", "--repeats", "2")
    run_id = clone.submit(*more)
    for service in ("cpu-worker", "redis", "postgres", "collator", "flower", "tensorboard"):
        with clone.store() as store:
            eventually(lambda: store.progress(run_id).running or store.run(run_id).finished, within_s=120)
            # Those that the work goes through come first; on a fast host the others may find it done.
            disturbed = not store.run(run_id).finished or service not in ("cpu-worker", "redis", "postgres")
            assert disturbed, "the run was over too early to be disturbed"
        clone.compose("kill", "--signal", "KILL", service)
        clone.up("--scale", "cpu-worker=1")
        clone.until_healthy()
    return {"run_id": run_id, "jobs": 24}


def test_killing_each_container_in_turn_loses_and_doubles_nothing(
    clone: Containers, killed: dict[str, Any]
) -> None:
    clone.until_ended(killed["run_id"], within_s=600)
    assert_whole(clone, killed["run_id"], killed["jobs"])
    assert "lost" in {row.outcome for row in clone.attempts(killed["run_id"])}
    csv = clone.folder / "results" / killed["run_id"] / "benchmark_results.csv"
    eventually(csv.exists, within_s=60)
    assert len(table(csv)) == 12


def test_down_and_up_goes_on_where_it_was(farm: Containers) -> None:
    run_id = farm.submit(
        "--optimizations", "baseline,channels_last,amp", "--batch-sizes", "11,12", "--repeats", "2"
    )
    with farm.store() as store:
        eventually(lambda: store.progress(run_id).states.get(State.DONE, 0) >= 2, within_s=120)
    farm.compose("down")
    farm.up("--scale", "cpu-worker=1")
    farm.until_ended(run_id)
    assert_whole(farm, run_id, 12)


def test_prometheus_hears_of_the_farm_and_knows_its_alerts(farm: Containers) -> None:
    farm.compose("--profile", "monitoring", "up", "--detach", "--no-build", "--no-deps", "prometheus")
    rules = farm.compose(
        *("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    )
    alerts = (ROOT / "compose/prometheus/alerts.yml").read_text().count("- alert:")
    assert f"{alerts} rules found" in rules
    eventually(lambda: '"health":"up"' in asked(farm, "FARM_PROMETHEUS_PORT", "/api/v1/targets"), within_s=90)

    def known(query: str) -> bool:
        return query.partition("==")[0] in asked(farm, "FARM_PROMETHEUS_PORT", f"/api/v1/query?query={query}")

    eventually(lambda: known("farm_store_up==1"), within_s=90)
    # Their names are looked up every 30 s, and they are scraped as often.
    eventually(lambda: known("farm_worker_info"), within_s=120)


def asked(farm: Containers, port: str, path: str) -> str:
    """A page on loopback; empty where it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{farm.variables[port]}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
