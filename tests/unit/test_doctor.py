"""What the doctor finds on a host whose /proc and /sys a test wrote, and what it advises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farm import doctor
from farm.__main__ import app
from farm.devices import nvml
from farm.doctor import Finding, Level
from tests.fakes.driver import UUID, Driver
from tests.fakes.host import Host

CPU = "sys/devices/system/cpu"
ALL_TOOLS = frozenset({"g++", "jemalloc"})
HUGE = "sys/kernel/mm/transparent_hugepage/enabled"
SCRATCH = Path("/data/farm/tmp")


def busy_ticks(steal: int) -> str:
    return f"cpu  600 0 400 9000 100 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1"


#: For each check: what a host says that has that fault, how much it matters, and a word of what mends it.
FAULTS: dict[str, tuple[str, Callable[[Host], object], Level, str]] = {
    "powersave": (
        "governor",
        lambda host: host.write(f"{CPU}/cpu1/cpufreq/scaling_governor", "powersave"),
        Level.WARNING,
        "cpupower",
    ),
    "turbo of Intel": ("boost", lambda host: host.write(f"{CPU}/intel_pstate/no_turbo", 0), Level.NOTE, "echo 1"),
    "boost of others": ("boost", lambda host: host.write(f"{CPU}/cpufreq/boost", 1), Level.NOTE, "echo 0"),
    "two threads a core": ("smt", lambda host: host.write(f"{CPU}/smt/active", 1), Level.NOTE, "smt/control"),
    "swap in use": (
        "swap",
        lambda host: host.write("proc/swaps", "Filename Type Size Used Priority\n/swap file 8388604 524288 -2"),
        Level.WARNING,
        "swapoff",
    ),
    "swap that may be used": (
        "swap",
        lambda host: [
            host.write("proc/swaps", "Filename Type Size Used Priority\n/swap file 8388604 0 -2"),
            host.write("proc/sys/vm/swappiness", 60),
        ],
        Level.NOTE,
        "vm.swappiness",
    ),
    "load": ("load", lambda host: host.write("proc/loadavg", "1.70 0.1 0.1 2/99 1"), Level.WARNING, "top"),
    "pressure": (
        "pressure",
        lambda host: host.write("proc/pressure/cpu", "some avg10=31.00 avg60=0 avg300=0 total=1\nfull avg10=0"),
        Level.WARNING,
        "top",
    ),
    "steal": (
        "steal",
        lambda host: host.write("proc/stat", busy_ticks(50)),
        Level.WARNING,
        "processors of its own",
    ),
    "no energy counter": ("energy", lambda host: (host.root / RAPL).unlink(), Level.NOTE, ""),
    "an energy counter for root": ("energy", lambda host: host.write(RAPL, ""), Level.NOTE, "chmod o+r"),
    "huge pages always": (
        "huge_pages",
        lambda host: host.write(HUGE, "[always] madvise never"),
        Level.NOTE,
        "tee",
    ),
    "huge pages never": ("huge_pages", lambda host: host.write(HUGE, "always madvise [never]"), Level.NOTE, "tee"),
    "a virtual machine": (
        "virtualization",
        lambda host: host.write("proc/cpuinfo", "processor : 0\nflags\t\t: fpu hypervisor avx2"),
        Level.NOTE,
        "paired",
    ),
    "a quota": (
        "quota",
        lambda host: host.write("sys/fs/cgroup/cpu.max", "150000 100000"),
        Level.WARNING,
        "--cpuset-cpus",
    ),
    "a quota of the old kind": (
        "quota",
        lambda host: [
            host.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", 150000),
            host.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000),
        ],
        Level.WARNING,
        "--cpuset-cpus",
    ),
    "a quota of the service that it runs in": (
        "quota",
        lambda host: [
            host.write("proc/self/cgroup", "0::/system.slice/farm.service"),
            host.write("sys/fs/cgroup/system.slice/farm.service/cpu.max", "100000 100000"),
        ],
        Level.WARNING,
        "--threads 1",
    ),
    "little memory": (
        "memory",
        lambda host: host.write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:  3145728 kB"),
        Level.NOTE,
        "paired=false",
    ),
    "too little memory": (
        "memory",
        lambda host: host.write("proc/meminfo", "MemAvailable:  1048576 kB"),
        Level.WARNING,
        "paired=false",
    ),
    "a container's little memory": (
        "memory",
        lambda host: host.write("sys/fs/cgroup/memory.max", 1 << 30),
        Level.WARNING,
        "container",
    ),
    "a container's memory that is taken": (
        "memory",
        lambda host: [
            host.write("sys/fs/cgroup/memory.max", 8 << 30),
            host.write("sys/fs/cgroup/memory.current", 7 << 30),
        ],
        Level.WARNING,
        "container",
    ),
    "a scratch folder that runs nothing": (
        "scratch",
        lambda host: host.write("proc/mounts", "/dev/a / ext4 rw 0 0\n/dev/b /data ext4 rw,noexec 0 0"),
        Level.WARNING,
        "remount,exec /data",
    ),
    "a second mount on the same place": (
        "scratch",
        lambda host: host.write("proc/mounts", "/dev/b /data ext4 rw 0 0\n/dev/c /data ext4 noexec 0 0"),
        Level.WARNING,
        "remount,exec /data",
    ),
    "a scratch folder in memory": (
        "scratch",
        lambda host: host.write("proc/mounts", "/dev/a / ext4 rw 0 0\ntmpfs /data tmpfs rw 0 0"),
        Level.NOTE,
        "FARM_DATA_DIR",
    ),
}
RAPL = "sys/class/powercap/intel-rapl:0/energy_uj"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host of two processors with which nothing is wrong."""
    made = Host(tmp_path)
    for processor in (0, 1):
        made.write(f"{CPU}/cpu{processor}/cpufreq/scaling_governor", "performance")
    made.write(f"{CPU}/intel_pstate/no_turbo", 1)
    made.write(f"{CPU}/smt/active", 0)
    made.write("proc/swaps", "Filename Type Size Used Priority")
    made.write("proc/loadavg", "0.10 0.2 0.3 1/99 1")
    made.write("proc/pressure/cpu", "some avg10=0.40 avg60=0 avg300=0 total=1\nfull avg10=0")
    made.write("proc/stat", busy_ticks(2))
    made.write("proc/cpuinfo", "processor : 0\nflags : fpu avx2")
    made.write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable:  16777216 kB")
    made.write("proc/mounts", "/dev/a / ext4 rw,relatime 0 0\n/dev/b /data ext4 rw 0 0")
    made.write("sys/fs/cgroup/cpu.max", "max 100000")
    made.write(HUGE, "always [madvise] never")
    made.package(0, joules=7)
    return made


