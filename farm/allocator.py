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

#: So many blocks of up to so many bytes give a heap its history; half of them stay until the next draw.
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


class Layout:
    """Where things come to lie in this process's heap: drawn anew as often as it is asked.

    Where weights and activations happen to lie changes a latency by percents. Processes that do the same have them
    lie alike, so that no number of repeats would average that out, and the one layout of a process is one sample
    of many (Curtsinger and Berger, Stabilizer, 2013). Blocks come and some go again, and what is allocated later
    finds other gaps. No block is ever written to: the first draw takes next to no memory, and however many follow,
    they take no more than the blocks of one.
    """

    def __init__(self, seed: int) -> None:
        """Draws nothing yet.

        Args:
            seed: of the blocks' sizes, and of which ones stay, each time.
        """
        self._draw = random.Random(seed)
        self._stay: list[int] = []
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype, self._libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        self._libc.free.restype, self._libc.free.argtypes = None, [ctypes.c_void_p]

    def draw(self) -> None:
        """Other gaps from here on; whatever lies in memory by now stays where it is."""
        self._free(self._stay)
        blocks = [self._libc.malloc(self._draw.randint(1, _BLOCK_BYTES)) for _ in range(_BLOCKS)]
        self._draw.shuffle(blocks)
        self._free(blocks[_BLOCKS // 2 :])
        self._stay = blocks[: _BLOCKS // 2]

    def _free(self, blocks: list[int]) -> None:
        for block in blocks:
            self._libc.free(block)
