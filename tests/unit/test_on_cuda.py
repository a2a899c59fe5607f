"""What torch's runtimes and compressions do otherwise on a GPU, as far as it can be told on a CPU."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor

from farm import __main__ as door
from farm import torch_session
from farm.compression import qat
from farm.devices import cuda
from farm.errors import BadInput, Unsupported
from farm.runtimes import compile as compile_runtime
from farm.runtimes import eager
from tests import factories
from tests.fakes import precisions, workloads
from tests.fakes.driver import UUID, Driver


@pytest.fixture
def precision() -> Iterator[Any]:
    """torch's settings, as a device sets them, and as they were afterwards."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    with precisions.as_they_were():
        cuda.allow_tf32(False)
        yield lambda: {backend.fp32_precision for backend in backends}


def packaged(recipe: str, dtype: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session on a package that calls what Inductor's C++ calls on a GPU: its own buffers, and convolutions."""
    weight = torch.zeros(8, 3, 3, 3, dtype=dtype)

    def call(images: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            buffer = torch.empty_strided((2, 8), (8, 1), dtype=torch.float32)
        made = torch.ops.aten._convolution(
            images, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, False, True
        )
        torch.empty_strided((2, 8), (8, 1), dtype=dtype)
        torch.empty_strided((2, 8), (8, 1), dtype=dtype)
        return made.float().mean(dim=(2, 3)) + buffer.zero_()

    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda file: call)
    with zipfile.ZipFile(folder / compile_runtime.FILE, "w") as archive:
        archive.writestr("model/wrapper.cpp", "aoti_torch_cuda_convolution(buf0, arg1, &buf2)")
    return compile_runtime.load(workloads.workload(recipe, device="cuda"), folder)


@pytest.mark.parametrize(
    ("recipe", "dtype", "name"),
    [
        ("compile", torch.float32, "float32"),
        ("fp16+compile", torch.float16, "float16"),
        ("amp+compile", torch.float16, "float16"),
        ("bf16+compile(max-autotune)", torch.bfloat16, "bfloat16"),
    ],
)
def test_a_graph_that_was_compiled_for_a_gpu_proves_its_dtype(
    recipe: str, dtype: torch.dtype, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = packaged(recipe, dtype, tmp_path, monkeypatch)
    found = session.evidence(torch.zeros(workloads.SHAPE, dtype=dtype))
    assert (found["dtype_asked"], found["dtype"], found["compiled"]) == (name, name, True)


def test_a_graph_that_was_built_with_tf32_runs_with_it(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged("compile", torch.float32, tmp_path, monkeypatch)
    assert precision() == {"ieee"}
    session = packaged("tf32+compile", torch.float32, tmp_path, monkeypatch)
    assert precision() == {"tf32"}
    assert session.evidence(torch.zeros(workloads.SHAPE))["matmul_precision"] == "tf32"


def test_an_operator_that_calls_others_is_watched_and_not_refused() -> None:
    numbers = torch.ones(4, 4, dtype=torch.int8)
    with torch_session.Watch() as watch:
        # As torchao asks for it on a GPU; where it raises, torchao multiplies floats instead.
        torch.ops.higher_order.out_dtype(torch.ops.aten.mm.default, torch.int32, numbers, numbers)
    assert watch.dtypes(*eager.INT8_PRODUCTS) == {"int32": 1}


def test_a_model_of_which_a_gpu_multiplies_nothing_in_8_bits_is_unsupported() -> None:
    eager.require_products(torch.nn.Sequential(torch.nn.Linear(8, 10), torch.nn.Linear(16, 8)))
    with pytest.raises(Unsupported, match=r"both sides are multiples of 8; this model has 8 × 10$"):
        eager.require_products(workloads.network())
    with pytest.raises(Unsupported, match="this model has none at all"):
        eager.require_products(torch.nn.Conv2d(8, 8, 1))


@pytest.mark.parametrize(
    ("device", "compiler", "where"),
    [("cuda", None, "cpu"), ("cuda", "/usr/local/cuda/bin/nvcc", "cuda"), ("cpu", None, "cpu")],
)
def test_qat_is_done_on_the_cpu_where_its_rounding_cannot_be_compiled_for_a_gpu(
    device: str, compiler: str | None, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: compiler)
    assert qat._where(device) == where


def test_what_inductor_cannot_capture_in_a_cuda_graph_is_an_error_and_no_slower_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def compile_fx(graph: Any, inputs: Any, config_patches: dict[str, Any]) -> Any:
        asked.update(config_patches)
        return graph

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    session = compile_runtime.load(workloads.workload("compile(reduce-overhead)"), None)
    session.run(session.to_device(workloads.images()))
    assert asked["triton.cudagraphs"] is True
    assert asked["triton.cudagraph_or_error"] is True


@pytest.mark.parametrize("device", ["cuda", "cuda.h200"])
def test_one_job_sees_the_gpu_that_is_described_and_no_other(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    Driver(monkeypatch)
    door._see_one_gpu(factories.spec(device=device))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == UUID


def test_one_job_is_not_measured_on_a_gpu_of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    Driver(monkeypatch)
    with pytest.raises(BadInput, match=r"Unknown GPU 'cuda\.a100'.* Possible: cuda, cuda\.h200"):
        door._see_one_gpu(factories.spec(device="cuda.a100"))
