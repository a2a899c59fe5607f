"""A CUDA GPU as a device. The process sees exactly one: its worker sets CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import torch

from farm.devices import nvml
from farm.errors import Unsupported


class Cuda:
    """The one GPU that this process sees.

    Args:
        uuid: as its driver knows it; None where that is not known, and the driver is not asked.
    """

    def __init__(self, uuid: str | None) -> None:
        self._uuid = uuid
        # Nothing of this process is there yet: what CUDA takes for itself counts, too.
        self._before = self._used_bytes()

    def _used_bytes(self) -> int | None:
        return None if self._uuid is None else nvml.used_bytes(self._uuid)

    def synchronize(self) -> None:
        """CUDA returns before the work is done."""
        torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Starts torch's own watch; the driver's is a difference to the start."""
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> tuple[int | None, int | None]:
        """Peak of torch's allocator, and what the device holds more than before this process used it.

        The second is a difference of what everybody uses, because a container is shown the host's process ids. It
        is a peak because torch and the libraries keep what they once took. Neither is ever 0: nothing in torch's
        allocator is a library that has one of its own, and no more than before is others that left meanwhile.
        """
        now = self._used_bytes()
        more = 0 if now is None or self._before is None else now - self._before
        return torch.cuda.max_memory_allocated() or None, more if more > 0 else None

    def amp_evidence(self) -> str:
        """float16 is every CUDA GPU's own."""
        return "hardware"


def open_device(threads: int, uuid: str | None = None) -> Cuda:
    """The GPU, in exact fp32: TF32 is a choice of its own.

    Raises:
        Unsupported: torch sees no GPU.
    """
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        raise Unsupported(
            "torch sees no CUDA GPU: no GPU, no driver or one that is too old for CUDA "
            f"{torch.version.cuda}, or a CPU build of torch"
        )
    device = Cuda(uuid)
    allow_tf32(False)
    torch.backends.cudnn.benchmark = True
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether numbers of 32 bits may be multiplied with TF32's ten, in products and in convolutions.

    By torch's former settings and by those that it has now: it raises where the two disagree and somebody
    reads the former, as `torch.export` does and with it every export to ONNX.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    for operators in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        operators.fp32_precision = "tf32" if allowed else "ieee"
