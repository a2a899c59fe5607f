"""OpenVINO: the model exported through ONNX, quantized by NNCF where 8 bits are asked for, run on the CPU."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from farm import onnx_graph, profiling
from farm.measurement import Profile
from farm.precision import PRECISIONS
from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="converted to OpenVINO's own graph, run by its CPU plug-in",
    devices=("cpu",),
    precisions=("fp32", "bf16", "int8_static"),
    layouts=("nchw",),
    allocators=("pinned_malloc", "system_malloc"),
    requires=("openvino", "onnx", "onnxscript"),
    requires_for={"int8_static": ("nncf",)},
    reasons={
        "amp": "autocast is torch's own; bf16 is OpenVINO's way",
        "tf32": "its CPU plug-in has none",
        "fp16": "its CPU plug-in computes it in fp32 on most processors",
        "int8_dynamic": "its CPU plug-in quantizes activations of fully connected layers only",
        "channels_last": "it lays out activations itself",
        "jemalloc": "its plug-in frees with glibc what jemalloc allocated, and aborts",
    },
)

FILE = "model.xml"

#: What the plug-in is told to compute in what is not quantized.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8_static": "f32"}

#: OpenVINO's names of dtypes, as the farm has them.
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "u8": "int8", "i8": "int8"}


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Converts the model and, for 8 bits, lets NNCF quantize it on training images."""
    import tempfile

    import openvino

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / onnx_graph.FILE
        onnx_graph.export(workload, file)
        model = openvino.convert_model(file)
    facts: dict[str, Any] = {}
    if workload.recipe.precision == "int8_static":
        model, facts = _quantized(workload, model)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return facts


def _quantized(workload: Workload, model: Any) -> tuple[Any, dict[str, Any]]:
    import nncf

    images, size = workload.calibration(), workload.shape[0]
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    return quantized, {"calibration_samples": len(images)}


def load(workload: Workload, folder: Path | None) -> Session:
    """The model, compiled by the CPU plug-in for this many threads."""
    assert folder is not None
    return OpenVinoSession(workload, folder / FILE)


class OpenVinoSession:
    """One infer request whose input and output stay where they are."""

    def __init__(self, workload: Workload, file: Path) -> None:
        import openvino

        self.workload = workload
        self.file = file
        self.runtime = openvino
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": workload.threads,
            "INFERENCE_PRECISION_HINT": HINTS[workload.recipe.precision],
            # The child is pinned by its supervisor already.
            "ENABLE_CPU_PINNING": False,
        }
        self.model = openvino.Core().compile_model(file, "CPU", self.settings)
        self.request = self.model.create_infer_request()

    def to_device(self, host: np.ndarray) -> Any:
        """A tensor over the array, without a copy."""
        return self.runtime.Tensor(np.ascontiguousarray(host), shared_memory=True)

    def run(self, on_device: Any) -> Any:
        """One call; the output is the request's own tensor, overwritten by the next call."""
        self.request.set_input_tensor(on_device)
        self.request.infer()
        return self.request.get_output_tensor(0)

    def to_host(self, output: Any) -> np.ndarray:
        """A copy of the logits."""
        logits: np.ndarray = np.array(output.data, dtype=np.float32)
        return logits

    def evidence(self, on_device: Any) -> Mapping[str, Any]:
        """The dtypes in which the compiled graph's convolutions run, as the plug-in tells."""
        found = collections.Counter(
            DTYPES.get(dtype, dtype)
            for kind, dtype in self._layers()
            if kind in ("Convolution", "GroupConvolution")
        )
        int8, total = found["int8"], sum(found.values())
        return {
            "provider_asked": "CPU",
            "provider": self.model.get_property("EXECUTION_DEVICES")[0],
            "dtype_asked": PRECISIONS[self.workload.recipe.precision].dtypes["cpu"],
            "dtype": found.most_common(1)[0][0] if found else "none seen",
            "convolutions": dict(found),
            "weight_dtypes": self._weight_dtypes(),
            **({"int8_convolutions": int8, "exact_convolutions": total - int8} if int8 else {}),
        }

    def profile(self, on_device: Any, calls: int) -> Profile:
        """The layers of some calls, in a model compiled anew to count. The first call of it is left out."""
        counting = {**self.settings, "PERF_COUNT": True}
        request = self.runtime.Core().compile_model(self.file, "CPU", counting).create_infer_request()
        request.set_input_tensor(on_device)
        request.infer()
        first = list(request.get_profiling_info())
        for _ in range(calls):
            request.infer()
        spans = [
            span for info in zip(first, request.get_profiling_info(), strict=True) if (span := _span(*info, calls))
        ]
        return Profile(
            source="openvino",
            calls=calls,
            operators=profiling.operators(spans * calls, calls),
            trace=profiling.sequence(spans, f"mean time of each layer over {calls} calls, one after the other"),
        )

    def _weight_dtypes(self) -> dict[str, int]:
        """How many values the file has in each dtype, weights and other constants."""
        counts: collections.Counter[str] = collections.Counter()
        for constant in self.runtime.Core().read_model(self.file).get_ops():
            if constant.get_type_name() == "Constant":
                dtype = constant.get_element_type().get_type_name()
                counts[DTYPES.get(dtype, dtype)] += int(np.prod(constant.get_output_shape(0)))
        return dict(counts.most_common())

    def _layers(self) -> list[tuple[str, str]]:
        """(kind, dtype) of every layer of the compiled graph."""
        layers = []
        for layer in self.model.get_runtime_model().get_ops():
            info = layer.get_rt_info()
            if "layerType" in info and "runtimePrecision" in info:
                layers.append((info["layerType"].astype(str), info["runtimePrecision"].astype(str)))
        return layers


def _span(first: Any, all_calls: Any, calls: int) -> profiling.Span | None:
    """A layer's mean time over the calls after the first one; None where it was not executed.

    Args:
        first: what was counted in the first call.
        all_calls: the same layer after all of them: the plug-in gives the mean, in whole microseconds.
        calls: how many came after the first.
    """
    if all_calls.status.name != "EXECUTED":
        return None
    total_s = all_calls.real_time.total_seconds() * (1 + calls) - first.real_time.total_seconds()
    return profiling.Span(
        name=all_calls.node_name,
        operator=all_calls.node_type,
        provider=all_calls.exec_type,
        seconds=max(0.0, total_s / calls),
    )
