"""What a worker on this host can do: its device, its queues, its environment. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
import secrets
from collections import Counter
from collections.abc import Sequence

from farm import environment, locks
from farm.devices import nvml
from farm.devices.nvml import HOST_THREADS, Gpu
from farm.errors import BadInput, unknown
from results_store.store import WorkerInfo
from workers.quarantine import UNPROBED

DEVICES = ("cpu", "cuda", "auto")


def capabilities(
    device: str,
    threads: int | None = None,
    *,
    name: str | None = None,
    living: Sequence[WorkerInfo] = (),
    visible: str | None = None,
) -> WorkerInfo:
    """A worker for this device of this host.

    Args:
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one, else the CPU.
        threads: processors that a job takes; None is all for a CPU, and `HOST_THREADS` beside a GPU.
        name: the worker's name, unique in the farm; None makes one up.
        living: the farm's workers, so that of several GPUs the least served is taken.
        visible: the GPUs to choose from, as `CUDA_VISIBLE_DEVICES` names them; None is all.

    Raises:
        BadInput: no such device here, or more threads than processors.
    """
    device = "cuda" if device == "gpu" else device  # as in a matrix
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    gpus = nvml.among(nvml.gpus(), visible) if device != "cpu" else ()
    if device == "cuda" and not gpus:
        raise BadInput(
            "No NVIDIA GPU answers on this host, or CUDA_VISIBLE_DEVICES leaves none. Possible here: "
            "--device cpu. In a container, start it with GPUs (docker run --gpus all)."
        )
    gpu = least_served(gpus, living) if gpus else None
    kind = "cpu" if gpu is None else "cuda"
    found = environment.describe(kind, _threads(threads, kind), None if gpu is None else gpu.uuid)
    return WorkerInfo(
        id=full_name(name, kind),
        host=platform.node(),
        pid=os.getpid(),
        device_kind=kind,
        device_model=found.device_model,
        device_uuid=found.device_uuid,
        queues=queues(gpu),
        threads=found.threads,
        environment_key=found.key,
        environment=found,
        # A GPU may be broken from the start; a processor that is does not get so far.
        quarantined=None if gpu is None else UNPROBED,
    )


def queues(gpu: Gpu | None) -> tuple[str, ...]:
    """The queues that a device's jobs are in: `cpu`, or `gpu` and the GPU's own, such as `gpu.h200`."""
    if gpu is None:
        return ("cpu",)
    return ("gpu", f"gpu.{gpu.model}") if gpu.model else ("gpu",)


def least_served(gpus: Sequence[Gpu], living: Sequence[WorkerInfo]) -> Gpu:
    """The GPU with the fewest living workers; the first of several."""
    served = Counter(worker.device_uuid for worker in living)
    return min(gpus, key=lambda gpu: served[gpu.uuid])


def full_name(name: str | None, kind: str) -> str:
    """A worker's name with its host; without a name, a unique one like `cpu@host.4711-3f09c2d1`.

    Raises:
        BadInput: the name has characters that the queue's tools would trip over.
    """
    if name is None:
        # Not the process id alone: in containers that share a host's name it is the same for all.
        return f"{'gpu' if kind == 'cuda' else kind}@{platform.node()}.{os.getpid()}-{secrets.token_hex(4)}"
    if re.fullmatch(r"[A-Za-z0-9_.-]+(@[A-Za-z0-9_.-]+)?", name) is None:
        raise BadInput(f"The name {name!r} is not possible: letters, digits, '_', '.', '-' and one '@', please.")
    return name if "@" in name else f"{name}@{platform.node()}"


def _threads(asked: int | None, kind: str) -> int:
    there = len(locks.processors())
    if asked is None:
        return there if kind == "cpu" else min(HOST_THREADS, there)
    if not 1 <= asked <= there:
        raise BadInput(f"--threads {asked}: this host has {there} processors for it. Possible: 1 to {there}.")
    return asked
