"""What a worker needs of Linux and Python has no name for: whose child is whose, and which of them to end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Set as AbstractSet
from pathlib import Path

from farm.parent import prctl

_PR_SET_CHILD_SUBREAPER = 36


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


def kernel_oom_kills() -> int:
    """How many processes this kernel has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _parent(entry: Path) -> int | None:
    with contextlib.suppress(OSError):
        # The second field is the program's name in parentheses, which may hold anything.
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None
