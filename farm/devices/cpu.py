"""The CPU as a device: calls return when they are done, and its memory is the host's."""

from __future__ import annotations

import torch

from farm.environment import has_bf16


class Cpu:
    """The processors this process may use."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def reset_peak(self) -> None:
        """Nothing to watch: host memory is the memory pass's."""

    def peak_bytes(self) -> tuple[None, None]:
        """A CPU has no memory of its own."""
        return None, None

    def amp_evidence(self) -> str:
        """Whether bfloat16 is the processor's own."""
        return "hardware" if has_bf16() else "emulated"


def open_device(threads: int, uuid: str | None = None) -> Cpu:
    """The CPU with this many threads."""
    torch.set_num_threads(threads)
    return Cpu()
