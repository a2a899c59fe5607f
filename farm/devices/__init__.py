"""Devices, one file each: how to wait for one, what memory it took, and how to set it up.

A device is a module-level function `open_device(threads, uuid) -> Device` in `farm/devices/<kind>.py`. The other
files here tell what can be read of it while something else is measured, without torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Protocol

from farm.devices import host, nvml
from farm.measurement import Hardware


class Device(Protocol):
    """What the passes need of a device."""

    def synchronize(self) -> None:
        """Returns when all work that was queued is done."""

    def reset_peak(self) -> None:
        """Starts a new watch for the highest memory use."""

    def peak_bytes(self) -> tuple[int | None, int | None]:
        """Highest device memory since then: held by the allocator, seen by the driver. None: not observed."""

    def amp_evidence(self) -> str:
        """How `amp` is computed here: `hardware` or `emulated`."""


def open_device(kind: str, threads: int, uuid: str | None = None) -> Device:
    """The device of this kind, set up for measuring in this process; `uuid` is the GPU's, None for a CPU."""
    device: Device = importlib.import_module(f"farm.devices.{kind}").open_device(threads, uuid)
    return device


def hardware(gpu_uuid: str | None) -> Hardware:
    """What limits are reckoned from: of that GPU or, without one, of the processors this process may use."""
    return host.hardware(sorted(os.sched_getaffinity(0))) if gpu_uuid is None else nvml.hardware(gpu_uuid)
