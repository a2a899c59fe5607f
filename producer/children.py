"""Child processes that leave nothing behind: a session and a log file each, and an end that comes for certain."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from producer import tether

_LAST_LINES = 15


class Child:
    """A running command, in a session of its own, that ends with us even when we are killed.

    Start it from the main thread: the kernel sends the parent-death signal when the *thread* that
    started the child ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Starts it.

        Args:
            name: what people call it.
            command: the program and its arguments; anyone on the host can read them, so no secrets.
            log: the file that its output is appended to.
            variables: set for it beside our own environment; secrets go here.
            folder: where it runs; None is where we do.
        """
        self.name = name
        self.log = log
        wrapper = [sys.executable, "-I", tether.__file__, str(os.getpid())]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(variables or {})},
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self, within_s: float = 0.0) -> int | None:
        """Its exit code once it has ended, waiting so long for that; None while it runs."""
        try:
            return self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            return None

    def family(self) -> list[psutil.Process]:
        """Its descendants, and what else is in its session; without itself."""
        found: dict[int, psutil.Process] = {}
        if self.ended() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found = {process.pid: process for process in psutil.Process(self.pid).children(recursive=True)}
        for process in psutil.process_iter():
            if process.pid != self.pid and _session(process.pid) == self.pid:
                found[process.pid] = process
        return list(found.values())

    def stopped(self) -> list[int]:
        """Ids of those of its processes, itself included, that somebody has stopped (SIGSTOP)."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() == psutil.STATUS_STOPPED:
                        found.append(process.pid)
        return found

    def terminate(self) -> None:
        """Asks it to end."""
        if self.ended() is None:
            self._process.terminate()

    def stop(self, patience_s: float) -> None:
        """Asks it to end, and after so many seconds ends it and all that it started."""
        # Looked up while it lives: the children of a dead process have another parent.
        family = self.family()
        self.terminate()
        self.ended(patience_s)
        family += self.family()
        self._process.kill()
        for process in family:
            _kill(process)
        self._process.wait()
        psutil.wait_procs(family, timeout=5)

    def last_lines(self) -> str:
        """The end of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LAST_LINES:])


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()  # psutil compares the start time, so a process id in its second use is safe
