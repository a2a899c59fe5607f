"""One running worker: registered while it serves, a reconciler beside it, nothing left when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from farm import queue, scratch
from farm.errors import FarmError
from farm.settings import Settings
from results_store.store import WorkerInfo, open_store
from workers import metrics, processes
from workers.forking import Templates
from workers.supervisor import CHILD, Supervisor

log = logging.getLogger(__name__)

#: A reconciler that ended by itself is started again after so long.
_RESTART_PAUSE_S = 1.0

#: It may take so long to end when it is told to.
_PATIENCE_S = 3.0


class Service:
    """Serves one device until told to stop."""

    def __init__(
        self,
        settings: Settings,
        worker: WorkerInfo,
        log_level: str,
        *,
        command: tuple[str, ...] = CHILD,
        template: tuple[str, ...] | None = None,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._log_level = log_level
        self._command = command
        self._template = template
        self._companion: Companion | None = None

    def run(self) -> int:
        """Serves; the exit status.

        Raises:
            Unreachable: broker or database do not answer at the start. Later, they may come and go.
            BadInput: the port for Prometheus cannot be had.
        """
        queue.check(self._settings.broker_url or "")
        scratch.sweep(self._settings)
        with metrics.folder(self._settings) as counted:
            return self._run(counted)

    def _run(self, counted: Path | None) -> int:
        with contextlib.closing(open_store(self._settings.database, lease_s=self._settings.lease_s)) as store:
            store.register(self._worker)
        try:
            # What the pool's process leaves behind when it is killed shall be found when this one leaves.
            processes.adopt_orphans()
            with Companion(self._reconciler(counted), self._port()) as self._companion:
                return queue.serve(
                    self._settings.broker_url or "",
                    name=self._worker.id,
                    queues=self._worker.queues,
                    handler=Handler(self._settings, self._worker, self._command, self._template, counted),
                    on_ready=self._say_ready,
                    on_abort=self._leave_at_once,
                    drain_s=self._settings.drain_s,
                    log_level=self._log_level,
                )
        finally:
            self._leave("the worker stopped")

    def _reconciler(self, counted: Path | None) -> tuple[str, ...]:
        arguments: tuple[str, ...] = (self._worker.id, str(os.getpid()), self._log_level)
        if counted is not None:
            arguments += (str(counted), self._worker.device_model, *self._worker.queues)
        return (sys.executable, "-m", "workers.companion", *arguments)

    def _port(self) -> dict[str, str]:
        """A port that was named on the command line: all else the reconciler reads where this process did."""
        return {"FARM_METRICS_PORT": str(self._settings.metrics_port)}

    def _say_ready(self) -> None:
        device = f"{self._worker.device_model}, {self._worker.threads} threads"
        sentence = f"ready: {self._worker.id} on {device}; queues: {', '.join(self._worker.queues)}"
        if self._settings.log_format == "json":
            log.info(sentence)
        else:
            print(sentence, flush=True)

    def _leave_at_once(self) -> None:
        if self._companion is not None:
            self._companion.leave()
        # The pool's process among them. What that had started dies with it or becomes our child.
        processes.kill_children(within_s=_PATIENCE_S)
        self._leave("the worker was stopped in the middle of the job")

    def _leave(self, reason: str) -> None:
        """Hands back what is still held, and is no longer counted on."""
        try:
            with contextlib.closing(open_store(self._settings.database, lease_s=self._settings.lease_s)) as store:
                handed_back = store.release(self._worker.id, reason)
                store.deregister(self._worker.id)
        except FarmError as error:
            log.warning("left without saying so; the lease will tell: %s", error)
            return
        if handed_back:
            log.warning("%d job handed back", handed_back)


class Handler:
    """Serves messages in the pool's process, with a store of that process's own."""

    def __init__(
        self,
        settings: Settings,
        worker: WorkerInfo,
        command: tuple[str, ...],
        template: tuple[str, ...] | None,
        counted: Path | None = None,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._command = command
        #: Where is counted for Prometheus; None where nobody wants that.
        self._counted = counted
        #: What is run as a template; None starts every process anew.
        self._template = template
        self._process = 0
        self._supervisor: Supervisor | None = None

    def __call__(self, job_id: str) -> str:
        """How the job that the message names, or the next one, ended."""
        return self._of_this_process().handle(job_id)

    def _of_this_process(self) -> Supervisor:
        # Neither connections nor children survive a fork, and the pool forks its process anew when it dies.
        if self._supervisor is None or self._process != os.getpid():
            store = open_store(self._settings.database, lease_s=self._settings.lease_s)
            figures = metrics.opened(self._counted)
            figures.started("pool")
            restarted = partial(figures.started, "template")
            templates = None if self._template is None else Templates(self._template, restarted)
            self._supervisor = Supervisor(
                store, self._settings, self._worker, command=self._command, templates=templates, figures=figures
            )
            self._process = os.getpid()
            processes.leave_nothing()
        return self._supervisor


class Companion:
    """A process that is started again whenever it ends, until this one leaves the `with`."""

    def __init__(self, command: tuple[str, ...], variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self._command = command
        #: Set for it beside our own environment.
        self._variables = variables
        self._leaving = threading.Event()
        #: Held to start the process or to decide that it is not started again.
        self._starting = threading.Lock()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name="companion", daemon=True)

    def __enter__(self) -> Companion:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._keeper.join(_PATIENCE_S)
        self._process.kill()
        self._keeper.join()

    def leave(self) -> None:
        """Ends the process, which is not started again."""
        self._leaving.set()
        with self._starting:
            self._process.terminate()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._variables},
            start_new_session=True,
        )

    def _keep(self) -> None:
        while True:
            status = self._process.wait()
            if self._leaving.wait(_RESTART_PAUSE_S):
                return
            log.error("the reconciler ended (%d) and is started again", status)
            with self._starting:
                if self._leaving.is_set():
                    return
                try:
                    self._process = self._start()
                except OSError as error:
                    log.error("the reconciler cannot be started, which is tried again: %s", error)
