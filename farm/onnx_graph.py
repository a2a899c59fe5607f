"""The ONNX graph of a workload, in one file: exported once, quantized where 8 bits are asked for.

Every runtime that starts from ONNX takes it from here, so that all of them run the same graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farm.precision import PRECISIONS
from farm.runtimes import Workload

if TYPE_CHECKING:
    import torch

FILE = "model.onnx"
INPUT, OUTPUT = "images", "logits"


class Scheme(Enum):
    """How a static quantization places its 8 bits."""

    #: For processors: unsigned activations with a zero point, everything that can be is quantized.
    CPU = "cpu"
    #: For TensorRT: signed, every zero point 0, biases stay floats, and only the inputs of what multiplies.
    TENSORRT = "tensorrt"


#: What TensorRT's scheme quantizes; the rest keeps its dtype, so that it fuses as it would without.
_MULTIPLYING = ["Conv", "Gemm", "MatMul"]


def build(workload: Workload, file: Path, scheme: Scheme = Scheme.CPU) -> Mapping[str, Any]:
    """Writes the graph that the recipe's layout and precision ask for; returns facts worth storing."""
    facts = export(workload, file)
    if PRECISIONS[workload.recipe.precision].is_int8:
        return {**facts, **_quantize(workload, file, scheme)}
    return facts


def export(workload: Workload, file: Path) -> Mapping[str, Any]:
    """Exports the model into one file, unquantized.

    With `channels_last` its input is NHWC; with `fp16` weights, input and output are float16.
    """
    import torch

    model, example = workload.model(), torch.zeros(input_shape(workload))
    if workload.recipe.layout == "channels_last":
        model = _channels_last(model)
    if workload.recipe.precision == "fp16":
        model, example = model.half(), example.half()
    program = torch.onnx.export(
        model, (example,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    # In one file, so that its size is the model's.
    program.save(str(file), external_data=False)
    opset = next(o.version for o in program.model_proto.opset_import if not o.domain)
    return {"opset": opset, "graph_nodes": len(program.model_proto.graph.node)}


def input_shape(workload: Workload) -> tuple[int, int, int, int]:
    """Shape of the graph's input: NHWC with `channels_last`, else NCHW."""
    batch, channels, height, width = workload.shape
    if workload.recipe.layout == "channels_last":
        return batch, height, width, channels
    return workload.shape


def as_input(workload: Workload, images: np.ndarray) -> np.ndarray:
    """Float32 NCHW images as the graph wants them: its layout, its dtype."""
    if workload.recipe.layout == "channels_last":
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images.astype(np.float16) if workload.recipe.precision == "fp16" else images


def weight_dtypes(file: Path) -> dict[str, int]:
    """How many values a graph's file has in each dtype, weights and other constants."""
    import onnx

    counts: Counter[str] = Counter()
    for tensor in onnx.load(file).graph.initializer:
        counts[str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))] += int(np.prod(tensor.dims))
    return dict(counts.most_common())


def _channels_last(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    class ChannelsLast(torch.nn.Module):
        """The model with an NHWC input."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Logits of a batch of NHWC images."""
            return self.model(images.permute(0, 3, 1, 2))

    return ChannelsLast().eval()


def _quantize(workload: Workload, file: Path, scheme: Scheme) -> Mapping[str, Any]:
    """Replaces the graph by its 8-bit form, made by ONNX Runtime's own quantizer."""
    import tempfile

    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name:
        exact, ready = Path(name) / "exact.onnx", Path(name) / "ready.onnx"
        model = onnx.load(file)
        # The exporter's shapes contradict those that the quantizer infers.
        del model.graph.value_info[:]
        onnx.save(model, exact)
        quant_pre_process(str(exact), str(ready), skip_symbolic_shape=True)
        if workload.recipe.precision == "int8_dynamic":
            quantization.quantize_dynamic(ready, file, per_channel=True, weight_type=quantization.QuantType.QInt8)
            return {}
        images = as_input(workload, workload.calibration())
        quantization.quantize_static(
            str(ready),
            str(file),
            _Batches(images, workload.shape[0]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            **_static_options(scheme),
        )
        return {"calibration_samples": len(images)}


def _static_options(scheme: Scheme) -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    if scheme is Scheme.CPU:
        return {"activation_type": QuantType.QUInt8}
    return {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": _MULTIPLYING,
        "extra_options": {
            # TensorRT refuses any other zero point than 0, and biases in 32-bit integers.
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            # Else a pair would stand between a convolution and its ReLU, and keep them apart.
            "OpTypesToExcludeOutputQuantization": _MULTIPLYING,
        },
    }


class _Batches:
    """Calibration images as ONNX Runtime's quantizer asks for them."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        starts = range(0, len(images), batch_size)
        self._batches = iter([images[start : start + batch_size] for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
