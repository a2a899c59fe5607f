"""Runs one child process and watches it until it is gone, whatever it does."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers import processes
from workers.forking import Forked, Template

#: A child may hand over so much. What a protocol can make at most is reckoned in tests/unit/test_result_size.py.
MAX_RESULT_BYTES = 64 * 1024 * 1024

#: So much of a child's output is kept, from its end.
MAX_OUTPUT_BYTES = 64 * 1024

#: A child that has handed over its result is given so long to end by itself.
GRACE_S = 5.0

#: What was killed ends at once, unless it hangs in the kernel, as in a driver; after so long that is said.
HANGS_S = 30.0

_CHUNK_BYTES = 256 * 1024


class Stopped(StrEnum):
    """Why the supervisor ended a child."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"
    TOO_LARGE = "too_large"
    NO_ROOM = "no_room"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended."""

    #: None where it ended by itself.
    stopped: Stopped | None
    #: As `subprocess` has it: negative is the signal that killed it.
    status: int
    result: bytes
    #: The last of what it wrote to stdout and stderr.
    output: bytes
    #: The kernel ran out of memory meanwhile and killed somebody.
    memory_ran_out: bool


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What to run, and how to watch it."""

    #: The numbers of two descriptors are added: where the request is read, where the result is written.
    command: Sequence[str]
    request: Mapping[str, Any]
    environment: Mapping[str, str]
    #: Descriptors that the child inherits besides.
    descriptors: Sequence[int]
    deadline_s: float
    #: Called every `tick_s`; its answer ends the child.
    tick: Callable[[], Stopped | None]
    tick_s: float
    #: Called with the child's process id every `observe_s`; None is never. It raises nothing and is quick.
    observe: Callable[[int], None] | None = None
    observe_s: float = 1.0
    #: What the child is forked from; None starts the command anew.
    template: Template | None = None
    #: Told the child's process id where it was killed and is still there after `HANGS_S`; then it is waited for.
    hangs: Callable[[int], None] = lambda pid: None


def run(watched: Watched, oom_kills: Callable[[], int] = processes.kernel_oom_kills) -> Ended:
    """Runs a child to its end; afterwards neither it nor anything that it started is left.

    Raises:
        Gone: the template could not fork it.
        OSError: it could not be started.
    """
    killed_before = oom_kills()
    with _started(watched) as child:
        stopped = _watch(child, watched)
        child.end()
        return Ended(
            stopped=stopped,
            status=child.process.wait(),
            result=bytes(child.result),
            output=bytes(child.output[-MAX_OUTPUT_BYTES:]),
            memory_ran_out=oom_kills() > killed_before,
        )


