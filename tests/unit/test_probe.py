"""The probe's own arithmetic: right on a device that computes, and not to be fooled by one that does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farm.errors import FarmError
from workers import probe


class Broken(TorchDispatchMode):
    """A device one of whose operators gives a wrong figure now and then."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self._operator = operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == self._operator:
            output.view(-1)[-1] += 1
        return output


def test_a_device_that_computes_passes() -> None:
    probe.compute("cpu")


@pytest.mark.parametrize(
    ("operator", "said"), [("mm", "1 of 65536 figures of a known product are wrong"), ("sum", "do not hold")]
)
def test_a_device_that_computes_wrong_is_found_out(operator: str, said: str) -> None:
    with Broken(operator), pytest.raises(FarmError, match=said):
        probe.compute("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU that answers")
def test_a_gpu_that_is_not_there_does_not_pass() -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        probe.compute("cuda")
