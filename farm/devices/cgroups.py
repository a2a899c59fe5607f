"""The control groups that this process is in (cgroups(7)): what they leave it, and whether they held it back.

Of either version, and of every group above its own: the tightest one counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from farm.devices.files import ROOT, number, text

_MOUNT = "sys/fs/cgroup"
#: Names of version 2 and of version 1: a limit, what is taken of it, and what of that is cache that can be had.
_MEMORY = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
#: The same of time that processes were held back for, with the unit in seconds.
_HELD_BACK = (("throttled_usec", 1e-6), ("throttled_time", 1e-9))


def processors(root: Path = ROOT) -> float | None:
    """Processors' worth of time that there is: 1.5 of `docker run --cpus=1.5`; None where it is not limited.

    Args:
        root: where /proc and /sys are.
    """
    allowed = (_processors(folder) for folder in _folders("cpu", root))
    return min((limit for limit in allowed if limit is not None), default=None)


def memory_bytes(root: Path = ROOT) -> float | None:
    """What may still be taken, with cache that can be had back; None where it is not limited."""
    free = (_memory_bytes(folder) for folder in _folders("memory", root))
    return min((left for left in free if left is not None), default=None)


def held_back_s(root: Path = ROOT) -> dict[Path, float]:
    """Processor time so far for which each group's limit stopped what wanted to run; empty where none tells.

    Added up over processors: two that were stopped for a second are two seconds.
    """
    told = {folder: _held_back_s(folder) for folder in _folders("cpu", root)}
    return {folder: seconds for folder, seconds in told.items() if seconds is not None}


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Where a controller's files may lie, each once.

    A container may see its own group as the root, and its path as the host does: every part of that is tried.
    """
    mount = root / _MOUNT
    found = [mount, mount / controller]
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        base = mount / controller if controllers else mount
        found += [base / place for place in (group, *group.parents) if ".." not in place.parts]
    return iter(dict.fromkeys(found))


def _processors(folder: Path) -> float | None:
    limit, _, period = (text(folder / "cpu.max") or "").partition(" ")
    if limit.isdigit() and period.isdigit() and int(period):
        return int(limit) / int(period)
    limit_us, period_us = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
    return limit_us / period_us if limit_us and period_us and limit_us > 0 else None


def _memory_bytes(folder: Path) -> float | None:
    for limit_name, taken_name, cache_names in _MEMORY:
        limit, taken = number(folder / limit_name), number(folder / taken_name)
        if limit is not None:
            cache = _counts(folder / "memory.stat")
            return limit - max(0.0, (taken or 0.0) - sum(cache.get(name, 0) for name in cache_names))
    return None


def _held_back_s(folder: Path) -> float | None:
    counts = _counts(folder / "cpu.stat")
    return next((counts[name] * unit for name, unit in _HELD_BACK if name in counts), None)


def _counts(file: Path) -> dict[str, int]:
    """A file of names and whole numbers, one on each line."""
    found = {}
    for line in (text(file) or "").splitlines():
        name, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            found[name] = int(value)
    return found
