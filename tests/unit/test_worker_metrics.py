"""What a worker counts, and that it outlives the process that counts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import values

from farm.errors import BadInput, Unreachable
from farm.measurement import Outcome
from farm.settings import Settings
from results_store.metrics import serving
from results_store.store import Lease, Reconciled
from tests.unit.test_metrics import samples
from workers import metrics

ROOT = Path(__file__).resolve().parents[2]

#: Counts as a pool's process does, and ends without tidying up.
COUNTS = """
import os, signal, sys
from pathlib import Path
from farm.measurement import Outcome
from results_store.store import Lease
from workers import metrics
metrics.keep_in(Path(sys.argv[1]))
for _ in range(2):
    if os.fork() == 0:
        figures = metrics.opened(Path(sys.argv[1]))
        figures.started("pool")
        figures.ended(Outcome.OK)
        figures.renewed(Lease.HELD)
        figures.claimed(0.02, True)
        with figures.phase("measure"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
"""


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where values are kept is a matter of the whole process."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    yield
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def scraped(kept: Path, waiting: Mapping[str, int] | None) -> dict[str, float]:
    def asked() -> Mapping[str, int]:
        if waiting is None:
            raise Unreachable("no broker")
        return waiting

    settings = Settings(metrics_port=0)
    with (
        metrics.served(kept, settings, asked, worker="cpu@alpha", device="A CPU") as port,
        urlopen(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        return samples(answer.read().decode())


def test_what_killed_processes_counted_is_still_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", COUNTS, str(tmp_path)], cwd=ROOT, check=True)
    found = scraped(tmp_path, {"cpu": 7})
    assert found["farm_worker_attempts_total{outcome=ok}"] == 2
    assert found["farm_worker_process_starts_total{process=pool}"] == 2
    assert found["farm_worker_lease_renewals_total{result=held}"] == 2
    assert found["farm_worker_claims_total{result=job}"] == 2
    assert found["farm_worker_claim_duration_seconds_count{}"] == 2
    assert found["farm_worker_claim_duration_seconds_bucket{le=0.01}"] == 0
    assert found["farm_worker_claim_duration_seconds_bucket{le=0.025}"] == 2
    assert found["farm_worker_phase_duration_seconds_count{phase=measure}"] == 2
    assert found["farm_worker_queue_messages{queue=cpu}"] == 7
    assert found["farm_worker_broker_up{}"] == 1
    assert found["farm_worker_info{device=A CPU,worker=cpu@alpha}"] == 1


def test_every_series_is_there_before_anything_happened(tmp_path: Path) -> None:
    metrics.keep_in(tmp_path)
    metrics.opened(tmp_path)
    found = scraped(tmp_path, {})
    assert {f"farm_worker_attempts_total{{outcome={outcome}}}" for outcome in Outcome} <= set(found)
    assert {f"farm_worker_lease_renewals_total{{result={lease}}}" for lease in Lease} <= set(found)
    assert found["farm_worker_lease_renewals_total{result=unreachable}"] == 0
    assert found["farm_worker_device_busy_seconds_total{}"] == 0


def test_a_broker_that_is_away_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    found = scraped(tmp_path, None)
    assert found["farm_worker_broker_up{}"] == 0
    assert not any(name.startswith("farm_worker_queue_messages{") for name in found)
    assert found["farm_worker_info{device=A CPU,worker=cpu@alpha}"] == 1


def test_a_device_that_is_held_is_counted_while_it_is(tmp_path: Path) -> None:
    now = 100.0
    figures = metrics.Figures(clock=lambda: now)
    with figures.busy():
        now += 5.0
        figures.renewed(Lease.HELD)
        assert figures._busy._value.get() == 5.0
        now += 2.5
    now += 1000.0
    figures.renewed(None)
    assert figures._busy._value.get() == 7.5


def test_what_the_reconciler_does_is_counted() -> None:
    figures = metrics.Figures()
    figures.reconciled(Reconciled(requeued=3, failed=1))
    figures.published(12)
    assert figures._lost.labels("queued")._value.get() == 3
    assert figures._lost.labels("failed")._value.get() == 1
    assert figures._sent._value.get() == 12


def test_the_files_have_their_room_from_the_start_and_need_no_more(tmp_path: Path) -> None:
    """A file with holes on a full disk ends the process that writes into it, and with it a job."""
    metrics.keep_in(tmp_path)
    figures = metrics.opened(tmp_path)
    for outcome in Outcome:
        figures.ended(outcome)
    files = sorted(tmp_path.iterdir())
    assert [file.name.partition("_")[0] for file in files] == ["counter", "histogram"]
    for file in files:
        assert file.stat().st_size == 64 * 1024
        assert file.stat().st_blocks * 512 >= 64 * 1024


def test_without_room_nothing_is_kept_and_everything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Path) -> None:
        raise OSError(28, "No space left on device")

    metrics.keep_in(tmp_path)
    monkeypatch.setattr(metrics, "_make_room", full)
    figures = metrics.opened(tmp_path)
    figures.ended(Outcome.OK)
    assert list(tmp_path.iterdir()) == []
    assert "not counted for Prometheus" in caplog.text


def test_without_a_port_there_are_no_files(tmp_path: Path) -> None:
    with metrics.folder(Settings(data_dir=tmp_path)) as kept:
        assert kept is None
        metrics.opened(kept).ended(Outcome.OK)
    assert list(tmp_path.iterdir()) == []


def test_a_workers_folder_is_its_own_and_goes_with_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, metrics_port=free_port())
    with metrics.folder(settings) as one, metrics.folder(settings) as other:
        assert one is not None
        assert other is not None
        assert one != other
        assert one.parent == other.parent == tmp_path / "metrics"
    assert list((tmp_path / "metrics").iterdir()) == []


def test_what_a_killed_worker_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "metrics" / "old", tmp_path / "metrics" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    then = time.time() - 2 * 24 * 3600
    os.utime(old, (then, then))
    os.utime(young, (then, then))
    metrics.touch(young)
    with metrics.folder(Settings(data_dir=tmp_path, metrics_port=free_port())):
        assert young.exists()
        assert not old.exists()


def test_a_port_that_is_taken_is_bad_input_before_the_worker_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(data_dir=tmp_path, metrics_port=taken.getsockname()[1])
        with pytest.raises(BadInput, match="FARM_METRICS_PORT"), metrics.folder(settings):
            pytest.fail("it began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["compose/grafana/dashboards/farm.json", "compose/prometheus/alerts.yml"])
def test_dashboards_and_alerts_ask_for_what_there_is(file: str, tmp_path: Path) -> None:
    asked = set(re.findall(r"\bfarm_[a-z_]+", (ROOT / file).read_text()))
    assert asked
    assert asked <= exported(tmp_path), asked - exported(tmp_path)


def test_every_metric_is_in_the_docs(tmp_path: Path) -> None:
    documented = (ROOT / "docs/observability.md").read_text()
    missing = {name for name in exported(tmp_path) if re.sub(r"_(bucket|sum|count)$", "", name) not in documented}
    assert missing == set()


def exported(folder: Path) -> set[str]:
    """The names of everything that workers and the collator serve."""
    from prometheus_client import CollectorRegistry

    from results_store.metrics import StoreCollector
    from results_store.store import open_store

    metrics.keep_in(folder)
    metrics.opened(folder)
    worker = {name.partition("{")[0] for name in scraped(folder, {"cpu": 1})}
    store = open_store(f"sqlite:///{folder}/farm.db")
    registry = CollectorRegistry()
    registry.register(StoreCollector(store.tally))
    with serving(registry, 0, "127.0.0.1") as port, urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        shown = {line.split()[2] for line in answer.read().decode().splitlines() if line.startswith("# TYPE")}
    store.close()
    return worker | shown


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
