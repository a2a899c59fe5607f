"""What is read of a host and a GPU: from files as the kernel writes them, and a driver that answers or refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from farm.devices import nvml
from farm.devices.host import HostSource, hardware, same_cores
from farm.devices.nvml import EnergyMeter, GpuSource
from farm.devices.nvml import hardware as gpu_hardware
from farm.devices.rapl import Rapl
from farm.errors import Unsupported
from farm.measurement import GpuFacts
from tests.fakes.driver import UUID, Driver
from tests.fakes.host import Host

CHILD = 100


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Four processors and one measuring process."""
    made = Host(tmp_path)
    made.processors(4)
    made.process(CHILD, session=CHILD, rss_bytes=10 << 20)
    return made


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver(monkeypatch)
    yield made
    assert made.opened == 0, "the library was not given back"


def source(host: Host, *processors: int) -> closing[HostSource]:
    return closing(HostSource(processors or (0, 1), host.root))


def test_the_memory_and_time_of_a_childs_whole_session_are_its_own(host: Host) -> None:
    with source(host) as opened:
        host.process(CHILD, session=CHILD, cpu_s=2, rss_bytes=300 << 20)
        host.process(101, session=CHILD, parent=CHILD, cpu_s=1, rss_bytes=200 << 20)
        host.process(102, session=102, parent=101, cpu_s=0.5, rss_bytes=50 << 20)  # began a session of its own
        host.process(103, session=7, cpu_s=9, rss_bytes=900 << 20)  # a stranger
        found = opened.read(CHILD)
    assert found.gauges["rss_bytes"] == 550 << 20
    assert found.counters["cpu_s"] == pytest.approx(3.5)


def test_the_time_of_a_process_that_ended_still_counts_and_its_memory_does_not(host: Host) -> None:
    host.process(101, session=CHILD, cpu_s=1, rss_bytes=200 << 20)
    with source(host) as opened:
        opened.read(CHILD)
        (host.root / "proc/101/stat").unlink()
        (host.root / "proc/101").rmdir()
        found = opened.read(CHILD)
    assert (found.gauges["rss_bytes"], found.counters["cpu_s"]) == (10 << 20, 1)


def test_a_child_that_has_ended_but_is_there_still_holds_no_memory_of_zero(host: Host) -> None:
    host.process(CHILD, session=CHILD, cpu_s=1, rss_bytes=0)
    with source(host) as opened:
        found = opened.read(CHILD)
    assert "rss_bytes" not in found.gauges
    assert found.counters["cpu_s"] == 1


def test_others_time_is_that_of_the_measurements_processors_less_its_own(host: Host) -> None:
    with source(host, 0, 2) as opened:
        host.processors(4, busy_s=3, steal_s=0.5)
        host.process(CHILD, session=CHILD, cpu_s=4)
        found = opened.read(CHILD)
    assert found.counters["others_s"] == pytest.approx(2)
    assert found.counters["steal_s"] == pytest.approx(1)


def test_pressure_is_the_time_in_which_some_task_waited(host: Host) -> None:
    host.waited("cpu", 1.5)
    host.waited("memory", 0)
    with source(host) as opened:
        host.waited("cpu", 2.5)
        found = opened.read(CHILD)
        assert found.counters["pressure_cpu_s"] == pytest.approx(2.5)
        assert found.counters["pressure_memory_s"] == 0
        assert "pressure_io_s" not in found.counters
        assert "pressure_io_s" in opened.missing


def test_the_frequency_is_that_of_the_fastest_of_its_processors(host: Host) -> None:
    for processor, hertz in enumerate((2.0e9, 3.1e9, 4.0e9)):
        host.frequency(processor, "scaling_cur_freq", hertz)
    with source(host, 0, 1) as opened:
        assert opened.read(CHILD).gauges["frequency_hz"] == pytest.approx(3.1e9)


def test_without_cpufreq_the_frequency_is_what_cpuinfo_shows(host: Host) -> None:
    host.write("proc/cpuinfo", "processor: 0\ncpu MHz\t\t: 2600.000\n\nprocessor: 1\ncpu MHz : 2599.5")
    with source(host) as opened:
        assert opened.read(CHILD).gauges["frequency_hz"] == pytest.approx(2.6e9)
        assert "frequency_hz" not in opened.missing


@pytest.mark.parametrize("sensor", ["hwmon", "thermal"])
def test_the_temperature_is_the_hottest_of_the_processors_sensors(host: Host, sensor: str) -> None:
    if sensor == "hwmon":
        host.write("sys/class/hwmon/hwmon0/name", "nvme")
        host.write("sys/class/hwmon/hwmon0/temp1_input", 99000)
        host.write("sys/class/hwmon/hwmon1/name", "coretemp")
        host.write("sys/class/hwmon/hwmon1/temp1_input", 61000)
        host.write("sys/class/hwmon/hwmon1/temp2_input", 64000)
    else:
        host.write("sys/class/thermal/thermal_zone0/type", "acpitz")
        host.write("sys/class/thermal/thermal_zone0/temp", 99000)
        host.write("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp")
        host.write("sys/class/thermal/thermal_zone1/temp", 64000)
    with source(host) as opened:
        assert opened.read(CHILD).gauges["temperature_c"] == pytest.approx(64)


