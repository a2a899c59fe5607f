"""ONNX Runtime on a GPU, with a stand-in for its sessions: what is asked of providers, what is told of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from farm import catalogue
from farm.errors import OutOfMemory, Unsupported, memory_errors
from farm.runtimes import onnxruntime as plugin
from tests.fakes import workloads
from tests.fakes.onnx_providers import CPU, CUDA, TENSORRT, Gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    library = ModuleType("tensorrt")
    library.__spec__ = ModuleSpec("tensorrt", None)  # torch looks for it
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    os.putenv(plugin.TF32_OVERRIDE, "set before")
    yield Gpu(monkeypatch)
    os.unsetenv(plugin.TF32_OVERRIDE)


def built(recipe: str, folder: Path) -> Any:
    load = workloads.workload(recipe, device="cuda")
    plugin.build(load, folder)
    return plugin.load(load, folder)


@pytest.mark.parametrize(
    ("recipe", "asked"),
    [
        ("onnxruntime", [(CUDA, {"use_tf32": "0"})]),
        ("fp16+onnxruntime", [(CUDA, {"use_tf32": "0"})]),
        ("tf32+onnxruntime", [(CUDA, {"use_tf32": "1"})]),
    ],
)
def test_tf32_is_off_on_cuda_where_it_is_not_asked_for(recipe: str, asked: Any, tmp_path: Path) -> None:
    assert plugin.providers(workloads.workload(recipe, device="cuda"), tmp_path) == asked


def test_a_cpu_is_asked_for_no_option_of_a_gpu(tmp_path: Path) -> None:
    assert plugin.providers(workloads.workload("onnxruntime"), tmp_path) == [(CPU, {})]


def test_tensorrt_builds_a_typed_network_with_its_engine_in_the_artifact(tmp_path: Path) -> None:
    (first, options), second = plugin.providers(
        workloads.workload("fp16+onnxruntime(tensorrt)", device="cuda"), tmp_path
    )
    assert first == TENSORRT
    assert options == {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path)}
    assert second == (CUDA, {"use_tf32": "0"})


@pytest.mark.parametrize(
    ("recipe", "override"), [("onnxruntime(tensorrt)", b"0"), ("tf32+onnxruntime(tensorrt)", None)]
)
def test_tensorrts_provider_takes_tf32_from_the_one_variable_there_is(
    recipe: str, override: bytes | None, gpu: Gpu, tmp_path: Path
) -> None:
    built(recipe, tmp_path)
    # Where libraries read it: Python's own copy is not told.
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    assert getenv(plugin.TF32_OVERRIDE.encode()) == override


def test_the_engine_is_made_by_the_build_and_only_loaded_by_a_measurement(gpu: Gpu, tmp_path: Path) -> None:
    load = workloads.workload("onnxruntime(tensorrt)", device="cuda")
    assert plugin.build(load, tmp_path)["engines"] == 1
    session = plugin.load(load, tmp_path)
    assert session.evidence(session.to_device(workloads.images()))["engine_was_cached"] is True
    next(tmp_path.glob("*.engine")).unlink()
    anew = plugin.load(load, tmp_path)
    assert anew.evidence(anew.to_device(workloads.images()))["engine_was_cached"] is False


@pytest.mark.parametrize(
    ("recipe", "dtype"), [("onnxruntime", np.float32), ("channels_last+fp16+onnxruntime", np.float16)]
)
def test_input_and_output_stay_on_the_device(recipe: str, dtype: Any, gpu: Gpu, tmp_path: Path) -> None:
    session, batch = built(recipe, tmp_path), workloads.images()
    on_device = session.to_device(batch)
    output = session.run(on_device)
    assert (on_device.device, output.device) == ("cuda", "cuda")
    assert on_device.array.dtype == dtype
    logits = session.to_host(output)
    assert logits.dtype == np.float32
    assert workloads.relative_error(logits, workloads.expected(batch)) < 0.01


def test_nodes_and_convolutions_are_told_by_provider_and_dtype(gpu: Gpu, tmp_path: Path) -> None:
    gpu.nodes = [(CUDA, "Conv", "float16")] * 3 + [(CUDA, "Gemm", "float16"), (CPU, "Shape", "float16")]
    session = built("fp16+onnxruntime", tmp_path)
    found = session.evidence(session.to_device(workloads.images()))
    assert (found["provider"], found["provider_asked"]) == (CUDA, CUDA)
    assert (found["dtype"], found["dtype_asked"]) == ("float16", "float16")
    assert found["convolutions"] == {"int8": 0, "float32": 0, "float16": 3}
    assert (found["nodes"], found["nodes_elsewhere"], found["node_share"]) == ({CUDA: 4, CPU: 1}, 1, 0.8)


def test_half_a_graph_whose_convolutions_ran_in_fp32_is_another_dtype(gpu: Gpu, tmp_path: Path) -> None:
    gpu.nodes = [(CUDA, "Conv", "float")] * 3
    session = built("fp16+onnxruntime", tmp_path)
    assert session.evidence(session.to_device(workloads.images()))["dtype"] == "float32"


def test_what_cuda_took_of_tensorrts_graph_ran_elsewhere(gpu: Gpu, tmp_path: Path) -> None:
    gpu.nodes = [(TENSORRT, "TRTKernel_graph_0", "float"), (CUDA, "Gemm", "float"), (CUDA, "Resize", "float")]
    session = built("onnxruntime(tensorrt)", tmp_path)
    found = session.evidence(session.to_device(workloads.images()))
    assert (found["nodes_elsewhere"], found["nodes_mostly_on"]) == (2, CUDA)
    assert found["dtype"] == "float32"


@pytest.mark.parametrize("missing", [[TENSORRT], [TENSORRT, CUDA]])
def test_a_provider_that_is_not_there_is_told(missing: list[str], gpu: Gpu, tmp_path: Path) -> None:
    gpu.available = [name for name in gpu.available if name not in missing]
    session = built("onnxruntime(tensorrt)", tmp_path)
    found = session.evidence(session.to_device(workloads.images()))
    assert found["provider_asked"] == TENSORRT
    assert found["provider"] == (CPU if CUDA in missing else CUDA)
    assert gpu.bindings[-1].output_device == ("cpu" if CUDA in missing else "cuda")


@pytest.mark.parametrize(
    ("kernels", "dtype"),
    [
        (["sm90_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize128x64x64", "copy"], "int8"),
        (["sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc", "copy"], "no 8-bit kernel seen"),
        ([], "no 8-bit kernel seen"),
    ],
)
def test_8_bits_in_tensorrts_provider_are_told_by_its_kernels(
    kernels: list[str], dtype: str, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        SimpleNamespace(name=name, device_type=kind)
        for kind, names in ((DeviceType.CUDA, kernels), (DeviceType.CPU, ["cudaLaunchKernel_i8i8"]))
        for name in names
    ]
    watch = SimpleNamespace(events=lambda: events)
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: contextlib.nullcontext(watch))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    gpu.nodes = [(TENSORRT, "TRTKernel_graph_0", "float")]
    session = built("int8_static+onnxruntime(tensorrt)", tmp_path)
    found = session.evidence(session.to_device(workloads.images()))
    assert (found["dtype_asked"], found["dtype"]) == ("int8", dtype)
    assert found["kernels"] == len(kernels)


def test_8_bits_on_the_cuda_provider_are_unsupported_with_what_has_them(tmp_path: Path) -> None:
    load = workloads.workload("int8_static+onnxruntime", device="cuda")
    with pytest.raises(Unsupported, match=r"no 8-bit convolution.* int8_static\+onnxruntime\(tensorrt\)"):
        plugin.build(load, tmp_path)
    with pytest.raises(Unsupported, match="int8_dynamic on onnxruntime runs on cpu, not on cuda"):
        catalogue.require_device(catalogue.parse_recipe("int8_dynamic+onnxruntime"), "cuda")


def test_half_precision_is_for_gpus_only() -> None:
    with pytest.raises(Unsupported, match="fp16 on onnxruntime runs on cuda, not on cpu"):
        catalogue.require_device(catalogue.parse_recipe("fp16+onnxruntime"), "cpu")


@pytest.mark.parametrize("recipe", ["onnxruntime", "onnxruntime(tensorrt)"])
def test_memory_that_runs_out_for_a_session_is_told_and_the_cpu_is_not_taken_instead(
    recipe: str, gpu: Gpu, tmp_path: Path
) -> None:
    gpu.refusal = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0"
    with pytest.raises(OutOfMemory, match="CUDA failure 2: out of memory"), memory_errors():
        built(recipe, tmp_path)
