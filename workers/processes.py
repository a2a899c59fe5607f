"""What a worker needs of Linux and Python has no name for: whose child is whose, and which of them to end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

from farm.parent import prctl

#: In the environment of all that a worker's jobs start, however far down: whose it is.
MARK = "FARM_STARTED_FOR"

_PR_SET_CHILD_SUBREAPER = 36

#: What is killed is looked for again after so long, and all in all for so long.
_DYING_S, _PATIENCE_S = 0.01, 1.0


def adopt_orphans() -> None:
    """Descendants of this process whose parent dies become its children, instead of init's."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(parent: int | None = None) -> set[int]:
    """Ids of a process's children, zombies among them; by default of this one's."""
    wanted = os.getpid() if parent is None else parent
    return {
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == wanted
    }


def kill_children(but: AbstractSet[int] = frozenset()) -> None:
    """Kills and reaps this process's children, and those that they leave behind, but not the ones named."""
    while strays := children() - but:
        for stray in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0)


def kill_marked(mark: str) -> None:
    """Kills every process that was started with this mark, whoever is its parent by now."""
    given_up_at = time.monotonic() + _PATIENCE_S
    # Again, because one may just have started another. What hangs in the kernel cannot be waited for.
    while (marked := _marked(mark)) and time.monotonic() < given_up_at:
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_DYING_S)


def kernel_oom_kills() -> int:
    """How many processes this kernel has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _marked(mark: str) -> list[int]:
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        # Empty for a zombie; refused for what another user runs, which is none of ours.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _parent(entry: Path) -> int | None:
    with contextlib.suppress(OSError):
        # The second field is the program's name in parentheses, which may hold anything.
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None
