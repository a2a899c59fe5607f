"""A small process beside each worker: says that it lives, takes back what was lost, refills the queues, and looks
after a device that failed.

`workers.companion` runs it as WORKER PARENT LEVEL [FOLDER DEVICE QUEUE…]. With a folder it also serves what is
counted there for Prometheus. Safe to run many times over: the work on the store is done under a lock in the store,
by one of them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from farm import logs, queue
from farm.errors import BadInput, FarmError, Unreachable
from farm.settings import Settings, load
from results_store.store import Store, open_store
from workers import metrics
from workers.metrics import Figures
from workers.probe import Prober
from workers.quarantine import Warden
from workers.supervisor import CHILD

# By its name, and not as __main__.
log = logging.getLogger("workers.reconciler")

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
        figures: Figures | None = None,
        grace_s: float = 0.0,
        *,
        was_away: bool = False,
    ) -> None:
        self._store = store
        self._broker = broker
        self._worker_id = worker_id
        self._lock_s = 3 * every_s
        self._clock = clock
        self._on_life = on_life
        self._figures = figures or Figures()
        #: Leases run out while the database is away: who has kept a result then has so long to come back with it
        #: before the job is given to somebody else.
        self._grace_s = grace_s
        #: Also where the database has just come back for the first time that it was looked for.
        self._patient_until = clock() + (grace_s if was_away else 0.0)
        #: Job → (when it may be published again, the pause after that).
        self._published: dict[str, tuple[float, float]] = {}
        #: Who served when it was last looked: whoever is new may do what nobody could.
        self._serving: frozenset[str] = frozenset()

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
        self._figures.reconciled(done)
        if done.requeued or done.failed:
            log.info("jobs whose worker vanished: %d queued again, %d failed", done.requeued, done.failed)
        return self._refill()

    def _refill(self) -> int:
        """Publishes what the queues lack that living workers serve."""
        serving = [worker for worker in self._store.workers() if worker.quarantined is None]
        self._welcome(frozenset(worker.id for worker in serving))
        served = {name for worker in serving for name in worker.queues}
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
        self._figures.published(sent)
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
            if job in self._published and self._store.waits_for_another("", job):
                # Somebody could take it: its message was used up by one who may not, or is quarantined.
                pause_s = FIRST_PAUSE_S
            self._published[job] = (now + pause_s, min(2 * pause_s, LONGEST_PAUSE_S))

    def _welcome(self, serving: frozenset[str]) -> None:
        """Where somebody has come, nothing waits for messages that led to nothing before."""
        if serving - self._serving:
            self._published.clear()
        self._serving = serving

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


def run(settings: Settings, worker_id: str, stop: threading.Event, counted: Path | None = None) -> None:
    """Rounds until told to stop, with one line of log per change between well and not."""
    figures = metrics.opened(counted)
    figures.started("reconciler")
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
                    figures=figures,
                    # From the last look in vain, which may be that long before the first good one.
                    grace_s=settings.lease_s + settings.reconcile_s,
                    was_away=bool(trouble),
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
        if counted is not None:
            metrics.touch(counted)
        if stop.wait(settings.reconcile_s):
            return


def _guarded(settings: Settings, worker_id: str, stop: threading.Event) -> None:
    """Looks after the worker's device until told to stop; waits for the database to be there."""
    while not stop.is_set():
        try:
            store = open_store(settings.database, lease_s=settings.lease_s)
        except FarmError as error:
            log.debug("the warden waits: %s", error)  # the reconciler says it
            stop.wait(settings.reconcile_s)
            continue
        Warden(store, settings, worker_id, lambda worker: Prober(settings, worker.device_kind, CHILD)).run(stop)


def main() -> None:
    """Reconciles until it is told to stop; the command line is WORKER PARENT LEVEL and what is to be served."""
    worker_id, _, level, *figures = sys.argv[1:]
    # A terminal's Ctrl-C is for the worker, which ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = load()
    logs.set_up(level, settings.log_format, worker=worker_id)
    logging.getLogger("kombu").setLevel(logging.WARNING)
    # In a thread of its own: a probe may wait for its device, and the worker has to be seen alive meanwhile.
    threading.Thread(target=_guarded, args=(settings, worker_id, stop), name="warden", daemon=True).start()
    with contextlib.ExitStack() as serving:
        if figures:
            _serve(serving, settings, worker_id, *figures)
        run(settings, worker_id, stop, Path(figures[0]) if figures else None)


def _serve(
    serving: contextlib.ExitStack, settings: Settings, worker_id: str, folder: str, device: str, *queues: str
) -> None:
    metrics.keep_in(Path(folder))
    broker = RedisBroker(settings.broker_url or "")
    about = {"worker": worker_id, "device": device}
    try:
        serving.enter_context(metrics.served(Path(folder), settings, lambda: broker.waiting(queues), **about))
    except BadInput as error:
        log.error("no figures for Prometheus: %s", error)
