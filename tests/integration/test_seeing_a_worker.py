"""What a whole worker shows while it works, and that nobody who sees it can stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from farm import queue
from tests.integration.test_workers import Farm
from tests.redis_servers import RedisServer, eventually, redis_server
from tests.unit.test_metrics import samples


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, server: RedisServer) -> Iterator[Farm]:
    with server.client() as client:
        client.flushall()
    made = Farm(tmp_path, server, f"sqlite:///{tmp_path}/farm.db")
    made.settings = made.settings.model_copy(update={"metrics_port": free_port()})
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(farm: Farm) -> dict[str, float]:
    """What the worker serves just now; nothing where it does not."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{farm.settings.metrics_port}/metrics", timeout=10) as answer:
            return samples(answer.read().decode())
    except URLError:
        return {}


def test_a_workers_figures_outlive_its_pools_process_and_its_reconciler(farm: Farm) -> None:
    worker = farm.worker()
    farm.submit(2, seconds=1.0)
    eventually(farm.finished)
    eventually(lambda: scraped(farm).get("farm_worker_attempts_total{outcome=ok}") == 2)
    before = scraped(farm)
    assert before["farm_worker_claims_total{result=job}"] == 2
    assert before["farm_worker_claim_duration_seconds_count{}"] >= 2
    assert before["farm_worker_phase_duration_seconds_count{phase=measure}"] == 2
    assert before["farm_worker_lease_renewals_total{result=held}"] >= 2
    assert before["farm_worker_device_busy_seconds_total{}"] >= 2
    assert before["farm_worker_process_starts_total{process=pool}"] == 1
    assert before["farm_worker_queue_messages{queue=cpu}"] == 0

    os.kill(worker.pool_process, signal.SIGKILL)
    [reconciler] = worker.children("workers.companion")
    os.kill(reconciler, signal.SIGKILL)
    farm.submit(1)
    eventually(farm.finished, within_s=60)
    eventually(lambda: scraped(farm).get("farm_worker_attempts_total{outcome=ok}") == 3, within_s=60)
    after = scraped(farm)
    assert after["farm_worker_process_starts_total{process=pool}"] == 2
    assert after["farm_worker_process_starts_total{process=reconciler}"] == 2
    assert worker.stop() == 0
    assert scraped(farm) == {}
    assert list((farm.folder / "metrics").iterdir()) == []


def test_what_came_of_a_lost_worker_is_counted(farm: Farm) -> None:
    farm.worker("one@test")
    farm.submit(1, seconds=30.0)
    eventually(farm.measuring)
    farm.close()
    other = Farm(farm.folder, farm.server, f"sqlite:///{farm.folder}/farm.db")
    other.settings = farm.settings
    try:
        other.worker("two@test")
        eventually(
            lambda: scraped(other).get("farm_reconciler_lost_attempts_total{became=queued}") == 1, within_s=60
        )
    finally:
        other.close()


def test_figures_are_for_this_host_only(farm: Farm) -> None:
    farm.worker()
    eventually(lambda: scraped(farm))
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{farm.settings.metrics_port:04X}")
    ]
    assert listening == [f"0100007F:{farm.settings.metrics_port:04X}"]


def test_nobody_stops_a_worker_through_the_broker(farm: Farm) -> None:
    worker = farm.worker()
    app = queue.create_app(farm.server.url)
    pool = worker.pool_process
    jobs = farm.submit(1, seconds=2.0)
    eventually(farm.measuring)
    for command, arguments in {
        "shutdown": {},
        "pool_shrink": {"n": 1},
        "pool_restart": {"reload": True},
        "pool_grow": {"n": 3},
        "autoscale": {"max": 5, "min": 0},
        "cancel_consumer": {"queue": "cpu"},
        "add_consumer": {"queue": "elsewhere"},
        "revoke": {"task_id": jobs, "terminate": True},
        "terminate": {"task_id": jobs, "signal": "SIGKILL"},
        "rate_limit": {"task_name": queue.TASK, "rate_limit": "1/h"},
        "time_limit": {"task_name": queue.TASK, "hard": 1},
        "memdump": {},
        "objgraph": {},
    }.items():
        app.control.broadcast(command, arguments=arguments)
        refused = f"refused the command {command}: "
        eventually(lambda: refused in worker.log)  # noqa: B023  # called before the next turn
    assert "Traceback" not in worker.log
    [answer] = told(farm.server.url, "ping").values()
    assert answer == {"ok": "pong"}
    assert worker.pool_process == pool
    eventually(farm.finished)
    assert [found.attempts for found in farm.results()] == [1]
    farm.submit(1)
    eventually(farm.finished)
    assert worker.stop() == 0


def test_a_worker_tells_its_configuration_without_passwords(farm: Farm) -> None:
    with farm.server.client() as client:
        client.execute_command("ACL", "SETUSER", "farm", "on", ">hunter2-hunter2", "~*", "&*", "+@all")
    url = f"redis://farm:hunter2-hunter2@127.0.0.1:{farm.server.port}/0"
    farm.settings = farm.settings.model_copy(update={"broker_url": url})
    farm.worker()
    text = json.dumps([told(url, "conf"), told(url, "stats")])
    assert "farm:" in text
    assert "hunter2" not in text


def told(url: str, question: str) -> dict[str, Any]:
    """What the workers answer to somebody who has Celery and the broker's URL, as Flower has."""
    asking = f"import json, celery; print(json.dumps(celery.Celery().control.inspect(timeout=5).{question}()))"
    variables = {**os.environ, "CELERY_BROKER_URL": url}
    done = subprocess.run(
        [sys.executable, "-c", asking], env=variables, capture_output=True, text=True, check=True, timeout=60
    )
    return dict(json.loads(done.stdout))


def test_a_producer_that_waits_serves_the_stores_figures(farm: Farm) -> None:
    farm.submit(3)
    port = str(farm.settings.metrics_port)
    command = [sys.executable, "-m", "producer", "watch", "--metrics-port", port]
    variables = {**os.environ, **farm.settings.variables()}
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            found = eventually(lambda: scraped(farm), within_s=60)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert found["farm_store_up{}"] == 1
    assert found["farm_jobs_waiting{queue=cpu}"] == 3
    assert scraped(farm) == {}
