from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm import locks
from farm.errors import BadInput, FarmError
from tests.redis_servers import eventually

ROUNDS = 100
TOKENS = (0, 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_four_processes_never_overlap_and_nobody_starves(directory: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    rounds: Any = context.Array("i", 4)
    start = context.Barrier(4)
    # two that always want both tokens, two that always want one
    workers = [
        context.Process(target=_acquire_often, args=(directory, tmp_path, count, rank, rounds, start))
        for rank, count in enumerate((2, 2, 1, 1))
    ]
    for worker in workers:
        worker.start()
    try:
        first_done = _rounds_when_first_is_done(rounds)
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0, "two processes had one token"
    finally:
        for worker in workers:
            worker.kill()
    assert list(rounds) == [ROUNDS] * 4
    assert min(first_done) >= ROUNDS // 5, f"somebody starved: {first_done}"


def _rounds_when_first_is_done(rounds: Any) -> list[int]:
    eventually(lambda: max(rounds) == ROUNDS, within_s=60)
    return list(rounds)


def _acquire_often(directory: Path, scratch: Path, count: int, rank: int, rounds: Any, start: Any) -> None:
    start.wait()
    for _ in range(ROUNDS):
        with locks.hold(directory, count, among=TOKENS) as held:
            assert len(held.processors) == count
            marks = [scratch / f"token-{processor}" for processor in held.processors]
            for mark in marks:
                mark.touch(exist_ok=False)  # fails where another is inside
            time.sleep(0.0005 * (rank + 1))
            for mark in marks:
                mark.unlink()
        rounds[rank] += 1


def test_a_killed_holder_frees_its_tokens(directory: Path) -> None:
    with holder(directory) as process:
        assert not free(directory)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert free(directory)


def test_an_inherited_descriptor_goes_on_holding_after_the_holder_is_killed(directory: Path) -> None:
    with holder(directory, heir=True) as process:
        assert process.stdout is not None
        heir = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not free(directory)
        os.kill(heir, signal.SIGKILL)
        eventually(lambda: free(directory))


def test_whoever_wants_less_than_is_free_does_not_wait(directory: Path) -> None:
    with locks.hold(directory, 1, among=TOKENS) as first, locks.hold(directory, 1, among=TOKENS) as second:
        assert {*first.processors, *second.processors} == set(TOKENS)


def test_a_busy_gpu_keeps_nobody_from_the_processors(directory: Path) -> None:
    entered = threading.Event()

    def wait_for_the_gpu() -> None:
        with locks.hold(directory, 1, "GPU-1", among=TOKENS):
            entered.set()

    with locks.hold(directory, 1, "GPU-1", among=TOKENS):
        waiting = threading.Thread(target=wait_for_the_gpu)
        waiting.start()
        with locks.hold(directory, 1, among=TOKENS), locks.hold(directory, 0, "GPU-2", among=TOKENS):
            assert not entered.is_set()
    waiting.join(10)
    assert entered.is_set()


def test_slices_of_one_gpu_take_turns(directory: Path) -> None:
    entered = threading.Event()

    def wait_for_the_slice() -> None:
        with locks.hold(directory, 1, "MIG-b", among=TOKENS, part_of="GPU-1"):
            entered.set()

    with locks.hold(directory, 1, "MIG-a", among=TOKENS, part_of="GPU-1") as held:
        waiting = threading.Thread(target=wait_for_the_slice)
        waiting.start()
        with locks.hold(directory, 0, "MIG-c", among=TOKENS, part_of="GPU-2"):
            assert not entered.wait(0.2)
        assert held.gpu_uuid == "MIG-a"
        assert len(held.descriptors) == 3
    waiting.join(10)
    assert entered.is_set()


def test_the_directory_is_for_all_users_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0o077)
    try:
        with locks.hold(directory, 1, "GPU-1", among=TOKENS):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == dict.fromkeys(["cpu-0.lock", "gpu-GPU-1.lock", "turnstile.lock"], 0o666)


def test_whoever_waited_for_a_lock_whose_file_was_removed_takes_turns_with_those_who_came_later(
    directory: Path,
) -> None:
    """A host's temporary files are cleaned now and then, and a lock is its file."""
    entered, leave = threading.Event(), threading.Event()

    def wait_for_the_token() -> None:
        with locks.hold(directory, 1, among=TOKENS[:1]):
            entered.set()

    def come_later() -> None:
        with locks.hold(directory, 1, among=TOKENS[:1]):
            came.set()
            leave.wait(30)

    came = threading.Event()
    waiting, later = threading.Thread(target=wait_for_the_token), threading.Thread(target=come_later)
    with locks.hold(directory, 1, among=TOKENS[:1]):
        waiting.start()
        eventually(waits)
        for file in directory.iterdir():
            file.unlink()
        later.start()
        assert came.wait(10)
    try:
        assert not entered.wait(0.3)
    finally:
        leave.set()
    for thread in (waiting, later):
        thread.join(10)
    assert entered.is_set()


def waits() -> bool:
    """Whether a thread of this process waits for a lock, as the kernel has it."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any("->" in words and str(os.getpid()) in words for words in lines)


def test_a_lock_that_is_used_does_not_look_forgotten_to_what_cleans_up(directory: Path) -> None:
    for _ in range(2):
        with locks.hold(directory, 1, "GPU-1", among=TOKENS[:1]):
            ages = {path.name: time.time() - path.stat().st_mtime for path in directory.iterdir()}
            assert ages.keys() == {"cpu-0.lock", "gpu-GPU-1.lock", "turnstile.lock"}
            assert max(ages.values()) < 3600
        for path in directory.iterdir():
            os.utime(path, (0, 0))


def test_a_folder_in_which_something_else_lies_is_not_opened_to_everybody(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "diary.txt").touch()
    with locks.hold(directory, 1, among=TOKENS):
        pass
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_more_processors_than_there_are_is_refused(directory: Path) -> None:
    with (
        pytest.raises(BadInput, match="3 processors are asked for and this host has 2"),
        locks.hold(directory, 3, among=TOKENS),
    ):
        pass


def test_a_directory_that_cannot_be_used_says_where_to_set_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FarmError, match="FARM_LOCK_DIR"), locks.hold(tmp_path / "file", 1):
        pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    (directory / "turnstile.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FarmError, match="turnstile"), locks.hold(directory, 1, among=TOKENS):
        pass
    assert not (tmp_path / "elsewhere").exists()


HOLDER = """
import subprocess, sys, time
from pathlib import Path
from farm import locks

with locks.hold(Path(sys.argv[1]), 2, among=(0, 1)) as held:
    if sys.argv[2] == "True":
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        print(subprocess.Popen(command, pass_fds=held.descriptors, stdout=subprocess.DEVNULL).pid, flush=True)
    else:
        print("held", flush=True)
    time.sleep(60)  # until the test kills it
"""


@contextlib.contextmanager
def holder(directory: Path, heir: bool = False) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(directory), str(heir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if not heir:
                assert process.stdout is not None
                assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def free(directory: Path) -> bool:
    """Whether both tokens are free, found out in another process so that nothing here waits."""
    code = (
        "import fcntl, sys\n"
        "for name in ('cpu-0.lock', 'cpu-1.lock'):\n"
        "    fcntl.flock(open(sys.argv[1] + '/' + name), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    )
    command = [sys.executable, "-c", code, str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
