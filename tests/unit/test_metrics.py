"""What Prometheus is told, and that it is told nothing but the truth while the database is away."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from farm.errors import BadInput, Unreachable
from farm.measurement import Outcome
from results_store.metrics import StoreCollector, served
from results_store.store import Ending, Tally, open_store
from tests import factories


def samples(text: str) -> dict[str, float]:
    """Every sample as `name{label=value,…}`."""
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    labelled = ((s, ",".join(f"{name}={value}" for name, value in sorted(s.labels.items()))) for s in found)
    return {f"{sample.name}{{{labels}}}": sample.value for sample, labels in labelled}


def away() -> Tally:
    raise Unreachable("Database postgresql://farm:***@db/farm does not answer")


def test_every_figure_has_its_name_and_labels(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/farm.db")) as store:
        store.register(factories.worker())
        store.register(factories.worker("gpu@alpha", device_kind="cuda", queues=("gpu", "gpu.h200")))
        store.register(factories.worker("broken@alpha", device_kind="cuda", queues=("gpu",)))
        store.quarantine("broken@alpha", "hangs")
        run = store.submit(factories.matrix(batch_sizes=(1, 2, 3, 4))).run_id
        for outcome in (Outcome.ERROR, Outcome.UNSUPPORTED):
            claim = store.claim("cpu@alpha")
            assert claim is not None
            store.finish(claim, Ending(outcome=outcome))
        assert store.claim("cpu@alpha") is not None
        assert store.release("cpu@alpha", "stopped") == 1
        assert store.claim("cpu@alpha") is not None
        store.submit(factories.matrix(batch_sizes=(8,)))
        store.cancel(store.run("latest").run_id)
        assert store.run(run).states
        with served(store.tally, 0) as port, urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            found = samples(answer.read().decode())
    assert 0 < found.pop("farm_oldest_waiting_seconds{}") < 60
    shown = {name: value for name, value in found.items() if value}
    assert shown == {
        "farm_store_up{}": 1,
        "farm_jobs{state=queued}": 1,
        "farm_jobs{state=running}": 1,
        "farm_jobs{state=done}": 1,
        "farm_jobs{state=failed}": 1,
        "farm_jobs{state=cancelled}": 1,
        "farm_jobs_ended{outcome=error}": 1,
        "farm_jobs_ended{outcome=unsupported}": 1,
        "farm_jobs_ended{outcome=cancelled}": 1,
        "farm_jobs_waiting{queue=cpu}": 1,
        "farm_workers_alive{device_kind=cpu,queue=cpu}": 1,
        "farm_workers_alive{device_kind=cuda,queue=gpu}": 1,
        "farm_workers_alive{device_kind=cuda,queue=gpu.h200}": 1,
        "farm_workers_quarantined{device_kind=cuda,queue=gpu}": 1,
        "farm_attempts{outcome=error}": 1,
        "farm_attempts{outcome=unsupported}": 1,
        "farm_attempts{outcome=lost}": 1,
        "farm_runs{state=open}": 1,
        "farm_runs{state=ended}": 1,
    }
    # a series that is only there while it is not 0 cannot be told from one that nobody reports
    assert {f"farm_jobs_ended{{outcome={outcome}}}" for outcome in Outcome} <= set(found)
    assert {f"farm_attempts{{outcome={outcome}}}" for outcome in Outcome} <= set(found)


def test_a_database_that_does_not_answer_is_down_and_nothing_else_is_said() -> None:
    registry = CollectorRegistry()
    registry.register(StoreCollector(away))
    assert samples(generate_latest(registry).decode()) == {"farm_store_up{}": 0}


def test_a_port_that_is_taken_is_bad_input() -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as taken,
        pytest.raises(BadInput, match="--metrics-port"),
        served(away, taken.getsockname()[1]),
    ):
        pytest.fail("it served on a port of somebody else")


def test_the_port_is_free_again_afterwards() -> None:
    with served(away, 0) as port:
        pass
    with served(away, port) as again:
        assert again == port
