"""Jobs that harm whoever measures them: each as a script of a canned child and as a plug-in of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farm.measurement import Outcome
from results_store.values import MAX_FAILURES, State


@dataclass(frozen=True, kw_only=True)
class Poison:
    """One way to do harm, and how its job has to end."""

    #: What the process does; see `DO` for what it may use.
    does: str
    outcome: Outcome
    #: Part of the reason that is stored.
    reason: str = ""
    #: What a canned process does instead, or after that.
    canned: str = ""
    #: What the session of the real process does besides, once it is loaded.
    session: str = ""
    #: Part of what is stored of its output.
    says: str = ""

    @property
    def state(self) -> State:
        """How its job ends: a process that crashed or hung is no result."""
        return State.DONE if self.outcome.is_result else State.FAILED

    @property
    def is_tried_again(self) -> bool:
        """Crashes and hangs may have been chance, or the device's fault."""
        return self.outcome in (Outcome.CRASHED, Outcome.TIMEOUT)

    @property
    def attempts(self) -> int:
        """How often its job is tried."""
        return MAX_FAILURES if self.is_tried_again else 1


_OUT_OF_MEMORY = 'answer.clear()\nanswer.update(outcome="out_of_memory", reason="host memory ran out")'

POISONS: Mapping[str, Poison] = {
    "segfault": Poison(does="ctypes.string_at(0)", outcome=Outcome.CRASHED, reason="SIGSEGV", says="Segmentation"),
    "abort": Poison(does="os.abort()", outcome=Outcome.CRASHED, reason="SIGABRT", says="Aborted"),
    "memory": Poison(
        # Of its own address space, not of the host that others share.
        does="""
resource.setrlimit(resource.RLIMIT_AS, (vm_bytes() + (256 << 20),) * 2)
held = []
while True:
    held.append(bytearray(16 << 20))
""",
        canned=_OUT_OF_MEMORY,
        outcome=Outcome.OUT_OF_MEMORY,
        reason="memory",
    ),
    "hang": Poison(does="while True: time.sleep(60)", outcome=Outcome.TIMEOUT, reason="took longer than"),
    "stubborn": Poison(
        does="""
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
        outcome=Outcome.TIMEOUT,
        reason="took longer than",
    ),
    # Loud, but what it measures is none the worse for it.
    "gigabyte": Poison(does="for _ in range(1024): os.write(1, b'x' * (1 << 20))", outcome=Outcome.OK, says="xxx"),
    "nan": Poison(
        does="",
        canned='answer["measurement"]["accuracy"]["finite"] = False',
        session="run = session.run; session.run = lambda images: run(images) * float('nan')",
        outcome=Outcome.OK,
    ),
    "fat": Poison(
        does="",
        canned='answer["measurement"]["evidence"] = {"padding": "x" * 50_000_000}',
        session="session.evidence = lambda images: {'padding': 'x' * 50_000_000}",
        outcome=Outcome.ERROR,
        # Less than a result may have; but no measurement has so much beside its samples.
        reason="is no measurement: ",
    ),
    "orphans": Poison(
        does="""
for session in (True, False):
    subprocess.Popen(["sleep", "3600"], start_new_session=session, close_fds=False)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    os._exit(0)
""",
        outcome=Outcome.OK,
    ),
    "cuda": Poison(
        does="""
os.write(2, b"RuntimeError: CUDA error: an illegal memory access was encountered")
os._exit(1)
""",
        outcome=Outcome.CRASHED,
        reason="exit status 1",
        says="CUDA error: an illegal memory access was encountered",
    ),
}

#: What the scripts may use beside `request` and `answer`.
_USED = """
import ctypes, os, resource, signal, subprocess, time
def vm_bytes():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
"""

_PLUGIN = """
from farm.runtimes import Support
{used}

SUPPORT = Support(summary="does harm: {name}")


def load(workload, folder):
    from farm import torch_session

    session = torch_session.TorchSession(workload, torch_session.prepared(workload))
    exec({does!r}, globals())
    {session}
    return session
"""


def script(name: str) -> str:
    """What a canned child runs (`child.canned`)."""
    poison = POISONS[name]
    does = _USED + poison.does
    if poison.outcome is Outcome.OUT_OF_MEMORY:
        return f"try:\n    exec({does!r}, globals())\nexcept MemoryError:\n    globals().pop('held')\n" + "".join(
            f"    {line}\n" for line in poison.canned.splitlines()
        )
    return f"{does}\n{poison.canned}"


def plugins(folder: Path) -> Path:
    """Writes each as a runtime for the real child: a folder for `PYTHONPATH`; the runtimes' own is in it."""
    runtimes = folder / "farm" / "runtimes"
    runtimes.mkdir(parents=True)
    for name, poison in POISONS.items():
        text = _PLUGIN.format(used=_USED, name=name, does=poison.does, session=poison.session or "pass")
        (runtimes / f"{name}.py").write_text(text)
    return folder
