"""The host allocator of a measuring process: the farm's pinned one, glibc untouched, or jemalloc.

With glibc's thresholds unset, what a call costs depends on the heap's history: large tensors are mapped
and unmapped anew, thousands of page faults a call, or are not. Pinned means: everything comes from the
heap, and the heap is never given back.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

from farm.errors import Unsupported

_NEVER = 2**40
_TOP_PAD = 64 * 2**20

#: glibc's `mallopt` parameters (malloc.h) and the environment variables with the same effect.
_PINNED = (
    (-1, "MALLOC_TRIM_THRESHOLD_", 2**31 - 1, _NEVER),
    (-2, "MALLOC_TOP_PAD_", _TOP_PAD, _TOP_PAD),
    (-4, "MALLOC_MMAP_MAX_", 0, 0),
)


def require(allocator: str) -> None:
    """Passes where this host has the allocator.

    Raises:
        Unsupported: it has not.
    """
    if allocator == "jemalloc" and ctypes.util.find_library("jemalloc") is None:
        raise Unsupported("jemalloc is not installed: apt-get install libjemalloc2")


def variables(allocator: str) -> dict[str, str]:
    """Environment variables with which a measuring process must be started."""
    if allocator == "jemalloc":
        return {"LD_PRELOAD": ctypes.util.find_library("jemalloc") or ""}
    return {name: str(value) for _, name, _, value in _PINNED} if allocator == "pinned_malloc" else {}


def in_use() -> str:
    """What allocates in this process: `jemalloc` where it is loaded, else `glibc`."""
    return "jemalloc" if "libjemalloc" in Path("/proc/self/maps").read_text() else "glibc"


def apply(allocator: str) -> None:
    """The same for a process that is already running, as far as glibc lets it; call it before any work.

    Where the C library has no `mallopt`, nothing is pinned; faults per call are recorded and show it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator != "pinned_malloc" or mallopt is None:
        return
    for parameter, _, value, _ in _PINNED:
        mallopt(parameter, ctypes.c_int(value))
