"""A CUDA GPU as a device. The process sees exactly one: its worker sets CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import torch

from farm.devices import nvml
from farm.errors import Unsupported


class Cuda:
    """The one GPU that this process sees."""

    def __init__(self) -> None:
        self.before = nvml.used_bytes(self._uuid())

    def _uuid(self) -> str:
        return f"GPU-{torch.cuda.get_device_properties(0).uuid}"

    def synchronize(self) -> None:
        """CUDA returns before the work is done."""
        torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Starts torch's own watch; the driver's is a difference to the start."""
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> tuple[int | None, int | None]:
        """Peak of torch's allocator, and what the device holds more than before this process used it."""
        now = nvml.used_bytes(self._uuid())
        seen = None if now is None or self.before is None else max(0, now - self.before)
        return torch.cuda.max_memory_allocated(), seen

    def amp_evidence(self) -> str:
        """float16 is every CUDA GPU's own."""
        return "hardware"


def open_device(threads: int) -> Cuda:
    """The GPU, in exact fp32: TF32 is a choice of its own.

    Raises:
        Unsupported: torch sees no GPU.
    """
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        raise Unsupported("torch sees no CUDA GPU: no driver, no GPU, or a CPU build of torch")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = True
    return Cuda()
