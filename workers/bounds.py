"""What a child may take of its host: memory, the size of a file, room on the disk.

The child binds itself, first of all; the supervisor watches the rest.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from farm.errors import OutOfMemory

if TYPE_CHECKING:
    # A child imports nothing before it is bound.
    from farm.settings import Settings

_MIB = 1 << 20
#: What the threads of two libraries map for each processor and hardly touch: a stack and an arena of glibc each.
_RESERVED_BYTES = 2 * (8 + 64) * _MIB
_WHAT = {"memory": resource.RLIMIT_DATA, "file": resource.RLIMIT_FSIZE}

#: Enough to report that memory ran out.
_SPARE_BYTES = 4 * _MIB

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def of(settings: Settings, device_kind: str) -> dict[str, int]:
    """The bounds of one process that uses this kind of device, in bytes, by what they bound.

    Beside a GPU, memory is bounded only where the settings say so: no GPU has run it.
    """
    found = {"file": settings.disk_limit_mb * _MIB}
    if settings.memory_limit_mb is not None:
        found["memory"] = settings.memory_limit_mb * _MIB
    elif device_kind == "cpu":
        found["memory"] = host_memory_bytes() + _RESERVED_BYTES * len(os.sched_getaffinity(0))
    return found


def bind(bounds: Mapping[str, int]) -> None:
    """Binds this process, and each that it will start, to these bounds.

    Memory is what is private and can be written (RLIMIT_DATA; since Linux 4.7 also where it is mapped). Not the
    address space: CUDA reserves terabytes of that, and weights that are mapped to be read cost no memory.
    """
    for name, what in _WHAT.items():
        if name in bounds:
            _, hard = resource.getrlimit(what)
            limit = bounds[name] if hard == resource.RLIM_INFINITY else min(bounds[name], hard)
            resource.setrlimit(what, (limit, hard))


def unbind() -> None:
    """Lets this process take what it likes again."""
    for what in _WHAT.values():
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (hard, hard))


def spare() -> mmap.mmap:
    """Memory that counts as taken until it is closed, though nothing lies in it."""
    return mmap.mmap(-1, _SPARE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def explained(error: Exception, bounds: Mapping[str, int]) -> str:
    """An error's text, with the bound that it may have come from."""
    text = str(error) or ("host memory ran out" if isinstance(error, MemoryError) else type(error).__name__)
    if isinstance(error, OSError) and error.errno == errno.EFBIG and "file" in bounds:
        return f"{text}: a file may have {bounds['file'] // _MIB} MiB (FARM_DISK_LIMIT_MB)"
    if isinstance(error, OutOfMemory | MemoryError) and "memory" in bounds and "cuda" not in text.lower():
        return f"{text}: a process may take {bounds['memory'] // _MIB} MiB (FARM_MEMORY_LIMIT_MB, or all there is)"
    return text


def host_memory_bytes(own: Path = _OWN_CGROUPS, cgroups: Path = _CGROUPS) -> int:
    """The memory that there is for this process: the host's, or what its container may take of it.

    Args:
        own: the kernel's list of the control groups that this process is in.
        cgroups: where their files are.
    """
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup_limits(own, cgroups)])


def no_room(settings: Settings) -> str | None:
    """Why nothing shall be begun, where the disk of the data is all but full, or broken; None where it is not."""
    folder = settings.data_dir.resolve()
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if shutil.disk_usage(there).free >= settings.disk_free_mb * _MIB:
            return None
    except OSError as error:
        return f"the disk of {folder} does not answer ({error.strerror})"
    # the same words each time, so that it is said once
    return (
        f"less than {settings.disk_free_mb} MiB are free in {folder} (FARM_DISK_FREE_MB): make room, for instance "
        "with `python -m farm cache clear`"
    )


def taken_bytes(folder: Path) -> int:
    """What the files in a folder take on the disk."""
    taken = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                taken += (Path(place) / name).lstat().st_blocks * 512
    return taken


def _cgroup_limits(own: Path, cgroups: Path) -> list[int]:
    """The limits on memory of this process's control groups and of those that they are in, of either version."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                found += _limits(cgroups, path, "memory.max")
            elif "memory" in controllers.split(","):
                found += _limits(cgroups / "memory", path, "memory.limit_in_bytes")
    return found


def _limits(root: Path, path: str, file: str) -> list[int]:
    """A container may see its own group as the root, and the path from the host: every part of it is tried."""
    found = []
    group = Path(path.lstrip("/"))
    for place in (root / group, *(root / parent for parent in group.parents)):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int((place / file).read_text()))
    return found
