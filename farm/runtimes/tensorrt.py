"""TensorRT: an engine built from the ONNX graph, run by its own runtime on torch's tensors.

The network is strongly typed: float16 and 8 bits stand in the graph (as float16 weights, as QDQ pairs), no
builder flag asks for them. That is the only way of TensorRT 11, and works in 10 too. Sources of the method:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api-patterns.html
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm import onnx_graph, profiling
from farm.errors import FarmError, OutOfMemory, Unsupported
from farm.measurement import Profile
from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="an engine that TensorRT builds for this very GPU (pip install -r requirements-tensorrt.txt)",
    devices=("cuda",),
    precisions=("fp32", "tf32", "fp16", "int8_static"),
    layouts=("nchw",),
    requires=("torch", "tensorrt", "onnx", "onnxscript"),
    requires_for={"int8_static": ("onnxruntime",)},
    reasons={
        "amp": "autocast is torch's own; an ONNX graph has fixed dtypes",
        "bf16": "the farm exports no bfloat16 graph",
        "int8_dynamic": "it has no convolution with activations quantized anew in every call",
        "channels_last": "it lays out activations itself",
    },
)

FILE = "model.engine"

#: Names of dtypes in an engine's description, in the order in which they are looked for: "Half" and "FP16"
#: stand both for float16, in sentences such as "Row major linear FP32".
DTYPES = {
    "int8": re.compile(r"int8", re.IGNORECASE),
    "float8": re.compile(r"fp8", re.IGNORECASE),
    "bfloat16": re.compile(r"bf16|bfloat16", re.IGNORECASE),
    "float16": re.compile(r"fp16|half", re.IGNORECASE),
    "float32": re.compile(r"fp32|float", re.IGNORECASE),
}

_NO_MEMORY = re.compile(r"out ?of ?memory|insufficient memory", re.IGNORECASE)


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Exports the graph and lets TensorRT build its engine.

    Raises:
        FarmError: TensorRT cannot parse the graph or build an engine of it; the message is TensorRT's.
        OutOfMemory: the GPU's memory did not suffice to build it.
    """
    import tempfile

    package = library()
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / onnx_graph.FILE
        facts = onnx_graph.build(workload, graph, onnx_graph.Scheme.TENSORRT)
        engine = _Builder(package).engine(graph, allow_tf32=workload.recipe.precision == "tf32")
    (folder / FILE).write_bytes(engine)
    return {**facts, "tensorrt": package.__version__}


def load(workload: Workload, folder: Path | None) -> Session:
    """The engine from its file, with a context to run it in.

    Raises:
        FarmError: TensorRT does not take the file.
    """
    import torch

    from farm import torch_session

    assert folder is not None
    # On the default stream TensorRT would wait for the device in every call.
    torch.cuda.set_stream(torch.cuda.Stream())
    engine = _Engine(library(), (folder / FILE).read_bytes(), workload)

    class EngineSession(torch_session.TorchSession):
        """An engine."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """The dtypes in which the engine's convolutions run, as its inspector tells."""
            asked = torch_session.asked_dtype(workload)
            exact = workload.recipe.precision != "tf32"
            return {"dtype_asked": asked, **observed(engine.layers(), without_tf32=exact)}

        def profile(self, on_device: torch.Tensor, calls: int) -> Profile:
            """The layers of some calls, as TensorRT's own profiler times them on the GPU."""
            spans = engine.profiled(on_device, calls)
            return Profile(
                source="tensorrt",
                calls=calls,
                operators=profiling.operators(spans, calls, on_device=True),
                trace=profiling.sequence(spans, f"time of each layer in {calls} calls, one after the other"),
            )

    return EngineSession(workload, engine.run)


