from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.errors import Unreachable
from farm.settings import Settings
from results_store.store import Store
from tests import factories
from workers import reconciler as reconciling
from workers.reconciler import FIRST_PAUSE_S, LONGEST_PAUSE_S, Pulse, Reconciler


class Broker:
    """Queues in memory."""

    def __init__(self) -> None:
        self.queues: dict[str, list[str]] = {}
        self.sent: list[str] = []

    def waiting(self, queues: Iterable[str]) -> Mapping[str, int]:
        return {name: len(self.queues.get(name, [])) for name in queues}

    def waiting_jobs(self, queue: str) -> set[str]:
        return set(self.queues.get(queue, []))

    def publish(self, job_ids_by_queue: Mapping[str, Sequence[str]]) -> int:
        for name, jobs in job_ids_by_queue.items():
            self.queues.setdefault(name, []).extend(jobs)
            self.sent += jobs
        return sum(map(len, job_ids_by_queue.values()))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(store: Store, broker: Broker, clock: Clock) -> Reconciler:
    return Reconciler(store, broker, "cpu@alpha", 10.0, clock)


def submit(store: Store, **fields: object) -> str:
    return store.submit(factories.matrix(**fields), again=True).run_id


def test_jobs_without_a_message_get_one(store: Store, broker: Broker, reconciler: Reconciler) -> None:
    run = submit(store, repeats=3)
    assert reconciler.step() == 3
    assert broker.queues == {"cpu": [f"{run}.{number:06d}" for number in range(3)]}
    assert reconciler.step() == 0


def test_only_what_is_missing_is_sent(store: Store, broker: Broker, reconciler: Reconciler) -> None:
    run = submit(store, repeats=3)
    broker.queues["cpu"] = [f"{run}.000000", f"{run}.000002"]
    assert reconciler.step() == 1
    assert broker.sent == [f"{run}.000001"]


def test_messages_of_jobs_that_are_done_count_because_they_serve_the_next_one(
    store: Store, broker: Broker, reconciler: Reconciler
) -> None:
    submit(store, repeats=3)
    broker.queues["cpu"] = ["old.000001", "old.000002", "old.000003"]
    assert reconciler.step() == 0


def test_a_lost_queue_is_filled_again(store: Store, broker: Broker, reconciler: Reconciler, clock: Clock) -> None:
    submit(store, repeats=3)
    reconciler.step()
    broker.queues.clear()
    clock.now += FIRST_PAUSE_S
    assert reconciler.step() == 3


def test_the_last_job_of_a_run_gets_a_message_each_time_it_is_to_be_measured_again(
    store: Store, broker: Broker, reconciler: Reconciler, clock: Clock
) -> None:
    submit(store)
    for _ in range(1 + factories.PROTOCOL.remeasure):
        assert reconciler.step() == 1
        claim = store.claim("cpu@alpha", broker.queues["cpu"].pop())
        assert claim is not None
        assert store.finish(claim, replace(factories.ok(claim), remeasure=True))
        clock.now += 2 * FIRST_PAUSE_S
    assert reconciler.step() == 0


def test_a_queue_that_no_living_worker_serves_gets_no_messages(
    store: Store, broker: Broker, reconciler: Reconciler
) -> None:
    submit(store, devices=("cuda.h200",))
    assert reconciler.step() == 0
    store.register(factories.worker("gpu@alpha", queues=("gpu", "gpu.h200")))
    assert reconciler.step() == 1
    assert list(broker.queues) == ["gpu.h200"]


def test_a_job_that_no_worker_takes_is_sent_ever_more_rarely(
    store: Store, broker: Broker, reconciler: Reconciler, clock: Clock
) -> None:
    submit(store, threads=64)
    sent_at = []
    for _ in range(360):
        if reconciler.step():
            sent_at.append(clock.now)
        broker.queues.clear()  # a worker took the message and skipped it
        clock.now += 10
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    assert gaps[:4] == [10, 20, 40, 80]
    assert max(gaps) <= LONGEST_PAUSE_S
    assert len(sent_at) < 15


def test_a_job_that_somebody_could_take_is_sent_again_soon_whoever_used_its_message_up(
    store: Store, broker: Broker, reconciler: Reconciler, clock: Clock
) -> None:
    """Else a worker in quarantine, which skips one message after the other, would leave others without any."""
    store.register(factories.worker("quarantined@alpha"))
    store.quarantine("quarantined@alpha", "hangs")
    submit(store, repeats=3)
    sent_at = []
    for _ in range(60):
        if reconciler.step():
            sent_at.append(clock.now)
        broker.queues.clear()
        clock.now += 10
    assert sent_at == [10.0 * number for number in range(60)]