def test_what_a_host_does_not_tell_is_missing_with_a_reason_and_not_zero(host: Host) -> None:
    with source(host) as opened:
        found = opened.read(CHILD)
        missing = dict(opened.missing)
    assert set(found.gauges) == {"rss_bytes"}
    assert set(found.counters) == {"cpu_s", "others_s", "steal_s"}
    assert {"frequency_hz", "temperature_c", "energy_j", "pressure_cpu_s"} <= missing.keys()


def test_a_child_that_is_gone_leaves_no_reading_of_it(host: Host) -> None:
    with source(host) as opened:
        assert not {"cpu_s", "others_s"} & opened.read(pid=4711).counters.keys()


def test_files_are_opened_once_and_closed(host: Host) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with source(host) as opened:
        opened.read(CHILD)
        held = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        opened.read(CHILD)
        assert len(os.listdir("/proc/self/fd")) == held > before  # noqa: PTH208
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_kernel_of_this_machine_tells_of_this_process() -> None:
    with closing(HostSource(tuple(os.sched_getaffinity(0)))) as opened:
        found = opened.read(os.getpid())
    assert found.gauges["rss_bytes"] > 1 << 20
    assert found.counters["cpu_s"] > 0


def test_energy_is_that_of_all_packages_and_nothing_twice(host: Host) -> None:
    host.package(0, joules=100)
    host.package(1, joules=50, name="package-1")
    host.package(2, joules=900, name="psys")
    host.write("sys/class/powercap/intel-rapl:0:0/name", "core")
    with closing(Rapl(host.root)) as rapl:
        assert rapl.read() == 0
        host.package(0, joules=107)
        host.package(1, joules=53, name="package-1")
        host.package(2, joules=999, name="psys")
        assert rapl.read() == pytest.approx(10)


def test_an_energy_counter_that_began_anew_goes_on(host: Host) -> None:
    host.package(0, joules=995, range_j=1000)
    with closing(Rapl(host.root)) as rapl:
        host.package(0, joules=4, range_j=1000)
        assert rapl.read() == pytest.approx(9)
        host.package(0, joules=6, range_j=1000)
        assert rapl.read() == pytest.approx(11)


def test_an_energy_counter_that_is_not_there_or_not_readable_says_so(host: Host) -> None:
    with pytest.raises(Unsupported, match="no RAPL"):
        Rapl(host.root)
    host.package(0, joules=1)
    host.write("sys/class/powercap/intel-rapl:0/energy_uj", "")
    with pytest.raises(Unsupported, match="cannot be read"):
        Rapl(host.root)