def examined(host: Host, tools: frozenset[str] = ALL_TOOLS, gpus: tuple[nvml.GpuState, ...] = ()) -> list[Finding]:
    return doctor.examine(doctor.Host(processors=(0, 1), scratch=SCRATCH, root=host.root, gpus=gpus, tools=tools))


def amiss(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


def test_nothing_is_found_on_a_host_with_which_nothing_is_wrong(host: Host) -> None:
    findings = examined(host)
    assert amiss(findings) == []
    assert {"governor", "boost", "smt", "swap", "load", "quota", "scratch", "jemalloc"} <= {
        finding.check for finding in findings
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_what_it_does_and_what_mends_it(host: Host, fault: str) -> None:
    check, make, level, mend = FAULTS[fault]
    if "boost" in fault:
        (host.root / CPU / "intel_pstate/no_turbo").unlink()
    make(host)
    [found] = amiss(examined(host))
    assert (found.check, found.level) == (check, level)
    assert found.effect
    assert mend in found.mend


def test_a_host_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    findings = examined(Host(tmp_path))
    assert {finding.check for finding in amiss(findings)} == {"load", "pressure", "steal", "memory", "energy"}
    assert all(finding.level is Level.NOTE for finding in amiss(findings))


def test_warnings_come_first(host: Host) -> None:
    FAULTS["turbo of Intel"][1](host)
    FAULTS["a quota"][1](host)
    assert [finding.check for finding in examined(host)[:2]] == ["quota", "boost"]


def test_tools_that_recipes_need_are_named_with_their_package(host: Host) -> None:
    found = {finding.check: finding.mend for finding in amiss(examined(host, tools=frozenset()))}
    assert found == {
        "compiler": "sudo apt-get install g++",
        "jemalloc": "sudo apt-get install libjemalloc2",
    }


@pytest.mark.parametrize(
    ("fault", "is_busy"), [("load", True), ("pressure", True), ("steal", True), ("a quota", False)]
)
def test_a_host_that_others_use_is_known_as_busy(host: Host, fault: str, is_busy: bool) -> None:
    FAULTS[fault][1](host)
    assert doctor.is_busy(examined(host)) is is_busy


@pytest.mark.parametrize(("running", "is_busy"), [(3, False), (20, True)])
def test_the_load_is_the_whole_hosts_also_where_a_container_has_two_processors_of_it(
    host: Host, running: int, is_busy: bool
) -> None:
    others = "\n".join(f"cpu{number} 1 1 1 1 1 1 1 1" for number in range(1, 64))
    host.write("proc/stat", f"{busy_ticks(2)}\n{others}")
    host.write("proc/loadavg", f"{running}.00 0.1 0.1 2/99 1")
    findings = examined(host)
    assert doctor.is_busy(findings) is is_busy
    assert any("on 64 processors" in finding.found for finding in findings) is is_busy


@pytest.mark.parametrize(
    ("limit", "usable"),
    [("max 100000", (0, 1)), ("150000 100000", (0,)), ("50000 100000", (0,)), ("900000 100000", (0, 1))],
)
def test_jobs_can_use_as_many_processors_as_there_is_time_for(
    host: Host, limit: str, usable: tuple[int, ...]
) -> None:
    host.write("sys/fs/cgroup/cpu.max", limit)
    assert doctor.usable(doctor.Host(processors=(0, 1), scratch=SCRATCH, root=host.root)) == usable


def test_a_gpu_that_others_use_or_that_sleeps_is_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    driver.processes = 0
    assert amiss(examined(host, gpus=nvml.states())) == []
    driver.processes, driver.persistence = 2, 0
    busy, asleep = amiss(examined(host, gpus=nvml.states()))
    assert (busy.level, asleep.level) == (Level.WARNING, Level.NOTE)
    assert "2 processes use NVIDIA H200" in busy.found
    assert asleep.mend == f"sudo nvidia-smi -i {UUID} -pm 1"
    driver.refused = {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetPersistenceMode"}
    assert amiss(examined(host, gpus=nvml.states())) == []


def test_a_gpu_that_takes_one_process_only_is_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    driver.processes, driver.compute_mode = 0, 3
    [found] = amiss(examined(host, gpus=nvml.states()))
    assert "exclusive process" in found.found
    assert found.mend == f"sudo nvidia-smi -i {UUID} -c DEFAULT"


def test_what_a_gpu_is_stands_there_and_what_its_driver_hides_is_unknown(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[str]:
        return [found.found for found in examined(host, gpus=nvml.states()) if found.found.startswith("NVIDIA")]

    driver = Driver(monkeypatch)
    name = "NVIDIA H200: compute capability 9"
    assert told() == [f"{name}, memory 141 GiB, power limit 700 W, application clock 1900 MHz"]
    driver.refused = {"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetApplicationsClock"}
    assert told() == [f"{name}, memory unknown, power limit 700 W, application clock unknown"]
    driver.slices = ("MIG-a",)
    assert told()[0].endswith(f", a slice of {UUID}")


def test_the_command_ends_well_whatever_it_finds() -> None:
    done = CliRunner().invoke(app, ["doctor", "--no-measure", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert {"load", "memory", "scratch"} <= {finding["check"] for finding in told["findings"]}
    assert "neighbours" not in told
    assert not CliRunner().invoke(app, ["doctor", "--no-measure"]).stdout.rstrip().endswith("}")