def test_whoever_comes_gets_what_nobody_could_do_at_once(
    store: Store, broker: Broker, reconciler: Reconciler, clock: Clock
) -> None:
    submit(store, threads=64)
    for _ in range(360):
        reconciler.step()
        broker.queues.clear()
        clock.now += 10
    store.register(factories.worker("large@alpha", threads=64))
    clock.now += 1
    assert reconciler.step() == 1


def test_a_queue_is_filled_up_to_the_window(store: Store, broker: Broker, reconciler: Reconciler) -> None:
    submit(store, repeats=1000, batch_sizes=(1, 2))
    assert reconciler.step() == 1000
    assert reconciler.step() == 0
    del broker.queues["cpu"][:100]
    for _ in range(100):
        assert store.claim("cpu@alpha", None) is not None
    assert reconciler.step() == 100
    assert len(set(broker.queues["cpu"])) == 1000


def test_only_one_of_many_reconcilers_works_on_the_store(
    store: Store, broker: Broker, reconciler: Reconciler
) -> None:
    submit(store, repeats=3)
    store.register(factories.worker("other@alpha"))
    other = Reconciler(store, broker, "other@alpha", 10.0)
    assert (reconciler.step(), other.step()) == (3, 0)
    broker.queues.clear()
    assert other.step() == 0


def test_a_broker_that_is_away_keeps_no_worker_from_being_alive(
    store: Store, broker: Broker, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store)

    def away(_: object) -> Mapping[str, int]:
        raise Unreachable("away")

    monkeypatch.setattr(broker, "waiting", away)
    store.deregister("cpu@alpha")
    store.register(factories.worker())
    with pytest.raises(Unreachable):
        reconciler.step()
    assert [worker.id for worker in store.workers()] == ["cpu@alpha"]


def test_a_round_in_which_the_database_answered_is_a_sign_of_life(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def away(*_: object) -> Mapping[str, int]:
        raise Unreachable("away")

    file = tmp_path / "run" / "alive"
    reconciler = Reconciler(store, broker, "cpu@alpha", 10.0, on_life=Pulse(file))
    with monkeypatch.context() as patched:
        patched.setattr(store, "heartbeat", away)
        with pytest.raises(Unreachable):
            reconciler.step()
    assert not file.exists()
    submit(store)
    monkeypatch.setattr(broker, "waiting", away)
    with pytest.raises(Unreachable):
        reconciler.step()
    assert file.exists()


def test_a_health_file_that_cannot_be_touched_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file, no folder")
    pulse = Pulse(tmp_path / "run" / "alive")
    pulse()
    pulse()
    [said] = caplog.messages
    assert "FARM_HEALTH_FILE" in said


def test_a_queue_that_only_a_quarantined_worker_serves_gets_no_messages(
    store: Store, broker: Broker, reconciler: Reconciler
) -> None:
    submit(store)
    store.quarantine("cpu@alpha", "hangs")
    assert reconciler.step() == 0
    store.recover("cpu@alpha")
    assert reconciler.step() == 1


class Away:
    """A store that does not answer while a test says so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise Unreachable("away")
        return getattr(self._store, name)


def test_after_an_outage_who_kept_a_result_may_come_back_with_it_first(
    store: Store, broker: Broker, clock: Clock
) -> None:
    short = Store(store._database, lease_s=-1.0)
    submit(store)
    claim = short.claim("cpu@alpha")  # its lease ran out while the database was away
    assert claim is not None
    outage = Away(short)
    reconciler = Reconciler(outage, broker, "cpu@alpha", 10.0, clock, grace_s=40.0)  # type: ignore[arg-type]
    outage.away = True
    with pytest.raises(Unreachable):
        reconciler.step()
    outage.away = False
    clock.now = 39.0
    assert reconciler.step() == 0
    assert store.finish(claim, factories.ok(claim))
    submit(store)
    assert short.claim("cpu@alpha") is not None
    clock.now = 40.0
    assert reconciler.step() == 1


def test_who_begins_while_the_database_is_away_is_as_patient(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store)
    assert Store(store._database, lease_s=-1.0).claim("cpu@alpha") is not None
    away = iter([True, False])

    def opened(*_: object, **__: object) -> Store:
        if next(away):
            raise Unreachable("away")
        return store

    monkeypatch.setattr(reconciling, "open_store", opened)
    monkeypatch.setattr(reconciling, "RedisBroker", lambda _: broker)
    rounds = Rounds(5)
    reconciling.run(Settings(lease_s=600.0, reconcile_s=0.01), "cpu@alpha", rounds)
    assert rounds.left == 0
    assert broker.sent == []


class Rounds(threading.Event):
    """Says to stop after so many rounds."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left <= 0
