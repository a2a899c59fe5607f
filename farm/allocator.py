"""The host allocator of a measuring process: the farm's pinned one, glibc untouched, or jemalloc.

With glibc's thresholds unset, what a call costs depends on the heap's history: large tensors are mapped
and unmapped anew, thousands of page faults a call, or are not. Pinned means: everything comes from the
heap, and the heap is never given back.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import random
from pathlib import Path

from farm.errors import Unsupported

#: So many blocks of up to so many bytes give a heap its history; half of them stay.
_BLOCKS, _BLOCK_BYTES = 512, 128 * 1024

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


def scatter(seed: int) -> None:
    """Gives this process's heap a history of its own, before anything is loaded: blocks come and some go again.

    Where weights and activations happen to lie changes a latency by percents, and processes that do the same have
    them lie alike, so that no number of repeats would average that out (Curtsinger and Berger, Stabilizer, 2013).
    What stays is never written to, so it takes next to no memory.

    Args:
        seed: of the sizes, and of which ones stay.
    """
    libc, draw = ctypes.CDLL(None), random.Random(seed)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    blocks = [libc.malloc(draw.randint(1, _BLOCK_BYTES)) for _ in range(_BLOCKS)]
    for block in draw.sample(blocks, _BLOCKS // 2):
        libc.free(block)
