"""Keeps a worker from claiming whose device or disk fails it, and brings it back when they serve again.

That a worker is quarantined stands in the store, so that everybody can see it and no claim gets past it. The
supervisor puts it there; the warden, in the process beside the worker, probes the device now and then.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from farm import locks
from farm.errors import FarmError
from farm.locks import Held
from farm.settings import Settings
from results_store.store import Store, WorkerInfo
from workers import bounds, processes

log = logging.getLogger(__name__)

#: Why a worker with a GPU claims nothing when it starts.
UNPROBED = "its device has not been probed yet"

#: What people can do about it, by the kind of device.
ADVICE = {
    "cpu": "If it does not, look at dmesg: memory, processor or disk may be broken.",
    "cuda": "If it does not, look at nvidia-smi and for Xid in dmesg, then reset the GPU or replace it.",
}

#: How often the warden looks whether there is something to do.
_LOOK_S = 2.0

#: What is wrong with a device that is held; None where it computes.
Probe = Callable[[Held], str | None]


def enter(store: Store, worker: WorkerInfo, problem: str, every_s: float, advice: str = "") -> None:
    """Quarantines a worker, and says so where that is news.

    Args:
        store: where it is noted.
        worker: the worker.
        problem: what is wrong with its device, or with the disk.
        every_s: how often that is looked at from then on.
        advice: what people can do about it, where the problem does not say so.

    Raises:
        Unreachable: the database does not answer.
    """
    if store.quarantine(worker.id, problem):
        hope = f"It is tried every {every_s:g} s and comes back by itself. {advice}".rstrip()
        log.error("worker %s is quarantined and claims nothing: %s. %s", worker.id, problem, hope)


class Warden:
    """Probes the device of one worker for as long as that is quarantined."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        worker_id: str,
        prober: Callable[[WorkerInfo], Probe],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker_id = worker_id
        self._prober = prober
        self._clock = clock
        #: When to probe. The first time at once: nobody knows how long ago the device was probed.
        self._due = -math.inf

    def step(self) -> None:
        """One look: a probe where the worker is quarantined and it is time for one.

        Raises:
            FarmError: the database does not answer, or the device's locks cannot be had.
        """
        if self._store.quarantined(self._worker_id) is None:
            # whoever quarantines it has just probed
            self._due = self._clock() + self._settings.probe_s
        elif self._clock() >= self._due:
            for worker in self._store.workers():
                if worker.id == self._worker_id:
                    self._probe(worker)
            self._due = self._clock() + self._settings.probe_s

    def run(self, stop: threading.Event) -> None:
        """Looks until told to stop, with one line of log per trouble."""
        processes.adopt_orphans()
        trouble = ""
        while not stop.wait(_LOOK_S):
            try:
                self.step()
                trouble = ""
            except Exception as error:
                # Broad: whatever is wrong with one look, without the next the worker would never come back.
                if str(error) != trouble:
                    log.warning(
                        "cannot look after the device: %s", error, exc_info=not isinstance(error, FarmError)
                    )
                trouble = str(error)

    def _probe(self, worker: WorkerInfo) -> None:
        problem, advice = bounds.no_room(self._settings), ""
        if problem is None:
            device = worker.threads, worker.device_uuid
            with locks.hold(self._settings.lock_dir, *device, part_of=worker.part_of) as held:
                problem, advice = self._prober(worker)(held), ADVICE[worker.device_kind]
        if problem is not None:
            enter(self._store, worker, problem, self._settings.probe_s, advice)
            return
        self._store.recover(worker.id)
        log.info("worker %s: its device computes, and it serves", worker.id)
