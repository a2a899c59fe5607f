"""The live control: the baseline in a process beside the cell's, on the same device, in the same seconds.

The two take turns in short windows; who waits is blocked on a socket. The measuring process asks, the control
answers: `load`, then `window` as often as it likes. Closing the socket ends it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeAlias

import numpy as np

from farm import allocator
from farm.errors import ControlDied, FarmError, OutOfMemory, memory_errors
from farm.parent import die_with
from farm.recipe import AXES, Recipe
from farm.settings import Settings, load
from farm.spec import JobSpec
from farm.timing import Stopwatch

#: It ends at once when its socket closes, unless it is in the middle of a call.
_PATIENCE_S = 10.0
#: It answers within so long, whatever it is asked.
_ANSWER_S = 300.0

#: How it may say that it cannot.
_TROUBLE = {kind.__name__: kind for kind in (OutOfMemory, FarmError)}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One window of the control."""

    samples_ns: list[int]
    #: Processor time it took since its last window, while it should have been idle.
    idle_s: float
    #: Processor time of its process so far.
    cpu_s: float


def recipe_of(recipe: Recipe) -> Recipe:
    """The control of a recipe: the baseline with the same allocator."""
    return recipe.without(*(axis for axis in AXES if axis != "allocator"))


class LiveControl:
    """The measuring process's end."""

    def __init__(self, recipe: Recipe, connection: Connection[Any, Any], wait: Callable[[], int]) -> None:
        #: What it runs.
        self.recipe = recipe
        self._connection = connection
        self._wait = wait
        self._ended: int | None = None
        #: About how long a call of it takes, and its processor time once it was warm.
        self.call_s = self.loaded_cpu_s = 0.0

    def load(self) -> None:
        """Loads and warms up; returns when that is done, and it is known what a call of it takes.

        Raises:
            OutOfMemory: both together have too little.
            FarmError: it cannot, or it died.
        """
        loaded = self._ask("load")
        self.call_s, self.loaded_cpu_s = loaded["call_s"], loaded["cpu_s"]

    def window(self, *, lead: bool) -> Turn:
        """One window, and before it one call that does not count where `lead` says so.

        Raises:
            OutOfMemory, FarmError: as `load`.
        """
        return Turn(**self._ask("window", lead))

    def close(self) -> None:
        """Ends it and waits until it is gone."""
        self._connection.close()
        if self._ended is None:
            self._ended = self._wait()

    def _ask(self, what: str, lead: bool = False) -> Any:
        try:
            self._connection.send((what, lead))
            if not self._connection.poll(_ANSWER_S):
                self.close()
                raise ControlDied(f"The live control did not answer within {_ANSWER_S:g} s.")
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise self._death() from None
        if kind in _TROUBLE:
            raise _TROUBLE[kind](f"the live control: {answer}")
        return answer

    def _death(self) -> FarmError:
        if self._ended == -signal.SIGKILL:
            return OutOfMemory("the live control was killed, as the kernel does when memory runs out")
        return ControlDied(f"The live control ended with status {self._ended}; what it said is above.")


#: Starts the control of a job.
Starter: TypeAlias = Callable[[JobSpec, Settings], LiveControl]


@contextlib.contextmanager
def living(start: Starter, spec: JobSpec, settings: Settings) -> Iterator[LiveControl]:
    """A control that is gone when the `with` is left."""
    control = start(spec, settings)
    try:
        yield control
    finally:
        control.close()


def fork(spec: JobSpec, settings: Settings) -> LiveControl:
    """Forks it from this process, which must not have computed anything yet: threads do not survive a fork."""
    ours, theirs = Pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        # A call that hangs would keep it, and the device's locks, alive.
        die_with(parent)
        ours.close()
        _serve_and_end(theirs, spec, settings)
    theirs.close()
    return LiveControl(recipe_of(spec.recipe), ours, lambda: _waited(child))


def spawn(spec: JobSpec, settings: Settings) -> LiveControl:
    """Starts it anew, from a process that may have done anything."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "farm.control", str(theirs.fileno()), str(os.getpid())]
    variables = {**settings.without_secrets(), **allocator.variables(spec.recipe.allocator)}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables)
    theirs.close()
    ours.send(spec.model_dump_json())
    return LiveControl(recipe_of(spec.recipe), ours, lambda: _finished(process))


def serve(connection: Connection[Any, Any], spec: JobSpec, settings: Settings) -> None:
    """Answers until the other end is closed."""
    control = spec.model_copy(update={"recipe": recipe_of(spec.recipe)})
    with contextlib.suppress(EOFError, ConnectionError):
        connection.recv()
        try:
            with memory_errors():
                watch, call_s = _loaded(control, settings)
            idle_from = time.process_time()
            connection.send(("loaded", {"call_s": call_s, "cpu_s": idle_from}))
            while True:
                _, lead = connection.recv()
                began = time.process_time()
                with memory_errors():
                    samples = watch.short_window(spec.protocol.window_s, lead=lead)
                ended = time.process_time()
                turn = {"samples_ns": samples, "idle_s": began - idle_from, "cpu_s": ended}
                connection.send(("window", turn))
                idle_from = ended
        except FarmError as error:
            kind = next(name for name, kind in _TROUBLE.items() if isinstance(error, kind))
            connection.send((kind, str(error)))


def _loaded(spec: JobSpec, settings: Settings) -> tuple[Stopwatch, float]:
    """The control's device figure, warmed up, and about how long a call takes."""
    from farm import measuring

    watch = measuring.prepare(spec, settings).on_device
    warm, _ = watch.warm_up(spec.protocol)
    return watch, float(np.median(warm.samples_ns)) / 1e9


def _serve_and_end(connection: Connection[Any, Any], spec: JobSpec, settings: Settings) -> None:
    """A forked process's whole life: what its parent had to tidy up is not its own."""
    status = 1
    try:
        serve(connection, spec, settings)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _waited(child: int) -> int:
    """The wait status of a child that was told to end, as `subprocess` has it."""
    ended = os.pidfd_open(child)
    try:
        if not select.select([ended], [], [], _PATIENCE_S)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _finished(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main() -> None:
    """`python -m farm.control DESCRIPTOR PARENT`: the job comes over the socket first."""
    die_with(int(sys.argv[2]))
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    spec = JobSpec.model_validate_json(connection.recv())
    allocator.apply(spec.recipe.allocator)
    _serve_and_end(connection, spec, load())


if __name__ == "__main__":
    main()
