"""ONNX Runtime: the model exported to ONNX and run by one execution provider, through I/O binding."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from farm.precision import PRECISIONS
from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="exported to ONNX, run by ONNX Runtime's CPU or CUDA provider",
    precisions=("fp32", "int8_static", "int8_dynamic"),
    layouts=("nchw", "channels_last"),
    requires=("onnxruntime", "onnx", "onnxscript"),
    reasons={
        "amp": "autocast is torch's own; an ONNX graph has fixed dtypes",
        "tf32": "the CUDA provider's own setting, which the farm leaves off",
        "bf16": "its CPU provider has no bfloat16 convolution",
        "fp16": "its CPU provider has no float16 convolution",
    },
)

FILE = "model.onnx"
CPU = "CPUExecutionProvider"
#: Operators of the optimized graph that convolve in 8 bits, and those that do not.
INT8_CONVOLUTIONS = ("QLinearConv", "ConvInteger")
EXACT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")
PROVIDERS = {"cpu": CPU, "cuda": "CUDAExecutionProvider"}


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Exports the model into one file; with `channels_last` its input is NHWC."""
    import torch

    model = workload.model()
    shape = host_shape(workload)
    if workload.recipe.layout == "channels_last":
        model = _channels_last(model)
    program = torch.onnx.export(
        model, (torch.zeros(shape),), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    program.save(str(folder / FILE), external_data=False)
    opset = next(o.version for o in program.model_proto.opset_import if not o.domain)
    facts = {"opset": opset, "graph_nodes": len(program.model_proto.graph.node)}
    if PRECISIONS[workload.recipe.precision].is_int8:
        facts |= _quantize(workload, folder / FILE)
    return facts


def _quantize(workload: Workload, file: Path) -> Mapping[str, Any]:
    """Replaces the model by its 8-bit form, made by ONNX Runtime's own quantizer."""
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
        images = _as_host(workload, workload.calibration())
        quantization.quantize_static(
            str(ready),
            str(file),
            _Batches(images, workload.shape[0]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return {"calibration_samples": len(images)}


class _Batches:
    """Calibration images as ONNX Runtime's quantizer asks for them."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        starts = range(0, len(images), batch_size)
        self._batches = iter([images[start : start + batch_size] for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _as_host(workload: Workload, images: np.ndarray) -> np.ndarray:
    """NCHW images as the graph wants them."""
    if workload.recipe.layout == "channels_last":
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images


def load(workload: Workload, folder: Path | None) -> Session:
    """A session on the provider of the workload's device.

    ONNX Runtime falls back to the CPU with nothing but a log line where it cannot have the provider;
    the session's evidence says which one it got.
    """
    assert folder is not None
    return OnnxSession(workload, folder / FILE, PROVIDERS[workload.device])


def host_shape(workload: Workload) -> tuple[int, int, int, int]:
    """Shape of the graph's input: NHWC with `channels_last`, else NCHW."""
    batch, channels, height, width = workload.shape
    if workload.recipe.layout == "channels_last":
        return batch, height, width, channels
    return workload.shape


def _channels_last(model: Any) -> Any:
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


class OnnxSession:
    """An ONNX Runtime session with its input and output bound on the device."""

    def __init__(self, workload: Workload, file: Path, provider: str) -> None:
        import onnxruntime

        self.workload = workload
        self.file = file
        self.provider = provider
        self.runtime = onnxruntime
        self.session = onnxruntime.InferenceSession(str(file), self._options(), providers=[provider])
        self.binding = self.session.io_binding()
        self.on = "cpu" if self.session.get_providers()[0] == CPU else "cuda"
        self.binding.bind_output("logits", self.on)

    def _options(self) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.workload.threads
        options.inter_op_num_threads = 1
        # Between calls the threads would spin for 200 ms and take the processors from whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def to_device(self, host: np.ndarray) -> Any:
        """The array on the device, as the graph wants it (NHWC with `channels_last`)."""
        return self.runtime.OrtValue.ortvalue_from_numpy(_as_host(self.workload, host), self.on, 0)

    def run(self, on_device: Any) -> Any:
        """One call through the binding."""
        self.binding.bind_ortvalue_input("images", on_device)
        self.session.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[0]

    def to_host(self, output: Any) -> np.ndarray:
        """The logits."""
        logits: np.ndarray = output.numpy()
        return logits

    def evidence(self, on_device: Any) -> Mapping[str, Any]:
        """The provider that took each node of one profiled call."""
        ran = self._ran(on_device)
        nodes = dict(collections.Counter(provider for provider, _ in ran))
        operators = collections.Counter(operator for _, operator in ran)
        int8 = sum(operators[name] for name in INT8_CONVOLUTIONS)
        exact = sum(operators[name] for name in EXACT_CONVOLUTIONS)
        actual = max(nodes, key=lambda name: nodes[name], default="none seen")
        return {
            "provider_asked": self.provider,
            "provider": self.session.get_providers()[0],
            "dtype_asked": PRECISIONS[self.workload.recipe.precision].dtypes[self.workload.device],
            "dtype": "int8" if int8 else _dtype(self.session.get_outputs()[0].type),
            "convolutions": {"int8": int8, "float32": exact},
            **({"int8_convolutions": int8, "exact_convolutions": exact} if int8 else {}),
            "nodes": nodes,
            "nodes_elsewhere": sum(nodes.values()) - nodes.get(self.provider, 0),
            "nodes_mostly_on": actual,
            "channels_last": self.workload.recipe.layout == "channels_last",
        }

    def _ran(self, on_device: Any) -> list[tuple[str, str]]:
        """(provider, operator) of every node: one more run, in a session that writes a profile."""
        import json
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self.runtime.InferenceSession(str(self.file), options, providers=[self.provider])
            session.run(None, {"images": on_device.numpy()})
            events = json.loads(Path(session.end_profiling()).read_text())
        found = (event["args"] for event in events if event.get("args", {}).get("provider"))
        return [(args["provider"], args.get("op_name", "")) for args in found]


def _dtype(onnx_type: str) -> str:
    """`tensor(float)` as torch names it."""
    inner = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