def test_a_hosts_frequencies_are_those_of_its_fastest_kind_of_processor(host: Host) -> None:
    host.frequency(0, "base_frequency", 2.0e9)
    host.frequency(1, "base_frequency", 2.4e9)
    host.frequency(0, "cpuinfo_max_freq", 4.1e9)
    host.write("proc/cpuinfo", "cpu MHz : 800.0")
    found = hardware((0, 1), host.root)
    assert (found.base_hz, found.highest_hz, found.shown_hz) == (2.4e9, 4.1e9, 8e8)
    nothing = hardware((3,), host.root / "elsewhere")
    assert (nothing.base_hz, nothing.highest_hz, nothing.shown_hz) == (None, None, None)


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ({0: "0,4", 1: "1,5"}, {4, 5}),
        ({0: "0-1", 1: "0-1"}, set()),
        ({0: "0-3", 1: "0-3"}, {2, 3}),
        ({0: "0", 1: "1"}, set()),
        ({}, None),
        ({0: "nonsense"}, None),
    ],
)
def test_the_other_processors_of_its_cores_are_those_that_are_not_its_own(
    host: Host, listed: dict[int, str], others: set[int] | None
) -> None:
    for number, text in listed.items():
        host.write(f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", text)
    assert same_cores((0, 1), host.root) == others


def test_a_gpus_figures_are_read_in_base_units(driver: Driver) -> None:
    driver.reasons = 0x4 | 0x20
    with closing(GpuSource(UUID)) as opened:
        found = opened.read(CHILD)
        assert opened.facts == {"gpu_processes": 1}
        assert opened.missing == {}
    assert found.counters == {"gpu_energy_j": 1000}
    assert found.gauges == {
        "gpu_power_w": 350,
        "gpu_sm_clock_hz": 1.755e9,
        "gpu_memory_clock_hz": 2.619e9,
        "gpu_temperature_c": 61,
        "gpu_utilization": 0.97,
        "gpu_used_bytes": 5 << 30,
        "gpu_processes": 1,
    }
    assert found.flags == {"software power cap", "software thermal slowdown"}


def test_what_a_driver_refuses_is_missing_and_the_rest_is_there(driver: Driver) -> None:
    driver.refused = {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates"}
    with closing(GpuSource(UUID)) as opened:
        found = opened.read(CHILD)
        assert set(opened.missing) == {"gpu_energy_j", "gpu_utilization"}
    assert "gpu_power_w" in found.gauges
    assert "gpu_utilization" not in found.gauges


def test_reasons_for_lower_clocks_are_asked_by_their_former_name_too(driver: Driver) -> None:
    driver.reasons, driver.refused = 0x8, {"nvmlDeviceGetCurrentClocksEventReasons"}
    with closing(GpuSource(UUID)) as opened:
        assert opened.read(CHILD).flags == {"hardware slowdown"}
        driver.refused.add("nvmlDeviceGetCurrentClocksThrottleReasons")
        assert opened.read(CHILD).flags == frozenset()
        assert "clock_reasons" in opened.missing


def test_a_gpu_that_is_not_there_is_unsupported(driver: Driver) -> None:
    with pytest.raises(Unsupported, match="GPU-7"):
        GpuSource("GPU-7")
    driver.refused = {"nvmlInit"}
    with pytest.raises(Unsupported, match="driver"):
        GpuSource(UUID)


def test_a_gpus_energy_is_its_own_counter_where_it_has_one(driver: Driver) -> None:
    with closing(EnergyMeter(UUID)) as meter:
        assert meter.read() == 1000
    driver.refused = {"nvmlDeviceGetTotalEnergyConsumption"}
    with pytest.raises(Unsupported, match="does not count"):
        EnergyMeter(UUID)


def test_a_gpu_says_how_large_and_how_fast_it_is(driver: Driver) -> None:
    found = gpu_hardware(UUID)
    assert (found.gpu_cores, found.sm_highest_hz, found.sm_set_hz) == (16896, 1.98e9, 1.9e9)
    driver.refused = {"nvmlDeviceGetApplicationsClock"}
    assert gpu_hardware(UUID).sm_set_hz is None
    assert gpu_hardware("GPU-7").gpu_cores is None


def test_a_gpu_says_how_wide_and_fast_its_memory_is_or_nothing(driver: Driver) -> None:
    found = gpu_hardware(UUID)
    assert (found.memory_highest_hz, found.memory_bus_bits) == (3.201e9, 6144)
    driver.refused = {"nvmlDeviceGetMemoryBusWidth"}
    assert gpu_hardware(UUID).memory_bus_bits is None


def test_what_a_driver_says_of_a_gpu_is_told_and_what_it_hides_is_unknown(driver: Driver) -> None:
    [found] = nvml.gpus()
    assert (found.uuid, found.name, found.driver, found.model) == (UUID, "NVIDIA H200", "580.1", "h200")
    assert found.facts == GpuFacts(
        compute_capability=9.0,
        memory_bytes=141 << 30,
        compute_mode="default",
        is_divided=False,
        power_limit_w=700,
        sm_set_hz=1.9e9,
    )
    driver.refused = {
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetComputeMode",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlDeviceGetApplicationsClock",
    }
    [hidden] = nvml.gpus()
    assert (hidden.uuid, hidden.driver, hidden.facts) == (UUID, "unknown", GpuFacts())


@pytest.mark.parametrize("lost", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName"])
def test_a_gpu_that_does_not_say_which_it_is_is_left_out(driver: Driver, lost: str) -> None:
    driver.refused = {lost}
    assert nvml.gpus() == ()


def test_of_a_gpu_that_is_divided_its_slices_are_the_gpus(driver: Driver) -> None:
    driver.slices = ("MIG-a", "MIG-b")
    first, second = nvml.gpus()
    assert (first.uuid, second.uuid) == ("MIG-a", "MIG-b")
    assert first.model == "h200-mig-1g"
    assert (first.facts.part_of, first.facts.is_divided) == (UUID, True)
    assert (first.facts.memory_bytes, first.facts.compute_capability) == (18 << 30, 9.0)
    driver.refused = {"nvmlDeviceGetMaxMigDeviceCount"}
    assert nvml.gpus() == ()


@pytest.mark.parametrize(("number", "mode"), [(2, "prohibited"), (3, "exclusive process"), (7, "mode 7")])
def test_a_compute_mode_has_its_name(driver: Driver, number: int, mode: str) -> None:
    driver.compute_mode = number
    assert nvml.gpus()[0].facts.compute_mode == mode
