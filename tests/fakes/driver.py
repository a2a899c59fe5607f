"""A stand-in for NVIDIA's driver: a `pynvml` with one GPU whose figures a test sets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from farm.devices import nvml

UUID = "GPU-1"


class Driver:
    """The patched module; a name in `refused` is answered with the driver's error."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        """What the driver raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: set[str] = set()
        self.opened = 0
        self.energy_mj, self.power_mw, self.busy_percent, self.used_bytes = 1_000_000, 350_000, 97, 5 << 30
        self.clocks_mhz = {self.NVML_CLOCK_SM: 1755, self.NVML_CLOCK_MEM: 2619}
        self.highest_mhz = {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 3201}
        self.processes, self.reasons, self.persistence = 1, 0, 1
        #: As nvmlComputeMode_t numbers them; and the UUIDs of its slices, where it is divided.
        self.compute_mode, self.capability = 0, (9, 0)
        self.slices: tuple[str, ...] = ()
        monkeypatch.setattr(nvml, "pynvml", self)

    def nvmlInit(self) -> None:
        self._answer("nvmlInit", None)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in (UUID, *self.slices):
            raise self.NVMLError("Not Found")
        return uuid

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: UUID,
            "nvmlDeviceGetUUID": lambda gpu: gpu,
            "nvmlDeviceGetName": lambda gpu: "NVIDIA H200" + " MIG 1g.18gb" * (gpu in self.slices),
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetPowerUsage": lambda gpu: self.power_mw,
            "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: self.energy_mj,
            "nvmlDeviceGetClockInfo": lambda gpu, kind: self.clocks_mhz[kind],
            "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: self.highest_mhz[kind],
            "nvmlDeviceGetMemoryBusWidth": lambda gpu: 6144,
            "nvmlDeviceGetCudaComputeCapability": lambda gpu: self.capability,
            "nvmlDeviceGetPowerManagementLimit": lambda gpu: 700_000,
            "nvmlDeviceGetComputeMode": lambda gpu: self.compute_mode,
            "nvmlDeviceGetMigMode": lambda gpu: [int(bool(self.slices))] * 2,
            "nvmlDeviceGetMaxMigDeviceCount": lambda gpu: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self._slice,
            "nvmlDeviceGetApplicationsClock": lambda gpu, kind: 1900,
            "nvmlDeviceGetNumGpuCores": lambda gpu: 16896,
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 61,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=self.busy_percent),
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=self.used_bytes, total=self._total(gpu)),
            "nvmlDeviceGetComputeRunningProcesses_v3": lambda gpu: [object()] * self.processes,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: self.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: self.reasons,
            "nvmlDeviceGetPersistenceMode": lambda gpu: self.persistence,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *args: self._answer(name, answers[name](*args))

    def _total(self, gpu: str) -> int:
        return (18 if gpu in self.slices else 141) << 30

    def _slice(self, gpu: str, place: int) -> str:
        if place >= len(self.slices):
            raise self.NVMLError("Not Found")
        return self.slices[place]

    def _answer(self, name: str, value: Any) -> Any:
        if name in self.refused:
            raise self.NVMLError("Not Supported")
        return value
