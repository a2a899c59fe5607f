"""A disk so small that it can be filled: a file system in memory, of its own, mounted for a test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHUNK = bytes(1 << 16)


@contextlib.contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """The folder of an empty file system of so many MiB, for everybody to write; gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the small file system that is to be filled")
    # A short name: sockets may be made in there, and their paths have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="farm-disk-"))
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0777", "farm-disk", str(folder))
        try:
            yield folder
        finally:
            # Lazily: what a process still has open goes with that process.
            _run("umount", "-l", str(folder))
    finally:
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Writes until there is no room on the disk; the file that takes it all, to be removed or cut."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(_CHUNK)
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    return filler


def is_full(disk: Path) -> bool:
    """Whether not a page can be written any more."""
    return os.statvfs(disk).f_bavail == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
