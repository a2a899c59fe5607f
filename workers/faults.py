"""Whether a child's end speaks against the device that it ran on (pure): then the device is probed.

Sources of the texts: those that `cudaGetErrorString` has for the errors after which, by the CUDA Runtime API's
reference (data types, `cudaError`), a process is in an inconsistent state and has to be ended, and for devices
that are not there (any more); the prefixes that PyTorch (c10/cuda/CUDAException), ONNX Runtime (cuda_call) and
TensorRT put before them; statuses of cuBLAS and cuDNN for kernels that failed; NVML's `NVML_ERROR_GPU_IS_LOST`;
Xid, as the driver logs its own errors. Sources of the signals: signal(7); SIGBUS is also how Linux tells a process
of memory that is broken (`BUS_MCEERR_AR`).
"""

from __future__ import annotations

import re

from farm.measurement import Outcome
from workers.phase import PhaseEnd

_CUDA = re.compile(
    "|".join(
        (
            "device-side assert triggered",  # 710
            "an illegal memory access was encountered",  # 700
            "unspecified launch failure",  # 719
            "an illegal instruction was encountered",  # 715
            "misaligned address",  # 716
            "operation not supported on global/shared address space",  # 717
            "invalid program counter",  # 718
            "hardware stack error",  # 714
            "the launch timed out and was terminated",  # 702
            "uncorrectable ECC error",  # 214
            "uncorrectable NVLink error",  # 220
            "device.* busy or unavailable",  # 46
            "no CUDA-capable device is detected",  # 100
            "CUDA error",
            "CUDA failure",
            r"Cuda Runtime \(",
            "CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)",
            "CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)",
            "GPU is lost",
            "fallen off the bus",
            r"\bXid\b",
        )
    ),
    re.IGNORECASE,
)
#: By kind of device, as `PhaseEnd.reason` has them. What a library does wrong ends so too: the probe tells.
_SIGNALS = {
    "cpu": frozenset({"SIGBUS", "SIGILL"}),
    "cuda": frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"}),
}
_FAILURES = (Outcome.CRASHED, Outcome.ERROR, Outcome.TIMEOUT)


def suspicion(device_kind: str, ended: PhaseEnd) -> str | None:
    """What in the end of a phase speaks against its device, in a few words; None where nothing does.

    Args:
        device_kind: `cpu` or `cuda`.
        ended: how the phase ended.
    """
    if ended.outcome not in _FAILURES:
        return None
    if ended.outcome is Outcome.CRASHED and ended.reason in _SIGNALS[device_kind]:
        return ended.reason
    if device_kind == "cpu":
        return None
    if ended.outcome is Outcome.TIMEOUT:
        # a GPU that does not answer keeps who asks it waiting
        return "it hung"
    found = _CUDA.search(ended.reason) or _CUDA.search(ended.log_tail)
    return None if found is None else found[0]
