"""The host allocator: a heap with a history of its own, so that repeats do not all share one layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from farm import allocator

#: Where blocks of several sizes come to lie, from the first one on; with a seed, in a scattered heap.
PLACES = """
import ctypes, json, sys
from farm import allocator
allocator.apply("pinned_malloc")
if len(sys.argv) > 1:
    allocator.scatter(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
found = [libc.malloc(size) for size in (70_000, 5_000, 50_000, 1_000_000, 20_000, 100_000)]
print(json.dumps([place - found[0] for place in found]))
"""


def places(*seed: str) -> tuple[int, ...]:
    # else each process hashes, and so allocates, in its own way
    variables = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", PLACES, *seed]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def test_processes_that_do_the_same_lay_out_their_memory_alike_until_it_is_scattered() -> None:
    assert places() == places()
    assert len({places(str(seed)) for seed in range(4)}) == 4


def test_scattering_takes_next_to_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    allocator.scatter(1)
    assert resident() - before < 8 << 20
