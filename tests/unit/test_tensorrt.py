"""TensorRT's runtime, with a stand-in for its library: how engines are built, run and looked into."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from farm import catalogue, onnx_graph, plugins, runtimes
from farm.errors import FarmError, OutOfMemory, Unsupported
from farm.runtimes import tensorrt as plugin
from tests.fakes import cuda, workloads

FAKES = Path(__file__).resolve().parents[1] / "fakes"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`import tensorrt` finds the stand-in, and the driver's streams are one too."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    cuda.Cuda(monkeypatch)
    yield importlib.import_module("tensorrt")
    sys.modules.pop("tensorrt", None)


def built(recipe: str, folder: Path) -> Any:
    """A session on an engine that was built, written and read again."""
    load = workloads.workload(recipe)
    plugin.build(load, folder)
    return plugin.load(load, folder)


def test_the_plugin_does_not_stand_before_the_library(library: ModuleType) -> None:
    assert runtimes.module("tensorrt") is plugin
    assert plugin.library() is library
    assert plugin.__name__ == "farm.runtimes.tensorrt"


@pytest.mark.parametrize(
    ("recipe", "dtype", "error"),
    [("tensorrt", "float32", 1e-4), ("fp16+tensorrt", "float16", 0.01), ("int8_static+tensorrt", "int8", 0.2)],
)
@pytest.mark.parametrize("version", ["10.16.1", "11.4.0"])
def test_an_engine_answers_as_the_model_and_tells_its_dtype(
    recipe: str, dtype: str, error: float, version: str, library: Any, tmp_path: Path
) -> None:
    library.__version__ = version
    session = built(recipe, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [plugin.FILE]
    for seed in (1, 3):
        batch = workloads.images(seed)
        logits = session.to_host(session.run(session.to_device(batch)))
        assert logits.dtype == np.float32
        assert workloads.relative_error(logits, workloads.expected(batch)) < error
    found = session.evidence(session.to_device(workloads.images()))
    assert (found["dtype"], found["dtype_asked"]) == (dtype, dtype)
    assert found["convolutions"] == {dtype: 2}
    assert found.get("int8_convolutions", 0) == (2 if dtype == "int8" else 0)
    assert found["tf32_kernels"] == 0


def test_an_engine_runs_on_a_stream_of_its_own(library: Any, tmp_path: Path) -> None:
    session = built("tensorrt", tmp_path)
    library.streams.clear()
    session.run(session.to_device(workloads.images()))
    assert library.streams == [1]  # 0 is the default stream


def test_tf32_is_switched_on_only_where_it_is_asked_for(library: Any, tmp_path: Path) -> None:
    plugin.build(workloads.workload("tf32+tensorrt"), tmp_path)
    engine = plugin._Engine(library, (tmp_path / plugin.FILE).read_bytes(), workloads.workload("tensorrt"))
    assert plugin.observed(engine.layers(), without_tf32=False)["dtype"] == "float32"
    assert plugin.observed(engine.layers(), without_tf32=False)["tf32_kernels"] == 2
    assert plugin.observed(engine.layers(), without_tf32=True)["dtype"] == "tf32"


def test_layers_are_timed_by_the_librarys_profiler_in_a_context_of_its_own(library: Any, tmp_path: Path) -> None:
    session = built("tensorrt", tmp_path)
    images = session.to_device(workloads.images())
    found = session.profile(images, 3)
    layers = {operator.name: operator for operator in found.operators}
    assert (found.source, found.calls, len(layers)) == ("tensorrt", 3, 7)
    assert {operator.calls for operator in found.operators} == {3}  # what ran before the profiler was there is not
    first, second, *_ = found.operators
    assert (first.device_self_s, second.device_total_s) == (0.25e-3, 0.5e-3)
    assert first.host_self_s is None
    track, *events = json.loads(found.trace)["traceEvents"]
    assert "one after the other" in track["args"]["name"]
    assert [(event["ts"], event["dur"]) for event in events[:2]] == [(0, 250), (250, 500)]
    assert len(events) == 21
    assert (
        workloads.relative_error(session.to_host(session.run(images)), workloads.expected(workloads.images()))
        < 1e-4
    )
    assert found == session.profile(images, 3)


def test_a_graph_that_cannot_be_parsed_says_why(library: Any, tmp_path: Path) -> None:
    # Quantized as processors want it: with zero points, and biases in 32 bits.
    onnx_graph.build(workloads.workload("int8_static+onnxruntime"), tmp_path / "cpu.onnx", onnx_graph.Scheme.CPU)
    with pytest.raises(FarmError, match=r"cannot parse the ONNX graph: .*shiftIsAllZeros.*; .*only activation"):
        plugin._Builder(library).engine(tmp_path / "cpu.onnx", allow_tf32=False)


@pytest.mark.parametrize(
    ("said", "kind"),
    [("Could not find any implementation for node conv1.", FarmError), ("Out of memory", OutOfMemory)],
)
def test_an_engine_that_cannot_be_built_says_why(
    said: str, kind: type[Exception], library: Any, tmp_path: Path
) -> None:
    library.build_error = said
    with pytest.raises(kind) as failed:
        plugin.build(workloads.workload("tensorrt"), tmp_path)
    assert type(failed.value) is kind
    assert str(failed.value) == f"TensorRT could not build an engine of the graph: {said}"


def test_a_file_that_is_no_engine_is_refused_with_the_librarys_words(library: Any, tmp_path: Path) -> None:
    (tmp_path / plugin.FILE).write_bytes(b"something else")
    with pytest.raises(FarmError, match=r"does not take the engine's file: .*magicTag"):
        plugin.load(workloads.workload("tensorrt"), tmp_path)


def test_a_library_that_cannot_be_loaded_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(Unsupported, match=r"pip install -r requirements-tensorrt\.txt"):
        plugin.library()


@pytest.mark.parametrize("recipe", ["tensorrt", "fp16+tensorrt", "int8_static+tensorrt", "onnxruntime(tensorrt)"])
def test_what_needs_a_gpu_and_tensorrt_is_unsupported_without(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = catalogue.parse_recipe(recipe)
    with pytest.raises(Unsupported, match="runs on cuda, not on cpu"):
        catalogue.require_device(asked, "cpu")
    catalogue.require_device(asked, "cuda")
    monkeypatch.setattr(plugins, "installed", lambda module: module != "tensorrt")
    with pytest.raises(Unsupported, match="needs tensorrt: pip install"):
        catalogue.require_installed(asked)
    assert catalogue.why_not(recipe, ["cpu"]) == "no: needs cuda"
    assert "needs tensorrt: pip install" in catalogue.why_not(recipe, ["cpu", "cuda"])


def test_layers_without_details_are_no_evidence() -> None:
    assert plugin.observed([], without_tf32=True)["dtype"] == "none seen"


def test_convolutions_that_stayed_in_floats_are_counted() -> None:
    layers: list[Mapping[str, Any]] = [
        {"LayerType": kind, "Inputs": [{"Format/Datatype": text}]}
        for kind, text in (
            ("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
            ("CaskConvActPool", "Row major Int8 format"),
            ("CaskConvolution", "Channel major FP16 format where channel % 8 == 0"),
            ("CaskDeconvolutionV2", "Row major linear FP32"),
            ("Reformat", "Row major linear FP32"),
        )
    ]
    found = plugin.observed(layers, without_tf32=True)
    assert (found["dtype"], found["convolutions"]) == ("int8", {"int8": 2, "float16": 1})
    assert (found["int8_convolutions"], found["exact_convolutions"]) == (2, 1)
    assert found["layer_dtypes"] == {"int8": 2, "float16": 1, "float32": 2}
