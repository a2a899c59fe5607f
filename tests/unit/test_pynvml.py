"""What the farm asks of the driver through the `pynvml` that is installed, with a stand-in for what lies beneath.

The other tests have a stand-in for `pynvml` itself. Here are its own functions: that they are there, what they
take and give, and what they raise; the library answers as nvml.h documents.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pynvml
import pytest

from farm.devices import nvml
from farm.devices.nvml import EnergyMeter, GpuSource
from farm.measurement import GpuFacts

UUID = b"GPU-8e5a2c1d-0000-4000-8000-00000000000a"

#: By function: text, or the numbers that it writes where its last arguments point to.
ANSWERS: dict[str, bytes | tuple[int, ...]] = {
    "nvmlSystemGetDriverVersion": b"580.126.09",
    "nvmlDeviceGetCount": (1,),
    "nvmlDeviceGetUUID": UUID,
    "nvmlDeviceGetName": b"NVIDIA H200",
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetComputeMode": (3,),
    "nvmlDeviceGetMigMode": (0, 0),
    "nvmlDeviceGetPowerManagementLimit": (700_000,),
    "nvmlDeviceGetPowerUsage": (350_500,),
    "nvmlDeviceGetTotalEnergyConsumption": (1_234_567,),
    "nvmlDeviceGetApplicationsClock": (1_980,),
    "nvmlDeviceGetClockInfo": (1_755,),
    "nvmlDeviceGetMaxClockInfo": (3_201,),
    "nvmlDeviceGetMemoryBusWidth": (6_144,),
    "nvmlDeviceGetNumGpuCores": (16_896,),
    "nvmlDeviceGetTemperature": (61,),
    "nvmlDeviceGetPersistenceMode": (1,),
    "nvmlDeviceGetCurrentClocksEventReasons": (0x4,),
}
#: What an old library has, too.
ALWAYS = {"nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID"}


class Library:
    """`libnvidia-ml.so.1`; `known` are the functions that it has."""

    def __init__(self, known: set[str]) -> None:
        self._known = known | ALWAYS

    def __getattr__(self, name: str) -> Callable[..., int]:
        plain = re.sub(r"_v\d$", "", name)
        if plain not in self._known:
            raise AttributeError(name)
        return functools.partial(self._call, plain)

    def _call(self, name: str, *arguments: Any) -> int:
        if name == "nvmlDeviceGetComputeRunningProcesses":
            return self._processes(*arguments)
        if name == "nvmlDeviceGetMemoryInfo":
            arguments[-1]._obj.total, arguments[-1]._obj.used = 141 << 30, 5 << 30
        elif name == "nvmlDeviceGetUtilizationRates":
            arguments[-1]._obj.gpu = 97
        else:
            self._write(ANSWERS.get(name, ()), arguments)
        return 0

    @staticmethod
    def _processes(gpu: Any, count: Any, places: Any) -> int:
        has_room = places is not None and count._obj.value >= 2
        count._obj.value = 2
        return 0 if has_room else pynvml.NVML_ERROR_INSUFFICIENT_SIZE

    @staticmethod
    def _write(answer: bytes | tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if isinstance(answer, bytes):
            arguments[-2].value = answer
            return
        for place, number in zip(arguments[len(arguments) - len(answer) :], answer, strict=True):
            place._obj.value = number


EVERYTHING = {
    *ANSWERS,
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses",
}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    def has(known: set[str]) -> None:
        monkeypatch.setattr(pynvml, "nvmlLib", Library(known))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    return has


def test_a_gpu_is_described_in_base_units_and_in_text(library: Callable[[set[str]], None]) -> None:
    library(EVERYTHING)
    [found] = nvml.gpus()
    assert (found.uuid, found.name, found.driver) == (UUID.decode(), "NVIDIA H200", "580.126.09")
    assert found.facts == GpuFacts(
        compute_capability=9.0,
        memory_bytes=141 << 30,
        compute_mode="exclusive process",
        is_divided=False,
        power_limit_w=700.0,
        sm_set_hz=1.98e9,
    )
    assert nvml.used_bytes(found.uuid) == 5 << 30
    told = nvml.hardware(found.uuid)
    assert (told.gpu_cores, told.memory_highest_hz, told.memory_bus_bits) == (16_896, 3.201e9, 6_144)
    [state] = nvml.states()
    assert (state.is_persistent, state.processes) == (True, 2)


def test_it_is_read_and_metered_in_base_units(library: Callable[[set[str]], None]) -> None:
    library(EVERYTHING)
    with closing(GpuSource(UUID.decode())) as source:
        found = source.read(1)
        assert (source.missing, source.facts) == ({}, {"gpu_processes": 2})
    assert found.gauges == {
        "gpu_power_w": 350.5,
        "gpu_sm_clock_hz": 1.755e9,
        "gpu_memory_clock_hz": 1.755e9,
        "gpu_temperature_c": 61,
        "gpu_utilization": 0.97,
        "gpu_used_bytes": 5 << 30,
        "gpu_processes": 2,
    }
    assert found.counters == {"gpu_energy_j": 1234.567}
    assert found.flags == {"software power cap"}
    with closing(EnergyMeter(UUID.decode())) as meter:
        assert meter.read() == 1234.567
        assert meter.beside() == {"power_limit_w": 700, "clock_hz": 1.755e9}


def test_what_an_old_library_has_not_is_missing_with_its_reason(library: Callable[[set[str]], None]) -> None:
    library({"nvmlDeviceGetCount", "nvmlDeviceGetUUID", "nvmlDeviceGetName"})
    [found] = nvml.gpus()
    assert (found.driver, found.facts) == ("unknown", GpuFacts())
    [state] = nvml.states()
    assert (state.is_persistent, state.processes) == (None, None)
    assert nvml.hardware(found.uuid).gpu_cores is None
    with closing(GpuSource(found.uuid)) as source:
        assert source.read(1).gauges == {}
        assert set(source.missing) == {*nvml._GAUGES, *nvml._COUNTERS, "clock_reasons"}
        assert all("Function Not Found" in why for why in source.missing.values())
