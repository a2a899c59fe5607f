"""The kernel's files in /proc and /sys: opened once, read often, and None where they are not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

#: The files are in there: another folder in tests.
ROOT = Path("/")

_CHUNK_BYTES = 1 << 16


class KernelFile:
    """A file that is another one at every reading, kept open: opening is most of the cost.

    Raises:
        OSError: it is not there or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def text(self) -> str:
        """What it says now; empty where it says nothing any more."""
        parts: list[bytes] = []
        at = 0
        with contextlib.suppress(OSError):
            while part := os.pread(self._descriptor, _CHUNK_BYTES, at):
                parts.append(part)
                at += len(part)
        return b"".join(parts).decode(errors="replace")

    def number(self) -> float | None:
        """It as one number; None where it is none."""
        with contextlib.suppress(ValueError):
            return float(self.text())
        return None

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)

    def __enter__(self) -> KernelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def text(path: Path) -> str | None:
    """What a file says, without spaces around it; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> float | None:
    """A file that holds one number; None where it cannot be read or holds something else."""
    with contextlib.suppress(ValueError):
        return float(text(path) or "")
    return None
