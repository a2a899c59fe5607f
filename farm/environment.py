"""Describes where a measurement runs: host, device, driver, versions. Imports no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

from farm.devices import nvml
from farm.devices.nvml import Gpu
from farm.errors import BadInput
from farm.measurement import Environment

#: Distributions whose version changes figures, by the name they are shown under.
PACKAGES = {
    "farm": ("benchmark-farm",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "nncf": ("nncf",),
    "torchao": ("torchao",),
    "torch-pruning": ("torch-pruning",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}

#: Instruction sets that decide what runs fast on a CPU.
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "bf16",
    "i8mm",
)

ROOT = Path(__file__).resolve().parent.parent


def describe(device_kind: str, threads: int, uuid: str | None = None) -> Environment:
    """The environment of a measurement on this host.

    Args:
        device_kind: `cpu` or `cuda`.
        threads: processors the measurement may use.
        uuid: of the GPU, or what else `CUDA_VISIBLE_DEVICES` may hold; None takes the first one.

    Raises:
        BadInput: there is no such device here.
    """
    gpu = None if device_kind == "cpu" else _gpu(uuid)
    return Environment(
        host=platform.node(),
        device_kind=device_kind,
        device_model=processor_name() if gpu is None else gpu.name,
        device_uuid=None if gpu is None else gpu.uuid,
        processors=os.cpu_count() or 1,
        threads=threads,
        memory_bytes=psutil.virtual_memory().total,
        features=processor_features(),
        driver=None if gpu is None else gpu.driver,
        gpu=None if gpu is None else gpu.facts,
        os=platform.platform(),
        python=platform.python_version(),
        packages=dict(_packages()),
        commit=_commit(),
    )


@functools.cache
def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    pairs = (line.partition(":") for line in lines if ":" in line)
    first: dict[str, str] = {}
    for key, _, value in pairs:
        first.setdefault(key.strip(), value.strip())
    return first


def processor_name() -> str:
    """The processor as it names itself, with family and model where the name is a general one."""
    info = _cpuinfo()
    name = info.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {info['cpu family']} model {info['model']})" if "cpu family" in info else name


def processor_features() -> tuple[str, ...]:
    """Those of `FEATURES` that this processor has."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(name for name in FEATURES if name in flags)


def available_processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def has_bf16() -> bool:
    """Whether this processor computes bfloat16 in hardware."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_features()))


def _gpu(visible: str | None) -> Gpu:
    there = nvml.gpus()
    found = nvml.among(there, visible)
    if not found:
        asked = "NVIDIA GPU" if visible is None else f"GPU {visible!r}"
        raise BadInput(
            f"There is no {asked} on this host. Possible here: {', '.join(['cpu', *(g.uuid for g in there)])}."
        )
    return found[0]


@functools.cache
def _packages() -> tuple[tuple[str, str], ...]:
    found = []
    for shown, distributions in PACKAGES.items():
        versions = [version for name in distributions if (version := _version(name))]
        if versions:
            found.append((shown, versions[0]))
    return tuple(found)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    if not (ROOT / ".git").exists():
        return _noted_commit()
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _noted_commit() -> str | None:
    """What an image's build wrote down, where there is no repository to ask."""
    try:
        return (ROOT / "COMMIT").read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
