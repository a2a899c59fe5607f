"""torch's settings of how it multiplies: they are of the whole process, and of every test after this one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def as_they_were() -> Iterator[None]:
    """Puts them back afterwards: the former ones first, which change the others."""
    former = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = former
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
