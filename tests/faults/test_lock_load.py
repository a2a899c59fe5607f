"""The locks on devices, taken by many processes as fast as they can."""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from farm import locks
from tests.faults.ledger import Row
from tests.redis_servers import eventually

pytestmark = pytest.mark.timeout(900)

PROCESSES = 8
TOKENS = (0, 1)
GPU = "GPU-0"

#: Which process, which processors as bits, the GPU as one more, and nanoseconds of CLOCK_MONOTONIC: from, until.
_RECORD = struct.Struct("=iiqq")
_GPU_BIT = 1 << len(TOKENS)


def test_eight_processes_never_overlap_and_none_starves(tmp_path: Path, whole: bool, rows: list[Row]) -> None:
    rounds = 1000 if whole else 150
    context = multiprocessing.get_context("spawn")
    done: Any = context.Array("i", PROCESSES)
    start = context.Barrier(PROCESSES)
    holders = [
        context.Process(target=acquire_often, args=(tmp_path, rank, rounds, done, start))
        for rank in range(PROCESSES)
    ]
    for holder in holders:
        holder.start()
    try:
        eventually(lambda: max(done) == rounds or any(h.exitcode for h in holders), within_s=600)
        when_first_was_done = list(done)
        for holder in holders:
            holder.join(600)
    finally:
        for holder in holders:
            holder.kill()
            holder.join()
    assert [holder.exitcode for holder in holders] == [0] * PROCESSES
    held = read(tmp_path)
    overlapping = overlaps(held)
    starved = [rank for rank, count in enumerate(when_first_was_done) if count < rounds // 5]
    rows.append(
        Row(
            scenario=f"{PROCESSES} processes take locks",
            database="none",
            faults=0,
            jobs=len(held),
            lost=PROCESSES * rounds - len(held),
            duplicated=0,
            overlapping=overlapping,
        )
    )
    assert len(held) == PROCESSES * rounds
    assert overlapping == 0
    assert not starved, f"of {rounds} rounds, when the first had all: {when_first_was_done}"


def acquire_often(folder: Path, rank: int, rounds: int, done: Any, start: Any) -> None:
    """A process: some want one processor, some all, some the GPU besides; each notes when it had them."""
    count, gpu = 1 + rank % 2, GPU if rank % 4 == 3 else None
    file = os.open(folder / "held", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    start.wait()
    for _ in range(rounds):
        with locks.hold(folder / "locks", count, gpu, among=TOKENS) as held:
            begun = time.monotonic_ns()
            devices = sum(1 << processor for processor in held.processors) | (_GPU_BIT if gpu else 0)
            time.sleep(0.0001 * (rank % 3))
            os.write(file, _RECORD.pack(rank, devices, begun, time.monotonic_ns()))
        done[rank] += 1


def read(folder: Path) -> list[tuple[int, int, int, int]]:
    """(process, devices, from, until) of every time that somebody had the locks."""
    return list(_RECORD.iter_unpack((folder / "held").read_bytes()))


def overlaps(held: list[tuple[int, int, int, int]]) -> int:
    """How often a device was taken by one while another had it."""
    found = 0
    for device in (*(1 << token for token in TOKENS), _GPU_BIT):
        there = sorted((begun, until) for _, devices, begun, until in held if devices & device)
        found += sum(later < until for (_, until), (later, _) in pairwise(there))
    return found


def test_an_overlap_would_be_seen() -> None:
    assert overlaps([(0, 1, 10, 20), (1, 1, 20, 30), (2, 2, 15, 25), (3, 3, 30, 40)]) == 0
    assert overlaps([(0, 1, 10, 20), (1, 3, 19, 30)]) == 1
