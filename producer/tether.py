"""Runs a command that is killed when its parent ends, however the parent ends.

    python tether.py PARENT_PID COMMAND [ARGUMENT…]

A program of its own, because the signal must be asked for in the child, between fork and exec, and
Python code run there (`preexec_fn`) can hang in a process that has threads. It imports nothing of the
project, so that it costs little.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Asks for the signal, then becomes the command."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the signal was asked for; then it will never come.
    if os.getppid() == parent:
        os.execvp(command[0], command)  # noqa: S606  # without a shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
