"""What control groups leave a process and how long they held it back, of either version and in containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.devices import cgroups
from tests.fakes.host import Host

GROUPS = "sys/fs/cgroup"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_where_nothing_is_told_nothing_is_limited(host: Host) -> None:
    assert (cgroups.processors(host.root), cgroups.memory_bytes(host.root)) == (None, None)
    assert cgroups.held_back_s(host.root) == {}


def test_a_container_sees_its_own_group_as_the_root(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/")
    host.write(f"{GROUPS}/cpu.max", "150000 100000")
    host.write(f"{GROUPS}/memory.max", 1 << 30)
    assert (cgroups.processors(host.root), cgroups.memory_bytes(host.root)) == (1.5, 1 << 30)


def test_the_tightest_of_a_processs_groups_counts(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/system.slice/farm.service")
    host.write(f"{GROUPS}/system.slice/cpu.max", "400000 100000")
    host.write(f"{GROUPS}/system.slice/memory.max", 2 << 30)
    host.write(f"{GROUPS}/system.slice/farm.service/cpu.max", "max 100000")
    host.write(f"{GROUPS}/system.slice/farm.service/memory.max", "max")
    host.write(f"{GROUPS}/other/cpu.max", "1000 100000")
    assert (cgroups.processors(host.root), cgroups.memory_bytes(host.root)) == (4, 2 << 30)


def test_groups_of_version_1_are_found_by_their_controller_also_under_the_hosts_name(host: Host) -> None:
    host.write("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n0::/")
    host.write(f"{GROUPS}/cpu/docker/ab/cpu.cfs_quota_us", 50000)
    host.write(f"{GROUPS}/cpu/docker/ab/cpu.cfs_period_us", 100000)
    host.write(f"{GROUPS}/memory/memory.limit_in_bytes", 3 << 30)
    host.write(f"{GROUPS}/x/cpu.max", "1000 100000")
    assert (cgroups.processors(host.root), cgroups.memory_bytes(host.root)) == (0.5, 3 << 30)
    host.write(f"{GROUPS}/cpu/docker/ab/cpu.cfs_quota_us", -1)
    assert cgroups.processors(host.root) is None


@pytest.mark.parametrize(
    ("names", "cache"),
    [
        (("memory.max", "memory.current"), "inactive_file"),
        (("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_what_is_taken_of_a_limit_is_not_free_but_cache_is(host: Host, names: tuple[str, str], cache: str) -> None:
    limit, taken = (f"{GROUPS}/{name}" for name in names)
    host.write(limit, 8 << 30)
    host.write(taken, 7 << 30)
    assert cgroups.memory_bytes(host.root) == 1 << 30
    host.write(f"{Path(taken).parent}/memory.stat", f"anon 5\n{cache} {2 << 30}\n{cache}_x y")
    assert cgroups.memory_bytes(host.root) == 3 << 30


def test_how_long_groups_were_held_back_is_told_by_each_in_seconds(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/a\n2:cpu:/b")
    host.write(f"{GROUPS}/cpu.stat", "usage_usec 9\nuser_usec 9")
    host.write(f"{GROUPS}/a/cpu.stat", "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000")
    host.write(f"{GROUPS}/cpu/b/cpu.stat", "nr_throttled 3\nthrottled_time 1500000000")
    found = cgroups.held_back_s(host.root)
    mount = host.root / GROUPS
    assert found == {mount / "a": pytest.approx(2.5), mount / "cpu/b": pytest.approx(1.5)}


@pytest.mark.parametrize("line", ["0::/../../other", "nonsense", "", "0::", "1:cpu"])
def test_a_line_that_says_nothing_usable_is_no_error(host: Host, line: str) -> None:
    host.write("proc/self/cgroup", line)
    host.write(f"{GROUPS}/cpu.max", "100000 100000")
    host.write("sys/other/cpu.max", "1 100000")
    assert cgroups.processors(host.root) == 1
    host.write(f"{GROUPS}/cpu.max", "100000 0")
    assert cgroups.processors(host.root) is None
