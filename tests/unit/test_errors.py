"""How libraries say that memory ran out, and what is no such thing."""

from __future__ import annotations

import pytest

from farm.errors import ControlDied, OutOfMemory, memory_errors


class Fail(Exception):
    """As ONNX Runtime has it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 96.0 MiB"), "host memory ran out: Unable to allocate 96.0 MiB"),
        (MemoryError(), "host memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "DefaultCPUAllocator: can't"),
        (Fail("FAIL : Conv node\nFailed to allocate memory for requested buffer"), "Failed to allocate memory"),
        (RuntimeError("Exception from core.cpp:117:\nallocator.cpp:79:\nstd::bad_alloc\n"), "std::bad_alloc"),
        (RuntimeError("CUDA out of memory. Tried to allocate\nmore advice"), "CUDA out of memory."),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE",
        ),
    ],
)
def test_every_way_of_saying_that_memory_ran_out_is_understood(error: Exception, said: str) -> None:
    with pytest.raises(OutOfMemory) as caught, memory_errors():
        raise error
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "error", [RuntimeError("illegal memory access"), ControlDied("out of memory"), KeyError("x")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors():
        raise error
    assert caught.value is error
