"""Files and folders that are replaced as a whole, once everything is on the disk, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def file(path: Path) -> Iterator[IO[str]]:
    """A text file to write, which takes the place of this one when the block ends; an error leaves the old one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as fresh:
            yield fresh
            fresh.flush()
            # mkstemp makes a file for its owner alone; a result is for whoever may read the folder
            os.fchmod(fresh.fileno(), 0o644)
            os.fsync(fresh.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


@contextmanager
def folder(path: Path, is_ours: Callable[[str], bool]) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of this one when the block ends; an error leaves the old.

    Args:
        path: what it will be called.
        is_ours: whether a file of this name was written by the farm.

    Raises:
        FileExistsError: the folder that is there holds files of somebody else.
    """
    strangers = (entry for entry in path.rglob("*") if not entry.is_dir() and not is_ours(entry.name))
    stranger = next(strangers, None)
    if stranger is not None or (path.exists() and not path.is_dir()):
        raise FileExistsError(errno.EEXIST, f"{stranger or path} is not the farm's, and would be lost")
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        # mkdtemp makes a folder for its owner alone; a result is for whoever may read the one around it
        fresh.chmod(0o755)
        yield fresh
        _swap(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _swap(fresh: Path, path: Path) -> None:
    """Puts the new folder in the place of the old one, or else leaves that where it is."""
    old = fresh.with_name(f"{fresh.name}.old")
    try:
        with suppress(FileNotFoundError):
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
