"""The memory pass: the highest resident memory of this process above what it held before the model."""

from __future__ import annotations

import resource
from pathlib import Path

from farm.devices import Device
from farm.measurement import Memory

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class MemoryWatch:
    """Watches from its making on: make it after imports, before the model or its artifact is loaded."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.missing: dict[str, str] = {}
        self._reset_peak()
        device.reset_peak()
        self.floor_bytes = _kibibytes("VmRSS")

    def _reset_peak(self) -> None:
        try:
            _RESET.write_text("5")  # the kernel forgets the highest resident size so far (proc(5))
        except OSError as error:
            self.missing["ram_reset"] = f"the kernel did not reset the peak ({error}): it may be from before"

    def read(self) -> Memory:
        """What was taken since."""
        allocator, process = self.device.peak_bytes()
        return Memory(
            floor_bytes=self.floor_bytes,
            peak_bytes=max(_kibibytes("VmHWM"), self.floor_bytes),
            vram_allocator_bytes=allocator,
            vram_process_bytes=process,
        )


def _kibibytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
