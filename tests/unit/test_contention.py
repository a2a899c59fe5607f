"""Who else used the processors: the difference of two readings, and None where there is nothing to read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm.passes.contention import ContentionWatch
from tests.fakes.host import Host


def stat(user: int, steal: int) -> str:
    """A `/proc/stat` with the same ticks for every processor that this process may use."""
    values = f"{user} 1 2 9999 4 5 6 {steal} 0 0"
    lines = [f"cpu{number} {values}" for number in sorted(os.sched_getaffinity(0))]
    return "\n".join([f"cpu  {values}", *lines, "intr 5"])


def test_others_time_is_what_was_busy_and_not_ours(tmp_path: Path) -> None:
    file, per_s, count = tmp_path / "stat", os.sysconf("SC_CLK_TCK"), len(os.sched_getaffinity(0))
    file.write_text(stat(user=1000, steal=10))
    watch = ContentionWatch(file)
    file.write_text(stat(user=1000 + 3 * per_s, steal=10 + per_s))
    found = watch.read()
    assert found is not None
    assert found.processors == count
    assert found.others_s == pytest.approx(3 * count, abs=0.5)
    assert found.steal_s == pytest.approx(count)


def test_what_this_process_used_is_not_others(tmp_path: Path) -> None:
    file = tmp_path / "stat"
    file.write_text(stat(user=1000, steal=0))
    watch = ContentionWatch(file)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    found = watch.read()
    assert found is not None
    assert (found.others_s, found.steal_s) == (0.0, 0.0)


@pytest.mark.parametrize("content", [None, "", "cpu 1 2 3", stat(user=1, steal=1) + "\ncpu1 x"])
def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "stat"
    if content is not None:
        file.write_text(content)
    assert ContentionWatch(file).read() is None


def test_the_kernel_of_this_machine_tells() -> None:
    found = ContentionWatch().read()
    assert found is not None
    assert 0 <= found.taken <= 1.5 * found.processors


def test_time_that_a_containers_limit_took_is_that_of_the_tightest_group_since_the_start(tmp_path: Path) -> None:
    host, file = Host(tmp_path), tmp_path / "stat"
    file.write_text(stat(user=1000, steal=0))
    host.write("proc/self/cgroup", "0::/pod/farm")
    host.write("sys/fs/cgroup/pod/cpu.stat", "throttled_usec 900000000")
    host.write("sys/fs/cgroup/pod/farm/cpu.stat", "throttled_usec 5000000")
    watch = ContentionWatch(file, tmp_path)
    host.write("sys/fs/cgroup/pod/farm/cpu.stat", "throttled_usec 8000000")
    found = watch.read()
    assert found is not None
    assert found.held_back_s == pytest.approx(3)
    assert found.taken == pytest.approx((found.others_s + 3) / found.wall_s)


def test_where_neither_limits_nor_cores_are_told_they_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(stat(user=1000, steal=0))
    found = ContentionWatch(tmp_path / "stat", tmp_path).read()
    assert found is not None
    assert (found.held_back_s, found.beside_s) == (None, None)


def test_what_ran_on_the_other_halves_of_its_cores_is_told_apart(tmp_path: Path) -> None:
    host, file, per_s = Host(tmp_path), tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    ours = sorted(os.sched_getaffinity(0))

    def write(seconds: int) -> None:
        halves = "\n".join(f"cpu{number + 1000} {seconds * per_s} 0 0 9 0 0 0 0 0 0" for number in ours)
        file.write_text(f"{stat(user=1000, steal=0)}\n{halves}")

    write(0)
    for number in ours:
        topology = f"sys/devices/system/cpu/cpu{number}/topology"
        host.write(f"{topology}/thread_siblings_list", f"{number},{number + 1000}")
    watch = ContentionWatch(file, tmp_path)
    write(2)
    found = watch.read()
    assert found is not None
    assert found.beside_s == pytest.approx(2 * len(ours))
    assert found.others_s == 0
    assert found.taken == 0


def test_a_busy_neighbour_on_our_processor_is_seen() -> None:
    processor = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{processor}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as neighbour:
        try:
            assert neighbour.stdout is not None
            neighbour.stdout.readline()
            watch = ContentionWatch()
            # The neighbour's own time is what is counted, in the kernel's ticks: give it a hundred of them.
            time.sleep(1.0)
            found = watch.read()
        finally:
            neighbour.kill()
    assert found is not None
    assert found.others_s + found.steal_s > 0.5 * found.wall_s
