"""What a supervisor keeps of its readings: summaries of the timed windows, and reasons for what is not there."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from farm.devices import nvml
from farm.devices.host import HostSource, hardware
from farm.devices.nvml import GpuSource
from farm.devices.readings import Reading
from farm.verdict import Level, judge
from tests import factories
from tests.fakes.driver import UUID, Driver
from tests.fakes.host import Host
from workers import telemetry
from workers.telemetry import Moment, Recorder, summarize

CHILD = 100


def moments(*readings: Reading, start: float = 1000.0) -> list[Moment]:
    """One reading a second."""
    return [Moment(at=start + number, readings=(reading,)) for number, reading in enumerate(readings)]


def gpu_measurement(**fields: Any) -> Any:
    where = factories.environment(device_kind="cuda", device_uuid=UUID)
    given = {"missing": {"gpu_utilization": "not observed", "energy": "why"}, **fields}
    return factories.measurement(spec=factories.spec(device="cuda"), environment=where, **given)


def test_a_gauge_becomes_its_least_mean_and_highest() -> None:
    found = summarize(moments(*(Reading(gauges={"rss_bytes": value}) for value in (3, 1, 8))), every_s=1)
    rss = found.gauges["rss_bytes"]
    assert (rss.min, rss.mean, rss.max, rss.count) == (1, 4, 8, 3)
    assert (found.readings, found.window_s) == (3, 2)


def test_a_counter_becomes_its_growth_and_how_fast_that_was() -> None:
    found = summarize(moments(*(Reading(counters={"cpu_s": value}) for value in (10, 11, 14))), every_s=1)
    used = found.counters["cpu_s"]
    assert (used.total, used.rate, used.rate_min, used.rate_max) == (4, 2, 1, 3)


def test_a_counter_that_was_read_once_has_not_grown_by_zero() -> None:
    found = summarize(moments(Reading(counters={"cpu_s": 10}), Reading()), every_s=1)
    assert found.counters == {}


def test_the_resolution_of_a_counter_makes_no_negative_growth() -> None:
    found = summarize(moments(*(Reading(counters={"others_s": value}) for value in (1.0, 0.99, 0.98))), every_s=1)
    grown = found.counters["others_s"]
    assert (grown.total, grown.rate_min) == (0, 0)


def test_flags_are_counted() -> None:
    seen = moments(Reading(flags=frozenset({"idle"})), Reading(flags=frozenset({"idle", "power"})), Reading())
    assert summarize(seen, every_s=1).flags == {"idle": 2, "power": 1}


def test_no_reading_at_all_is_an_empty_summary() -> None:
    found = summarize([], every_s=0.5)
    assert (found.readings, found.gauges, found.counters, found.window_s) == (0, {}, {}, 0)


@pytest.mark.parametrize(
    ("window", "counted"),
    [((None, None), (10, 40)), ((1001.0, 1002.5), (20, 30)), ((1001.5, None), (30, 40)), ((5.0, 6.0), None)],
)
def test_only_readings_within_the_timed_windows_count(
    tmp_path: Path, window: tuple[float | None, float | None], counted: tuple[int, int] | None
) -> None:
    host, clock = Host(tmp_path), itertools.count(1000.0)
    host.processors(2)
    recorder = Recorder(1.0, [HostSource((0, 1), tmp_path)], clock=lambda: next(clock))
    for pages in (10, 20, 30, 40):
        host.process(CHILD, session=CHILD, rss_bytes=pages << 20)
        recorder.look(CHILD)
    kept = recorder.attach(factories.measurement(timed_from=window[0], timed_until=window[1])).telemetry
    assert kept is not None
    rss = kept.gauges.get("rss_bytes")
    assert (rss and (rss.min, rss.max)) == (counted and (counted[0] << 20, counted[1] << 20))
    assert "temperature_c" in kept.missing


def test_the_drivers_utilization_ends_the_reason_why_it_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    recorder = Recorder(1.0, [GpuSource(UUID)])
    driver.processes = 2
    recorder.look(CHILD)
    found = recorder.attach(gpu_measurement())
    assert found.missing == {"energy": "why"}
    assert found.telemetry is not None
    assert found.telemetry.gauges["gpu_utilization"].mean == 0.97
    assert found.telemetry.facts == {"gpu_processes": 1}
    assert found.telemetry.gauges["gpu_processes"].max == 2


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ({"nvmlInit"}, "no NVIDIA driver answers"),
        ({"nvmlDeviceGetUtilizationRates"}, "the driver does not tell"),
        (set(), "no reading fell"),
    ],
)
def test_a_utilization_that_was_not_observed_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, refused: set[str], reason: str
) -> None:
    driver = Driver(monkeypatch)
    driver.refused = refused
    with telemetry.recorder(0.5, (0,), UUID) as recorder:
        recorder.look(CHILD)
        found = recorder.attach(gpu_measurement(timed_from=1.0, timed_until=2.0))
    assert reason in found.missing["gpu_utilization"]
    assert driver.opened == 0


def test_on_a_cpu_the_reasons_stay_as_they_are() -> None:
    with telemetry.recorder(0.5, (0,), None) as recorder:
        found = recorder.attach(factories.measurement(missing={"gpu_utilization": "measured on a CPU"}))
    assert found.missing == {"gpu_utilization": "measured on a CPU"}


# ---- faults injected into a driver and a kernel, judged


@pytest.mark.parametrize(
    ("fault", "level", "words"),
    [
        ({}, Level.VALID, ""),
        ({"clock_mhz": 600, "reasons": 0x40}, Level.INVALID, "hardware thermal slowdown in 4 of 8 readings"),
        ({"clock_mhz": 600}, Level.SUSPECT, "the driver gives no reason"),
        ({"reasons": 0x4}, Level.SUSPECT, "software power cap in 4 of 8 readings"),
        ({"processes": 2}, Level.INVALID, "1 other processes came to the GPU"),
    ],
    ids=["sound", "too hot", "a lower clock without a reason", "short of power", "somebody came"],
)
def test_what_a_gpus_driver_says_in_mid_window_turns_the_verdict(
    monkeypatch: pytest.MonkeyPatch, fault: dict[str, int], level: Level, words: str
) -> None:
    driver, clock = Driver(monkeypatch), itertools.count(1000.0)
    driver.processes = 0
    with closing(GpuSource(UUID)) as source:
        recorder = Recorder(1.0, [source], clock=lambda: next(clock))
        driver.processes = 1
        for reading in range(8):
            if reading == 4:
                driver.clocks_mhz[driver.NVML_CLOCK_SM] = fault.get("clock_mhz", 1755)
                driver.reasons, driver.processes = fault.get("reasons", 0), fault.get("processes", 1)
            recorder.look(CHILD)
        found = recorder.attach(gpu_measurement(timed_from=1000.0, hardware=nvml.hardware(UUID)))
    verdict = judge(found)
    assert verdict.level is level
    assert {reason.code for reason in verdict.reasons} <= {"throttled", "contaminated"}
    assert words in "; ".join(map(str, verdict.reasons))


@pytest.mark.parametrize(("clock_hz", "level"), [(2.4e9, Level.VALID), (1.1e9, Level.INVALID)])
def test_a_processors_clock_that_drops_in_mid_window_turns_the_verdict(
    tmp_path: Path, clock_hz: float, level: Level
) -> None:
    host, clock = Host(tmp_path), itertools.count(1000.0)
    host.processors(2)
    host.frequency(0, "base_frequency", 2.4e9)
    host.frequency(0, "scaling_cur_freq", 2.4e9)
    with closing(HostSource((0, 1), tmp_path)) as source:
        recorder = Recorder(1.0, [source], clock=lambda: next(clock))
        for second in range(8):
            host.process(CHILD, session=CHILD, cpu_s=2 * second, rss_bytes=1 << 20)
            host.frequency(0, "scaling_cur_freq", clock_hz if second else 2.4e9)
            recorder.look(CHILD)
        found = recorder.attach(factories.measurement(timed_from=1000.0, hardware=hardware((0, 1), tmp_path)))
    verdict = judge(found)
    assert verdict.level is level
    assert {reason.code for reason in verdict.reasons} == ({"throttled"} if level is Level.INVALID else set())
