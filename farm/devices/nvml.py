"""What NVIDIA's management library tells of the GPUs here, without torch; nothing where there is no driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    uuid: str
    name: str
    driver: str
    memory_bytes: int


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
    """Every GPU of this host; empty where there is none."""
    with _library() as library:
        if library is None:
            return ()
        handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                uuid=_text(library.nvmlDeviceGetUUID(handle)),
                name=_text(library.nvmlDeviceGetName(handle)),
                driver=_text(library.nvmlSystemGetDriverVersion()),
                memory_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
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


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
