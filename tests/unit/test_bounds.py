"""What a child may take: how much that is, and what is said of it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from farm.errors import OutOfMemory
from farm.settings import Settings
from workers import bounds

HOST = psutil.virtual_memory().total


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """A tree of control groups: nothing is bounded in its root."""
    made = tmp_path / "cgroup"
    for folder in (made / "a/b", made / "memory/docker/x"):
        folder.mkdir(parents=True)
    (made / "memory.max").write_text("max\n")
    return made


def limit(cgroups: Path, own: str) -> int:
    file = cgroups.parent / "own"
    file.write_text(own)
    return bounds.host_memory_bytes(file, cgroups)


def test_a_process_has_the_hosts_memory_where_no_group_bounds_it(cgroups: Path) -> None:
    assert limit(cgroups, "0::/a/b\n") == HOST
    assert bounds.host_memory_bytes(cgroups / "missing", cgroups) == HOST


def test_the_least_of_all_groups_above_a_process_counts(cgroups: Path) -> None:
    (cgroups / "a/memory.max").write_text(str(1 << 30))
    (cgroups / "a/b/memory.max").write_text(str(2 << 30))
    assert limit(cgroups, "0::/a/b\n") == min(1 << 30, HOST)


def test_a_container_sees_its_own_group_as_the_root(cgroups: Path) -> None:
    (cgroups / "memory.max").write_text(str(1 << 30))
    assert limit(cgroups, "0::/\n") == min(1 << 30, HOST)


def test_groups_of_version_1_count_too_wherever_they_are_mounted(cgroups: Path) -> None:
    (cgroups / "memory/memory.limit_in_bytes").write_text(str(1 << 30))
    own = "11:cpu,cpuacct:/docker/x\n4:memory:/docker/of-the-host\n0::/\n"
    assert limit(cgroups, own) == min(1 << 30, HOST)
    (cgroups / "memory/docker/x/memory.limit_in_bytes").write_text(str(1 << 29))
    assert limit(cgroups, "4:memory:/docker/x\n") == min(1 << 29, HOST)


def test_settings_bound_memory_and_files_and_beside_a_gpu_only_they_bound_memory() -> None:
    given = Settings(memory_limit_mb=512, disk_limit_mb=100)
    assert bounds.of(given, "cuda") == bounds.of(given, "cpu") == {"memory": 512 << 20, "file": 100 << 20}
    assert bounds.of(Settings(), "cpu")["memory"] > bounds.host_memory_bytes()
    assert "memory" not in bounds.of(Settings(), "cuda")


def test_errors_name_the_bound_they_may_come_from() -> None:
    given = {"memory": 512 << 20, "file": 100 << 20}
    assert "512 MiB (FARM_MEMORY_LIMIT_MB" in bounds.explained(OutOfMemory("host memory ran out"), given)
    assert "100 MiB (FARM_DISK_LIMIT_MB" in bounds.explained(OSError(errno.EFBIG, "File too large"), given)
    assert "FARM_" not in bounds.explained(OutOfMemory("CUDA out of memory"), given)
    assert bounds.explained(MemoryError(), given).startswith("host memory ran out: a process may take 512 MiB")
    assert bounds.explained(KeyError("x"), given) == "'x'"
    assert bounds.explained(OutOfMemory("host memory ran out"), {}) == "host memory ran out"


def test_a_process_is_bound_and_free_again() -> None:
    code = (
        "import resource; from workers import bounds\n"
        "before = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "bounds.bind({'memory': 256 << 20, 'file': 1 << 20})\n"
        "try: bytearray(512 << 20)\n"
        "except MemoryError: print('bound')\n"
        "bounds.unbind(); bytearray(512 << 20)\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA) == (before[1], before[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bound", "True"]


def test_a_disk_that_is_all_but_full_is_told_always_in_the_same_words(tmp_path: Path) -> None:
    folder = tmp_path / "not/made/yet"
    assert bounds.no_room(Settings(data_dir=folder, disk_free_mb=0)) is None
    full = Settings(data_dir=folder, disk_free_mb=10**9)
    said = bounds.no_room(full)
    assert said is not None
    assert "FARM_DISK_FREE_MB" in said
    assert bounds.no_room(full) == said
    assert not folder.exists()


def test_a_disk_that_does_not_answer_is_no_room_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("shutil.disk_usage", broken)
    said = f"the disk of {tmp_path} does not answer (Input/output error)"
    assert bounds.no_room(Settings(data_dir=tmp_path)) == said


def test_what_files_take_is_counted_with_all_folders_and_without_holes(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/file").write_bytes(b"x" * (1 << 20))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    (tmp_path / "link").symlink_to("/dev/zero")
    assert 1 << 20 <= bounds.taken_bytes(tmp_path) < 2 << 20
    assert bounds.taken_bytes(tmp_path / "gone") == 0
