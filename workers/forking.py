"""The supervisor's side of templates: starts them, has children forked from them, ends them. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from workers.template import BATCH, MESSAGE_BYTES, READY, REAP

log = logging.getLogger(__name__)

#: What is run as a template; the descriptor of its channel and its parent's id are added.
TEMPLATE = (sys.executable, "-m", "workers.template")

#: A template has to be ready after so long; importing takes a few seconds.
START_S = 90.0

#: Where one could not be had, none is tried for so long.
PAUSE_S = 600.0

#: A template does nothing but answer: one that takes longer is stopped or wedged.
_ANSWER_S = 10.0

#: A process whose channel is closed is about to end.
_GOODBYE_S = 1.0

#: So much of what a template said is repeated where it failed.
_OUTPUT_BYTES = 2000


class Gone(OSError):
    """A template ended before it had forked what it was asked for."""


class Forked:
    """A child of a template; to be waited for like a `subprocess.Popen`."""

    def __init__(self, pid: int, template: Template) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template

    def wait(self) -> int:
        """Reaps it, which has ended or is being killed; its status, negative where a signal ended it."""
        if self.returncode is None:
            self.returncode = self._template.reap(self.pid)
        return self.returncode


class Template:
    """A template and the channel to it; the process is this one's child and ends with it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], processors: Collection[int]
    ) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the channel
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            self._close()
            raise
        finally:
            theirs.close()
        with contextlib.suppress(ProcessLookupError):
            # Importing shall not disturb what is measured on the others.
            os.sched_setaffinity(self._process.pid, processors)

    @property
    def pid(self) -> int:
        """Its process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def wait_ready(self, tick: Callable[[], object], tick_s: float) -> bool:
        """Waits for its imports, calling `tick` every `tick_s` seconds; False where it does not get there."""
        self._channel.settimeout(tick_s)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                ready = self._channel.recv(MESSAGE_BYTES) == READY
                self._channel.settimeout(_ANSWER_S)
                return ready
            tick()
        return False

    def fork(self, descriptors: Sequence[int]) -> Forked:
        """A child that has these: request, result, output, and locks.

        Raises:
            Gone: the template has ended.
        """
        with contextlib.suppress(OSError):
            count = str(len(descriptors)).encode()
            for first in range(0, len(descriptors), BATCH):
                socket.send_fds(self._channel, [count], descriptors[first : first + BATCH])
            answer = self._channel.recv(MESSAGE_BYTES)
            if answer:
                return Forked(int(answer), self)
        self._end()
        raise Gone(f"the template {self.pid} has ended, or does not answer")

    def reap(self, pid: int) -> int:
        """The status of the child, which has ended or is being killed."""
        with contextlib.suppress(OSError):
            self._channel.send(REAP)
            answer = self._channel.recv(MESSAGE_BYTES)
            if answer:
                return int(answer)
        # The template has died, and its child with it. Once it is reaped, its child is ours.
        self._end()
        with contextlib.suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return -signal.SIGKILL

    def said(self) -> str:
        """How it ended, and the last of what it wrote."""
        size = os.fstat(self._output.fileno()).st_size
        text = (
            os.pread(self._output.fileno(), _OUTPUT_BYTES, max(0, size - _OUTPUT_BYTES))
            .decode(errors="replace")
            .strip()
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"exit status {self._process.wait(_GOODBYE_S)}; {text or 'it said nothing'}"
        return f"not ready in {START_S:.0f} s; {text or 'it said nothing'}"

    def close(self) -> None:
        """Ends it, and its child."""
        self._end()
        self._close()

    def _close(self) -> None:
        self._channel.close()
        self._output.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class Templates:
    """The templates of this process: one for each set of variables that a library reads only at exec."""

    def __init__(self, command: Sequence[str] = TEMPLATE, on_start: Callable[[], object] = lambda: None) -> None:
        self._command = command
        #: Called whenever one is started.
        self._on_start = on_start
        self._living: dict[frozenset[tuple[str, str]], Template] = {}
        self._not_before: dict[frozenset[tuple[str, str]], float] = {}

    def __enter__(self) -> Templates:
        return self

    def __exit__(self, *_: object) -> None:
        while self._living:
            self._living.popitem()[1].close()

    def get(
        self,
        variables: Mapping[str, str],
        environment: Mapping[str, str],
        processors: Collection[int],
        tick: Callable[[], object],
        tick_s: float,
    ) -> Template | None:
        """The template that has these variables, started where none lives; None where it cannot be had.

        Args:
            variables: what has to be there at exec.
            environment: of a template that is started, these variables among it.
            processors: where it imports.
            tick: called every `tick_s` seconds meanwhile.
            tick_s: see there.
        """
        key = frozenset(variables.items())
        known = self._living.get(key)
        if known is not None and known.alive:
            return known
        if known is not None:
            log.warning("the template has ended and is started again: %s", known.said())
            self._living.pop(key).close()
        if time.monotonic() < self._not_before.get(key, 0.0):
            return None
        try:
            self._living[key] = self._started(environment, processors, tick, tick_s)
        except Gone as error:
            log.warning("for %.0f s all processes are started anew, without a template: %s", PAUSE_S, error)
            self._not_before[key] = time.monotonic() + PAUSE_S
        return self._living.get(key)

    def _started(
        self,
        environment: Mapping[str, str],
        processors: Collection[int],
        tick: Callable[[], object],
        tick_s: float,
    ) -> Template:
        try:
            started = Template(self._command, environment, processors)
        except OSError as error:
            raise Gone(str(error)) from error
        self._on_start()
        if not started.wait_ready(tick, tick_s):
            reason = started.said()
            started.close()
            raise Gone(reason)
        return started