def library() -> Any:
    """The package.

    Raises:
        Unsupported: it is not installed, or its libraries cannot be loaded.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise Unsupported(
            f"TensorRT cannot be loaded ({error}): pip install -r requirements-tensorrt.txt"
        ) from None
    return tensorrt


def _logger(package: Any) -> Any:
    """A logger of TensorRT's that keeps its errors: calls that fail say no more than None."""

    class Errors(package.ILogger):
        """Keeps errors, drops the rest."""

        def __init__(self) -> None:
            # Not super(): TensorRT's classes are made by pybind11, which asks for this.
            package.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT."""
            kinds = package.ILogger.Severity
            if severity in (kinds.ERROR, kinds.INTERNAL_ERROR):
                self.lines.append(msg)

    return Errors()


def _profiler(package: Any) -> Any:
    """A profiler of TensorRT's that keeps what it is told, in order."""

    class Layers(package.IProfiler):
        """Keeps the name and the seconds of each layer that ran."""

        def __init__(self) -> None:
            package.IProfiler.__init__(self)  # as in `_logger`
            self.spans: list[profiling.Span] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT."""
            self.spans.append(profiling.Span(name=layer_name, operator=layer_name, seconds=ms / 1e3))

    return Layers()


class _Builder:
    """TensorRT's builder."""

    def __init__(self, package: Any) -> None:
        self.package = package
        self.logger = _logger(package)
        self.builder = package.Builder(self.logger)

    def engine(self, graph: Path, *, allow_tf32: bool) -> bytes:
        """The serialized engine of an ONNX file."""
        network = self._network(graph)
        config = self.builder.create_builder_config()
        config.profiling_verbosity = self.package.ProfilingVerbosity.DETAILED  # for the evidence
        # On by default, so it is said either way.
        flag = self.package.BuilderFlag.TF32
        (config.set_flag if allow_tf32 else config.clear_flag)(flag)
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            raise _failed("TensorRT could not build an engine of the graph", self.logger.lines)
        return bytes(engine)

    def _network(self, graph: Path) -> Any:
        typed = 1 << int(self.package.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self.builder.create_network(typed)
        # The parser owns the weights that the network refers to: it must outlive the build.
        self.parser = self.package.OnnxParser(network, self.logger)
        if not self.parser.parse(graph.read_bytes()):
            errors = [self.parser.get_error(i).desc() for i in range(self.parser.num_errors)]
            raise _failed("TensorRT cannot parse the ONNX graph", errors or self.logger.lines)
        return network


def _failed(what: str, lines: list[str]) -> FarmError:
    text = f"{what}: {'; '.join(line.strip() for line in lines) or 'it gave no reason'}"
    return OutOfMemory(text) if _NO_MEMORY.search(text) else FarmError(text)


class _Engine:
    """An engine in a context of its own, with its output in one buffer that each call overwrites."""

    def __init__(self, package: Any, serialized: bytes, workload: Workload) -> None:
        import torch

        self.package = package
        self.logger = _logger(package)
        self.runtime = package.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise _failed("TensorRT does not take the engine's file", self.logger.lines)
        dtypes = {package.DataType.FLOAT: torch.float32, package.DataType.HALF: torch.float16}
        self.output = torch.empty(
            tuple(self.engine.get_tensor_shape(onnx_graph.OUTPUT)),
            dtype=dtypes[self.engine.get_tensor_dtype(onnx_graph.OUTPUT)],
            device=workload.device,
        )
        self.context = self._context()

    def _context(self) -> Any:
        context = self.engine.create_execution_context()
        if context is None:
            raise _failed("TensorRT could not make an execution context", self.logger.lines)
        context.set_tensor_address(onnx_graph.OUTPUT, self.output.data_ptr())
        return context

    def run(self, images: Any) -> Any:
        """Queues one call on the current stream."""
        self._enqueue(self.context, images)
        return self.output

    def _enqueue(self, context: Any, images: Any) -> None:
        import torch

        context.set_tensor_address(onnx_graph.INPUT, images.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise _failed("TensorRT could not run the engine", self.logger.lines)

    def profiled(self, images: Any, calls: int) -> list[profiling.Span]:
        """The layers of so many calls after a first one, in a context of its own: a profiler slows one down."""
        import torch

        context, profiler = self._context(), _profiler(self.package)
        self._enqueue(context, images)
        # its layers are told at the end of each call, which then waits for the device
        context.profiler = profiler
        for _ in range(calls):
            self._enqueue(context, images)
        torch.cuda.synchronize()
        return list(profiler.spans)

    def layers(self) -> list[Mapping[str, Any]]:
        """Every layer of the engine, as TensorRT describes it."""
        import json

        inspector = self.engine.create_engine_inspector()
        text = inspector.get_engine_information(self.package.LayerInformationFormat.JSON)
        # Mere names where the engine was built without details.
        return [layer for layer in json.loads(text)["Layers"] if isinstance(layer, dict)]


def observed(layers: list[Mapping[str, Any]], *, without_tf32: bool) -> Mapping[str, Any]:
    """What an engine's layers say of the arithmetic: the dtypes of its convolutions, and TF32.

    Args:
        layers: as the inspector of TensorRT 10 or 11 lists them.
        without_tf32: whether a kernel for TF32 is another dtype than was asked for.
    """
    found = collections.Counter(_dtype_of(layer) for layer in layers if _is_convolution(layer))
    int8, total = found["int8"], found.total()
    dtype = found.most_common(1)[0][0] if found else "none seen"
    tf32 = sum("tf32" in str(layer.get("TacticName", "")).lower() for layer in layers)
    return {
        "dtype": "tf32" if tf32 and without_tf32 and dtype == "float32" else dtype,
        "convolutions": dict(found),
        **({"int8_convolutions": int8, "exact_convolutions": total - int8} if int8 else {}),
        "layers": len(layers),
        "layer_dtypes": dict(collections.Counter(map(_dtype_of, layers))),
        "tf32_kernels": tf32,
    }


def _is_convolution(layer: Mapping[str, Any]) -> bool:
    kinds = f"{layer.get('ParameterType', '')} {layer.get('LayerType', '')}".lower()
    return "conv" in kinds and "deconv" not in kinds


def _dtype_of(layer: Mapping[str, Any]) -> str:
    """The dtype of a layer's first input: `DataType` in TensorRT 11, in 10 a part of `Format/Datatype`."""
    inputs: list[Mapping[str, Any]] = layer.get("Inputs") or [{}]
    text = " ".join(str(value) for key, value in inputs[0].items() if "type" in key.lower())
    return next((dtype for dtype, pattern in DTYPES.items() if pattern.search(text)), "unknown")
