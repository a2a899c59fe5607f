"""What NVIDIA's management library tells of the GPUs here, without torch; nothing where there is no driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

from farm.devices.readings import Reading
from farm.errors import Unsupported
from farm.measurement import Hardware

#: A GPU job's host side: one processor computes, one answers the driver.
HOST_THREADS = 2

#: Words of a GPU's name that say who sells it or in what form, not what it is.
_NO_MODEL = re.compile(r"nvidia|geforce|tesla|quadro|graphics|gpu|\d+gb|hbm\d*e?|sxm\d*|pcie|nvl")

#: What is read of a GPU, by its name, from its handle; the driver counts in mW, MHz and percent.
_GAUGES: Mapping[str, Callable[[Any], float]] = {
    "gpu_power_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
    "gpu_sm_clock_hz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "gpu_memory_clock_hz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6,
    "gpu_temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "gpu_utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    "gpu_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    # How many, never which: a container is shown the host's process ids.
    "gpu_processes": lambda gpu: len(pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
}
_COUNTERS: Mapping[str, Callable[[Any], float]] = {
    "gpu_energy_j": lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
}
#: Asked once. An application clock is what the GPU is set to; without one it may go as high as it can.
_HARDWARE: Mapping[str, Callable[[Any], float]] = {
    "gpu_cores": lambda gpu: pynvml.nvmlDeviceGetNumGpuCores(gpu),
    "sm_highest_hz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "sm_set_hz": lambda gpu: pynvml.nvmlDeviceGetApplicationsClock(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
}
_STATE: Mapping[str, Callable[[Any], float]] = {
    "persistence": lambda gpu: pynvml.nvmlDeviceGetPersistenceMode(gpu),
    "processes": _GAUGES["gpu_processes"],
}
#: Why the clocks are not higher (nvml.h, nvmlClocksEventReasons), by its bit.
CLOCK_REASONS: Mapping[int, str] = {
    0x001: "idle",
    0x002: "application clock setting",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clock setting",
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    uuid: str
    name: str
    driver: str
    memory_bytes: int

    @property
    def model(self) -> str:
        """Its model as one word: `h200` of `NVIDIA H200`, `rtx-4090` of `NVIDIA GeForce RTX 4090`."""
        words = re.split(r"[^a-z0-9]+", self.name.lower())
        return "-".join(word for word in words if word and not _NO_MODEL.fullmatch(word))


@contextmanager
def _library() -> Iterator[Any]:
    """The library, or None where it, its driver or any GPU is missing."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def gpus() -> tuple[Gpu, ...]:
    """Every GPU of this host; empty where there is none."""
    with _library() as library:
        if library is None:
            return ()
        handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                uuid=_text(library.nvmlDeviceGetUUID(handle)),
                name=_text(library.nvmlDeviceGetName(handle)),
                driver=_text(library.nvmlSystemGetDriverVersion()),
                memory_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        )


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """How a GPU is before anything is measured; None where the driver does not tell."""

    uuid: str
    name: str
    #: Whether the driver stays loaded while nobody uses the GPU.
    is_persistent: bool | None
    #: How many compute on it.
    processes: int | None


def states() -> tuple[GpuState, ...]:
    """Every GPU of this host as it is now."""
    found = gpus()
    with _library() as library:
        if library is None:
            return ()
        handles = [(gpu, library.nvmlDeviceGetHandleByUUID(gpu.uuid)) for gpu in found]
        asked = [(gpu, _asked(_STATE, handle, {})) for gpu, handle in handles]
    return tuple(
        GpuState(
            uuid=gpu.uuid,
            name=gpu.name,
            is_persistent=bool(told["persistence"]) if "persistence" in told else None,
            processes=int(told["processes"]) if "processes" in told else None,
        )
        for gpu, told in asked
    )


def used_bytes(uuid: str) -> int | None:
    """Memory in use on a GPU by everybody; None where it cannot be observed."""
    with _library() as library:
        if library is None:
            return None
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
            return int(library.nvmlDeviceGetMemoryInfo(handle).used)
        except pynvml.NVMLError:
            return None


def hardware(uuid: str) -> Hardware:
    """What a GPU says of its cores and clocks."""
    with _library() as library:
        if library is None:
            return Hardware()
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            return Hardware()
        return Hardware.model_validate(_asked(_HARDWARE, handle, {}))


class GpuSource:
    """One GPU, as its driver tells it; the names are those of the tables above.

    Flags are reasons for lower clocks. Fact: `gpu_processes`, how many used it before the measurement.

    Raises:
        Unsupported: the driver does not know the GPU.
    """

    def __init__(self, uuid: str) -> None:
        self.missing: dict[str, str] = {}
        self._gpu = _opened(uuid)
        self.facts = _asked({"gpu_processes": _GAUGES["gpu_processes"]}, self._gpu, self.missing)

    def read(self, pid: int) -> Reading:
        """What is so now."""
        gauges = _asked(_GAUGES, self._gpu, self.missing)
        return Reading(
            gauges=gauges, counters=_asked(_COUNTERS, self._gpu, self.missing), flags=self._clock_reasons()
        )

    def close(self) -> None:
        """Gives the library back."""
        pynvml.nvmlShutdown()

    def _clock_reasons(self) -> frozenset[str]:
        try:
            bits = _clock_bits(self._gpu)
        except pynvml.NVMLError as error:
            self.missing["clock_reasons"] = f"the driver does not tell ({error})"
            return frozenset()
        return frozenset(name for bit, name in CLOCK_REASONS.items() if bits & bit)


class EnergyMeter:
    """Joules that one GPU, its memory and its board used, as its driver counts them.

    Raises:
        Unsupported: the driver does not know the GPU, or does not count.
    """

    #: Whose energy it is: everything that ran on the GPU.
    scope = "gpu"

    def __init__(self, uuid: str) -> None:
        self._gpu = _opened(uuid)
        try:
            self.read()
        except Unsupported:
            self.close()
            raise

    def read(self) -> float:
        """Joules since the driver was loaded.

        Raises:
            Unsupported: it does not answer.
        """
        try:
            return _COUNTERS["gpu_energy_j"](self._gpu)
        except pynvml.NVMLError as error:
            raise Unsupported(f"the GPU does not count its energy ({error})") from None

    def close(self) -> None:
        """Gives the library back."""
        pynvml.nvmlShutdown()


def _opened(uuid: str) -> Any:
    """A GPU's handle; the library is ours until it is shut down."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Unsupported(f"no NVIDIA driver answers ({error})") from None
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        raise Unsupported(f"the driver does not know {uuid} ({error})") from None


def _asked(wanted: Mapping[str, Callable[[Any], float]], gpu: Any, missing: dict[str, str]) -> dict[str, float]:
    """What the driver answers; why not, of the others."""
    found = {}
    for name, ask in wanted.items():
        try:
            found[name] = float(ask(gpu))
        except pynvml.NVMLError as error:
            missing[name] = f"the driver does not tell ({error})"
    return found


def _clock_bits(gpu: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError:  # a driver from before 535 knows it by its former name
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
