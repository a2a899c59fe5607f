"""The ONNX graphs that GPU runtimes start from, run for real by ONNX Runtime's CPU provider."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, numpy_helper

from farm import onnx_graph
from farm.onnx_graph import Scheme
from farm.runtimes import Workload
from tests.fakes import workloads

SHAPE = (2, 3, 64, 64)


def squeezenet() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.squeezenet1_1(num_classes=10)
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d) and part.bias is not None:
            torch.nn.init.uniform_(part.bias)  # untrained it is 0, which the exporter leaves out
    return model.eval()


def images(seed: int, count: int = SHAPE[0]) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE[1:]), dtype=np.float32)


def workload(recipe: str) -> Workload:
    given: dict[str, Any] = {"shape": SHAPE, "model": squeezenet, "calibration": lambda: images(2, count=8)}
    return workloads.workload(recipe, **given)


def answers(asked: Workload, file: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {onnx_graph.INPUT: onnx_graph.as_input(asked, batch)})
    found: np.ndarray = logits
    return found


def expected(batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = squeezenet()(torch.from_numpy(batch)).numpy()
    return logits


@pytest.mark.parametrize("recipe", ["fp16+tensorrt", "channels_last+fp16+onnxruntime"])
def test_a_float16_graph_is_float16_throughout_and_answers_as_the_model(recipe: str, tmp_path: Path) -> None:
    file, asked = tmp_path / onnx_graph.FILE, workload(recipe)
    onnx_graph.build(asked, file)
    graph = onnx.load(file).graph
    tensors = [value.type.tensor_type for value in (*graph.input, *graph.output)]
    assert [tensor.elem_type for tensor in tensors] == [TensorProto.FLOAT16] * 2
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}
    assert "Cast" not in {node.op_type for node in graph.node}
    shape = [size.dim_value for size in tensors[0].shape.dim]
    assert shape == ([2, 64, 64, 3] if "channels_last" in recipe else [2, 3, 64, 64])
    batch = images(1)
    logits = answers(asked, file, batch)
    assert logits.dtype == np.float16
    assert 0 < workloads.relative_error(logits, expected(batch)) < 0.01
    assert [path.name for path in tmp_path.iterdir()] == [onnx_graph.FILE]


def test_a_graph_for_tensorrt_is_quantized_as_tensorrt_wants_it(tmp_path: Path) -> None:
    file, asked = tmp_path / onnx_graph.FILE, workload("int8_static+tensorrt")
    facts = onnx_graph.build(asked, file, Scheme.TENSORRT)
    assert facts["calibration_samples"] == 8
    graph = onnx.load(file).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(constants[node.input[2]].any() for node in pairs)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(isinstance(part, torch.nn.Conv2d) for part in squeezenet().modules())
    for node in convolutions:
        values, weights, bias = node.input
        assert (made_by[values], made_by[weights]) == ("DequantizeLinear", "DequantizeLinear")
        assert constants[bias].dtype == np.float32
    # Nothing stands between a convolution and its ReLU.
    after = collections.Counter(
        user.op_type for node in convolutions for user in graph.node if node.output[0] in user.input
    )
    assert set(after) == {"Relu"}
    batch = images(1)
    assert 0 < workloads.relative_error(answers(asked, file, batch), expected(batch)) < 0.1
