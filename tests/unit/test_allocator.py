"""The host allocator: a heap with a history of its own, so that repeats do not all share one layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from farm import allocator

#: Where blocks of several sizes come to lie, from the first one on, twice; with a seed, in a new layout each time.
PLACES = """
import ctypes, json, sys
from farm import allocator
allocator.apply("pinned_malloc")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
layout = allocator.Layout(int(sys.argv[1])) if len(sys.argv) > 1 else None
told = []
for _ in range(2):
    if layout is not None:
        layout.draw()
    found = [libc.malloc(size) for size in (70_000, 5_000, 50_000, 1_000_000, 20_000, 100_000)]
    told.append([place - found[0] for place in found])
    for place in found:
        libc.free(place)
print(json.dumps(told))
"""


def places(*seed: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    # else each process hashes, and so allocates, in its own way
    variables = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", PLACES, *seed]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    return tuple(first), tuple(second)


def test_processes_that_do_the_same_lay_out_their_memory_alike_until_a_layout_is_drawn() -> None:
    assert places() == places()
    assert len({places(str(seed)) for seed in range(4)}) == 4


def test_each_draw_is_another_layout() -> None:
    unmoved, again = places()
    assert unmoved == again
    first, second = places("1")
    assert first != second


def test_a_layout_takes_next_to_no_memory_and_many_no_more_than_the_blocks_of_one() -> None:
    layout, (mapped, resident) = allocator.Layout(1), _pages()
    layout.draw()
    assert _pages()[1] - resident < 8 << 20
    for _ in range(200):  # were nothing given back, each would take 16 MiB of addresses
        layout.draw()
    assert _pages()[0] - mapped < 96 << 20
    assert _pages()[1] - resident < 64 << 20


def _pages() -> tuple[int, int]:
    """Bytes of this process: mapped, and resident."""
    mapped, resident = Path("/proc/self/statm").read_text().split()[:2]
    return int(mapped) * os.sysconf("SC_PAGE_SIZE"), int(resident) * os.sysconf("SC_PAGE_SIZE")
