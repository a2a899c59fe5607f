"""Which workers the embedded farm needs for a matrix, and whether this host has the devices for them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from farm import environment
from farm.devices import nvml
from farm.devices.nvml import HOST_THREADS
from farm.errors import BadInput
from farm.spec import Matrix


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One worker to be started: its device and its processors."""

    #: `cpu` or `cuda`.
    device: str
    #: Processors of its measurements.
    threads: int
    #: UUID of its GPU; None for a CPU.
    uuid: str | None = None
    #: The GPU's model as one word.
    model: str = ""

    def arguments(self) -> list[str]:
        """What `python -m workers` is started with."""
        return ["--device", self.device, "--threads", str(self.threads)]

    def variables(self) -> dict[str, str]:
        """What is set for its worker: of several GPUs it takes its own."""
        return {} if self.uuid is None else {"CUDA_VISIBLE_DEVICES": self.uuid}


def seats(matrix: Matrix, side_by_side: int = 1, visible: str | None = None) -> list[Seat]:
    """A seat per device of the matrix that this host has; of GPUs, one for each.

    Args:
        matrix: what is to be measured.
        side_by_side: CPU workers, each on processors of its own.
        visible: the GPUs to choose from, as `CUDA_VISIBLE_DEVICES` names them; None is all.

    Raises:
        BadInput: the matrix asks for a device or for processors that are not here; says what is.
    """
    here = len(os.sched_getaffinity(0))
    _check_threads(matrix.threads, here)
    _check_side_by_side(side_by_side, matrix, here)
    cuda = [device for device in matrix.devices if device != "cpu"]
    gpus = _gpus(matrix.threads or min(HOST_THREADS, here), visible) if cuda else []
    for device in cuda:
        if not any(_is(device, gpu.model) for gpu in gpus):
            raise BadInput(_not_here(device, gpus))
    cpu = [Seat(device="cpu", threads=matrix.threads or here)] * side_by_side if "cpu" in matrix.devices else []
    return cpu + [gpu for gpu in gpus if any(_is(device, gpu.model) for device in cuda)]


def environments(taken: list[Seat]) -> frozenset[str]:
    """The environment classes of the workers in these seats."""
    return frozenset(environment.describe(seat.device, seat.threads, seat.uuid).key for seat in taken)


def _check_threads(asked: int | None, here: int) -> None:
    if asked is not None and asked > here:
        raise BadInput(
            f"--threads {asked}: this host has {here} processors for us, so no worker here could take the "
            f"jobs. Use --threads {here} or less, or submit to a farm with a larger host (without --local)."
        )


def _check_side_by_side(workers: int, matrix: Matrix, here: int) -> None:
    threads = matrix.threads or here
    if "cpu" in matrix.devices and workers > 1 and workers * threads > here:
        raise BadInput(
            f"--workers {workers}: with {threads} threads each they need more than the {here} processors that "
            f"this host has for us. Add --threads {max(1, here // workers)}, or use fewer workers."
        )


def _gpus(threads: int, visible: str | None) -> list[Seat]:
    """Every GPU of this host that may be used; none where there is no driver."""
    found = nvml.among(nvml.gpus(), visible)
    return [Seat(device="cuda", threads=threads, uuid=gpu.uuid, model=gpu.model) for gpu in found]


def _is(device: str, model: str) -> bool:
    """Whether a GPU of this model serves the device: any `cuda`, or its own name."""
    return device in ("cuda", f"cuda.{model}")


def _not_here(device: str, found: list[Seat]) -> str:
    here = ", ".join(["cpu", *(f"cuda.{gpu.model}" for gpu in found)])
    return (
        f"--devices {device}: this host has no such device for an embedded farm; it has: {here}. "
        "Leave the device out, or submit to a farm that has one (without --local)."
    )