class _Child:
    """A running child and what has come from it so far."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | Forked,
        result: int,
        output: int,
        siblings: set[int],
        hangs: Callable[[int], None],
    ) -> None:
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)
        self.result = bytearray()
        self.output = bytearray()
        self.result_source = result
        self._sources = {result: self.result, output: self.output}
        self._siblings = siblings
        self._hangs = hangs

    @property
    def sources(self) -> tuple[int, ...]:
        """Descriptors that still have something to say."""
        return tuple(self._sources)

    def read(self, source: int) -> int | None:
        """Reads what is there; how much it was: 0 at the end, None where nothing is there yet."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(source, _CHUNK_BYTES)
            kept = self._sources[source]
            kept += data
            if kept is self.output:
                del kept[:-MAX_OUTPUT_BYTES]
            if not data:
                del self._sources[source]
            return len(data)
        return None

    def drain(self) -> None:
        """Reads what the child left in its pipes; what it started may still hold them open."""
        for source in self.sources:
            # Bounded, because such a process may go on writing.
            for _ in range(2 * MAX_RESULT_BYTES // _CHUNK_BYTES):
                if len(self.result) > MAX_RESULT_BYTES or not self.read(source):
                    break

    def end(self) -> None:
        """Kills and reaps it, its session, and whatever it started outside of that."""
        if self.process.returncode is None:
            # Not reaped yet, so the number is still that of its session, where others may live on. One that was
            # forked just now may not have its session yet.
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(self.process.pid, signal.SIGKILL)
            self._await_end()
            self.process.wait()
        processes.kill_children(but=self._siblings)

    def _await_end(self) -> None:
        """Until it is gone: whoever holds its locks must not use the device before."""
        gone = select.poll()
        gone.register(self.pidfd, select.POLLIN)
        if not gone.poll(HANGS_S * 1000):
            self._hangs(self.process.pid)
            gone.poll()


@contextlib.contextmanager
def _started(watched: Watched) -> Iterator[_Child]:
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        request = os.memfd_create("request")
        theirs.callback(os.close, request)
        with os.fdopen(os.dup(request), "wb") as writer:
            writer.write(json.dumps(_request(watched)).encode())
        os.lseek(request, 0, os.SEEK_SET)
        result, result_end = _pipe(ours, theirs)
        output, output_end = _pipe(ours, theirs)
        siblings = processes.children()
        # Also where a template dies of it.
        ours.callback(processes.kill_children, but=siblings)
        process = _begun(watched, request, result_end, output_end)
        child = _Child(process, result, output, siblings, watched.hangs)
        ours.callback(os.close, child.pidfd)
        ours.callback(child.end)
        theirs.close()
        yield child


def _request(watched: Watched) -> dict[str, Any]:
    """The request, with what the child has to know of how it began."""
    if watched.template is None:
        return {**watched.request, "isolation": "spawn", "parent": os.getpid()}
    forked = {"isolation": "fork", "parent": watched.template.pid, "environment": dict(watched.environment)}
    return {**watched.request, **forked}


def _begun(watched: Watched, request: int, result: int, output: int) -> subprocess.Popen[bytes] | Forked:
    if watched.template is not None:
        return watched.template.fork((request, result, output, *watched.descriptors))
    return subprocess.Popen(
        [*watched.command, str(request), str(result)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(watched.environment),
        pass_fds=(*watched.descriptors, request, result),
        start_new_session=True,
    )


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    os.set_blocking(reading, False)
    return reading, writing


def _watch(child: _Child, watched: Watched) -> Stopped | None:
    """Waits until the child ends or has to be ended; says which."""
    deadline = time.monotonic() + watched.deadline_s
    next_tick = time.monotonic() + watched.tick_s
    next_look = math.inf if watched.observe is None else time.monotonic() + watched.observe_s
    with selectors.DefaultSelector() as selector:
        for source in (*child.sources, child.pidfd):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = selector.select(max(0.0, min(deadline, next_tick, next_look) - time.monotonic()))
            if _take(child, selector, [key.fd for key, _ in ready]):
                deadline = min(deadline, time.monotonic() + GRACE_S)
            if len(child.result) > MAX_RESULT_BYTES:
                return Stopped.TOO_LARGE
            if any(key.fd == child.pidfd for key, _ in ready):
                child.drain()
                return Stopped.TOO_LARGE if len(child.result) > MAX_RESULT_BYTES else None
            if time.monotonic() >= deadline:
                return Stopped.TIMEOUT
            if watched.observe is not None and time.monotonic() >= next_look:
                watched.observe(child.process.pid)
                next_look = time.monotonic() + watched.observe_s
            if time.monotonic() >= next_tick:
                stopped = watched.tick()
                if stopped is not None:
                    return stopped
                next_tick = time.monotonic() + watched.tick_s


def _take(child: _Child, selector: selectors.BaseSelector, ready: list[int]) -> bool:
    """Reads what is ready; whether the result is complete with it."""
    complete = False
    for source in ready:
        if source != child.pidfd and child.read(source) == 0:
            selector.unregister(source)
            complete |= source == child.result_source and bool(child.result)
    return complete
