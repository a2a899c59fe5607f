"""What NVIDIA's management library tells of the GPUs here, without torch; nothing where there is no driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

#: A GPU job's host side: one processor computes, one answers the driver.
HOST_THREADS = 2

#: Words of a GPU's name that say who sells it or in what form, not what it is.
_NO_MODEL = re.compile(r"nvidia|geforce|tesla|quadro|graphics|gpu|\d+gb|hbm\d*e?|sxm\d*|pcie|nvl")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    uuid: str
    name: str
    driver: str
    memory_bytes: int

    @property
    def model(self) -> str:
        """Its model as one word: `h200` of `NVIDIA H200`, `rtx-4090` of `NVIDIA GeForce RTX 4090`."""
        words = re.split(r"[^a-z0-9]+", self.name.lower())
        return "-".join(word for word in words if word and not _NO_MODEL.fullmatch(word))


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
