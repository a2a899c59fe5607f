"""What NVIDIA's management library tells of the GPUs here, without torch; nothing where there is no driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml

from farm.devices.readings import Reading
from farm.errors import Unsupported
from farm.measurement import GpuFacts, Hardware

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
    # How many, never which: a container is shown the host's process ids. By its version: without, a driver that
    # has it not is no error of the driver's (NVMLLibraryMismatchError).
    "gpu_processes": lambda gpu: len(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)),
}
_COUNTERS: Mapping[str, Callable[[Any], float]] = {
    "gpu_energy_j": lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
}
#: Asked once. An application clock is what the GPU is set to; without one it may go as high as it can.
_HARDWARE: Mapping[str, Callable[[Any], float]] = {
    "gpu_cores": lambda gpu: pynvml.nvmlDeviceGetNumGpuCores(gpu),
    "sm_highest_hz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "sm_set_hz": lambda gpu: pynvml.nvmlDeviceGetApplicationsClock(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "memory_highest_hz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6,
    "memory_bus_bits": lambda gpu: pynvml.nvmlDeviceGetMemoryBusWidth(gpu),
}
#: By their numbers (nvml.h, nvmlComputeMode_t); 1 is not used any more.
_COMPUTE_MODES: Mapping[int, str] = {0: "default", 2: "prohibited", 3: "exclusive process"}
#: What `GpuFacts` has of a whole GPU.
_FACTS: Mapping[str, Callable[[Any], Any]] = {
    "compute_capability": lambda gpu: _version(*pynvml.nvmlDeviceGetCudaComputeCapability(gpu)),
    "compute_mode": lambda gpu: _compute_mode(pynvml.nvmlDeviceGetComputeMode(gpu)),
    "is_divided": lambda gpu: pynvml.nvmlDeviceGetMigMode(gpu)[0] == 1,
    "power_limit_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3,
    "sm_set_hz": _HARDWARE["sm_set_hz"],
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
    """One GPU, or one slice of a GPU that is divided (MIG)."""

    uuid: str
    name: str
    #: `unknown` where that is not told.
    driver: str
    facts: GpuFacts = field(default_factory=GpuFacts)

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
    """Every GPU of this host; the slices of one that is divided; empty where there is none.

    One that does not say which it is, because it is lost or not ours to see, is left out.
    """
    with _library() as library:
        if library is None:
            return ()
        driver = _text(_tried(library.nvmlSystemGetDriverVersion) or "unknown")
        found = [_gpu(part, whole, driver) for part, whole in _handles()]
        return tuple(gpu for gpu in found if gpu is not None)


def among(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves: by index, or by UUID or its beginning; None leaves all."""
    if visible is None:
        return tuple(gpus)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(
        gpu for index, gpu in enumerate(gpus) if any(n == str(index) or gpu.uuid.startswith(n) for n in names)
    )


def _handles() -> Iterator[tuple[Any, Any]]:
    """The handle of each GPU, or of each slice of one that is divided; and that of the whole."""
    for index in range(_tried(pynvml.nvmlDeviceGetCount) or 0):
        whole = _tried(pynvml.nvmlDeviceGetHandleByIndex, index)
        if whole is None:
            continue
        if not _tried(_FACTS["is_divided"], whole):
            yield whole, whole
            continue
        # The whole of one that is divided cannot be used: CUDA would take its first slice and not say so.
        for place in range(_tried(pynvml.nvmlDeviceGetMaxMigDeviceCount, whole) or 0):
            part = _tried(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, place)
            if part is not None:
                yield part, whole


def _gpu(part: Any, whole: Any, driver: str) -> Gpu | None:
    uuid, name = _tried(pynvml.nvmlDeviceGetUUID, part), _tried(pynvml.nvmlDeviceGetName, part)
    if uuid is None or name is None:
        return None
    told = {fact: answer for fact, ask in _FACTS.items() if (answer := _tried(ask, whole)) is not None}
    memory = _tried(pynvml.nvmlDeviceGetMemoryInfo, part)
    of = None if part is whole else _tried(pynvml.nvmlDeviceGetUUID, whole)
    facts = GpuFacts(
        **told,
        memory_bytes=None if memory is None else int(memory.total),
        part_of=None if of is None else _text(of),
    )
    return Gpu(uuid=_text(uuid), name=_text(name), driver=driver, facts=facts)


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """How a GPU is before anything is measured; None where the driver does not tell."""

    uuid: str
    name: str
    #: Whether the driver stays loaded while nobody uses the GPU.
    is_persistent: bool | None
    #: How many compute on it.
    processes: int | None
    facts: GpuFacts = field(default_factory=GpuFacts)


def states() -> tuple[GpuState, ...]:
    """Every GPU of this host as it is now."""
    found = gpus()
    with _library() as library:
        if library is None:
            return ()
        handles = [(gpu, _tried(library.nvmlDeviceGetHandleByUUID, gpu.uuid)) for gpu in found]
        asked = [(gpu, {} if handle is None else _asked(_STATE, handle, {})) for gpu, handle in handles]
    return tuple(
        GpuState(
            uuid=gpu.uuid,
            name=gpu.name,
            is_persistent=bool(told["persistence"]) if "persistence" in told else None,
            processes=int(told["processes"]) if "processes" in told else None,
            facts=gpu.facts,
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
    """What a GPU says of its cores, its memory and their clocks."""
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
    #: At the latest after so long the counter steps.
    step_s = 0.1

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

    def beside(self) -> Mapping[str, float]:
        """What bounds the power now: the limit that the GPU is set to, and its clock."""
        wanted = {"power_limit_w": _FACTS["power_limit_w"], "clock_hz": _GAUGES["gpu_sm_clock_hz"]}
        return _asked(wanted, self._gpu, {})

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


def _tried(ask: Callable[..., Any], *of: Any) -> Any:
    """What the driver answers; None where it does not."""
    try:
        return ask(*of)
    except pynvml.NVMLError:
        return None


def _asked(wanted: Mapping[str, Callable[[Any], float]], gpu: Any, missing: dict[str, str]) -> dict[str, float]:
    """What the driver answers; why not, of the others."""
    found = {}
    for name, ask in wanted.items():
        try:
            found[name] = float(ask(gpu))
        except pynvml.NVMLError as error:
            missing[name] = f"the driver does not tell ({error})"
    return found


def _version(major: int, minor: int) -> float:
    """A compute capability as a number: the minor part has one digit."""
    return round(major + minor / 10, 1)


def _compute_mode(number: int) -> str:
    return _COMPUTE_MODES.get(number, f"mode {number}")


def _clock_bits(gpu: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError:  # a driver from before 535 knows it by its former name
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
