"""What a worker needs of Linux and Python has no name for: whose child is whose, and which of them to end."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NoReturn

from farm.parent import prctl

_PR_SET_CHILD_SUBREAPER = 36

#: In the environment of all that a process starts which leaves nothing behind.
_MARK = "FARM_STARTED_FOR"

#: What is killed is looked for again after so long, and all in all for so long.
_DYING_S, _PATIENCE_S = 0.01, 1.0


def adopt_orphans() -> None:
    """Descendants of this process whose parent dies become its children, instead of init's."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def leave_nothing() -> None:
    """From now on, what this process starts, however far down, ends with it, however it ends.

    The kernel does that for a process's own children, where they ask for it, but not for theirs. So a process is
    forked from this one that waits for its end, and then kills what has its mark in the environment. To be called
    while there is one thread.
    """
    mark = secrets.token_hex(8)
    os.environ[_MARK] = mark
    ended = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        _follow(ended, mark)
    os.close(ended)


def children(parent: int | None = None) -> set[int]:
    """Ids of a process's children, zombies among them; by default of this one's."""
    wanted = os.getpid() if parent is None else parent
    return {
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == wanted
    }


def kill_children(but: AbstractSet[int] = frozenset(), within_s: float | None = None) -> None:
    """Kills and reaps this process's children, and those that they leave behind, but not the ones named.

    Args:
        but: ids of those that live on.
        within_s: what hangs in the kernel, so that no signal ends it, is waited for so long; None is to its end.
    """
    given_up_at = None if within_s is None else time.monotonic() + within_s
    while strays := children() - but:
        for stray in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0 if given_up_at is None else os.WNOHANG)
        if given_up_at is not None:
            if time.monotonic() >= given_up_at:
                return
            time.sleep(_DYING_S)


def kernel_oom_kills() -> int:
    """How many processes this kernel has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _follow(ended: int, mark: str) -> NoReturn:
    """Waits for the end of the process behind the descriptor, and ends what it leaves behind."""
    try:
        os.setsid()
        # Who waits for the end of a pipe that was open there must not wait for this process.
        os.dup2(ended, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        select.select([0], [], [])
        given_up_at = time.monotonic() + _PATIENCE_S
        # Again, because one may just have started another. What hangs in the kernel cannot be waited for.
        while _kill_marked(mark) and time.monotonic() < given_up_at:
            time.sleep(_DYING_S)
    finally:
        os._exit(0)


def _kill_marked(mark: str) -> bool:
    """Kills all that has the mark; whether there was any."""
    wanted, found = f"{_MARK}={mark}".encode(), False
    for entry in Path("/proc").iterdir():
        # Empty for a zombie; refused for what another user runs, which is none of ours.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                found = True
    return found


def _parent(entry: Path) -> int | None:
    with contextlib.suppress(OSError):
        # The second field is the program's name in parentheses, which may hold anything.
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None
