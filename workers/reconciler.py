"""A small process beside each worker: says that it lives, takes back what was lost, refills the queues.

`workers.companion` runs it. Safe to run many times over: the work on the store is done under a lock in the
store, by one of them.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from farm import queue
from farm.errors import FarmError, Unreachable
from farm.settings import Settings, load
from results_store.store import Store, open_store

log = logging.getLogger(__name__)

#: A job whose messages led to nothing is published again after so long, twice as long each time.
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0

_LOCK = "reconciler"


class Broker(Protocol):
    """What the reconciler needs of the queue."""

    def waiting(self, queues: Iterable[str]) -> Mapping[str, int]:
        """Messages that wait in each queue."""

    def waiting_jobs(self, queue: str) -> set[str]:
        """Jobs that the messages in a queue name."""

    def publish(self, job_ids_by_queue: Mapping[str, Sequence[str]]) -> int:
        """Sends one message per job."""


class RedisBroker:
    """The queue at a URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def waiting(self, queues: Iterable[str]) -> Mapping[str, int]:
        """Messages that wait in each queue."""
        return queue.waiting(self._url, queues)

    def waiting_jobs(self, queue_name: str) -> set[str]:
        """Jobs that the messages in a queue name."""
        return queue.waiting_jobs(self._url, queue_name)

    def publish(self, job_ids_by_queue: Mapping[str, Sequence[str]]) -> int:
        """Sends one message per job."""
        return queue.publish(self._url, job_ids_by_queue)


class Reconciler:
    """One worker's share of keeping the farm going."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        worker_id: str,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_life: Callable[[], None] = lambda: None,
        grace_s: float = 0.0,
    ) -> None:
        self._store = store
        self._broker = broker
        self._worker_id = worker_id
        self._lock_s = 3 * every_s
        self._clock = clock
        self._on_life = on_life
        #: Leases run out while the database is away: who has kept a result then has so long to come back with it
        #: before the job is given to somebody else.
        self._grace_s = grace_s
        self._patient_until = clock()
        #: Job → (when it may be published again, the pause after that).
        self._published: dict[str, tuple[float, float]] = {}

    def step(self) -> int:
        """One round; how many messages it sent. Calls `on_life` once the database has answered.

        Raises:
            Unreachable: the database or the broker does not answer.
        """
        try:
            self._store.heartbeat(self._worker_id)
        except Unreachable:
            self._patient_until = self._clock() + self._grace_s
            raise
        self._on_life()
        if self._clock() < self._patient_until:
            return 0
        if not self._store.try_lock(_LOCK, self._worker_id, self._lock_s):
            return 0
        done = self._store.reconcile()
        if done.requeued or done.failed:
            log.info("jobs whose worker vanished: %d queued again, %d failed", done.requeued, done.failed)
        return self._refill()

    def _refill(self) -> int:
        """Publishes what the queues of living workers lack."""
        served = {name for worker in self._store.workers() for name in worker.queues}
        claimable = {name: jobs for name, jobs in self._store.claimable().items() if name in served}
        self._forget_all_but({job for jobs in claimable.values() for job in jobs})
        waiting = self._broker.waiting(claimable)
        lacking = {
            name: missing
            for name, jobs in claimable.items()
            if (missing := self._missing(name, jobs, min(len(jobs), queue.WINDOW) - waiting[name]))
        }
        if not lacking:
            return 0
        sent = self._broker.publish(lacking)
        self._remember(job for jobs in lacking.values() for job in jobs)
        log.info("%d messages sent for jobs that had none", sent)
        return sent

    def _missing(self, name: str, jobs: Sequence[str], how_many: int) -> list[str]:
        """Jobs of a queue to publish. Not those that wait there, nor, for a while, those just published.

        A job that no living worker can do is claimable all the same: without the pause its message would go
        round for ever.
        """
        if how_many <= 0:
            return []
        there, now = self._broker.waiting_jobs(name), self._clock()
        due = [job for job in jobs if job not in there and self._published.get(job, (now, 0.0))[0] <= now]
        return due[:how_many]

    def _remember(self, jobs: Iterable[str]) -> None:
        now = self._clock()
        for job in jobs:
            _, pause_s = self._published.get(job, (now, FIRST_PAUSE_S))
            self._published[job] = (now + pause_s, min(2 * pause_s, LONGEST_PAUSE_S))

    def _forget_all_but(self, jobs: set[str]) -> None:
        self._published = {job: when for job, when in self._published.items() if job in jobs}


class Pulse:
    """Touches a file each time it is called, so that others see a service live; None is for nobody to look at."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._trouble = ""

    def __call__(self) -> None:
        """Touches it; where that fails, says so once, because the worker lives all the same."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            self._trouble = ""
        except OSError as error:
            if str(error) != self._trouble:
                log.warning("FARM_HEALTH_FILE cannot be touched: %s", error)
            self._trouble = str(error)


def run(settings: Settings, worker_id: str, stop: threading.Event) -> None:
    """Rounds until told to stop, with one line of log per change between well and not."""
    reconciler: Reconciler | None = None
    trouble = ""
    while True:
        try:
            if reconciler is None:
                store = open_store(settings.database, lease_s=settings.lease_s)
                reconciler = Reconciler(
                    store,
                    RedisBroker(settings.broker_url or ""),
                    worker_id,
                    settings.reconcile_s,
                    on_life=Pulse(settings.health_file),
                    # From the last look in vain, which may be that long before the first good one.
                    grace_s=settings.lease_s + settings.reconcile_s,
                )
            reconciler.step()
            if trouble:
                log.info("well again")
            trouble = ""
        except FarmError as error:
            if str(error) != trouble:
                level = logging.WARNING if isinstance(error, Unreachable) else logging.ERROR
                log.log(level, "cannot reconcile: %s", error)
            trouble = str(error)
        if stop.wait(settings.reconcile_s):
            return


def main() -> None:
    """Reconciles until it is told to stop; the command line is WORKER PARENT LOG_LEVEL."""
    worker_id, _, level = sys.argv[1:]
    # A terminal's Ctrl-C is for the worker, which ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s reconciler: %(message)s")
    logging.getLogger("kombu").setLevel(logging.WARNING)
    run(load(), worker_id, stop)
