"""Which ends of a child speak against its device."""

from __future__ import annotations

import pytest

from farm.measurement import Outcome
from workers.faults import suspicion
from workers.phase import PhaseEnd

#: As the libraries say it, each in its own words.
SAID = [
    "RuntimeError: CUDA error: device-side assert triggered",
    "AcceleratorError: CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …",
    "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=x",
    "[TRT] [E] 1: [runner.cpp::execute::386] Error Code 1: Cuda Runtime (misaligned address)",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "pynvml.NVMLError_GpuIsLost: GPU is lost",
    "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.",
]


def end(outcome: Outcome | None, reason: str = "", log_tail: str = "") -> PhaseEnd:
    return PhaseEnd(outcome=outcome, reason=reason, log_tail=log_tail)


@pytest.mark.parametrize("said", SAID)
def test_what_the_libraries_say_of_a_broken_gpu_is_recognised_wherever_they_say_it(said: str) -> None:
    assert suspicion("cuda", end(Outcome.ERROR, said))
    assert suspicion("cuda", end(Outcome.CRASHED, "exit status 1 without a result", f"first\n{said}\nlast"))
    assert suspicion("cpu", end(Outcome.ERROR, said)) is None


@pytest.mark.parametrize(
    ("kind", "reason", "is_suspicious"),
    [
        ("cuda", "SIGSEGV", True),
        ("cuda", "SIGABRT", True),
        ("cuda", "SIGBUS", True),
        ("cuda", "SIGKILL", False),
        ("cuda", "exit status 7 without a result", False),
        ("cpu", "SIGBUS", True),
        ("cpu", "SIGILL", True),
        ("cpu", "SIGSEGV", False),
        ("cpu", "SIGABRT", False),
    ],
)
def test_a_signal_speaks_against_the_device_that_may_have_caused_it(
    kind: str, reason: str, is_suspicious: bool
) -> None:
    assert (suspicion(kind, end(Outcome.CRASHED, reason)) is not None) is is_suspicious


def test_a_gpu_that_keeps_a_process_waiting_is_suspected_and_a_processor_is_not() -> None:
    assert suspicion("cuda", end(Outcome.TIMEOUT, "the measure phase took longer than 900 s"))
    assert suspicion("cpu", end(Outcome.TIMEOUT, "the measure phase took longer than 900 s")) is None


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.OK, ""),
        (Outcome.OUT_OF_MEMORY, "CUDA error: out of memory"),
        (Outcome.UNSUPPORTED, "torch sees no CUDA GPU"),
        (Outcome.CANCELLED, "cancelled during the measure phase"),
        (None, "another attempt has the job"),
        (Outcome.ERROR, "KeyError: 'cuda'"),
        (Outcome.ERROR, "the dataset is not there"),
    ],
)
def test_other_ends_say_nothing_of_the_device(outcome: Outcome | None, reason: str) -> None:
    assert suspicion("cuda", end(outcome, reason)) is None
