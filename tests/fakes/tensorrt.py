"""A stand-in for the library TensorRT: what the farm calls of it, as NVIDIA documents it for 10 and 11.

Its "engines" run the ONNX graph on the CPU, from and to the addresses they are given. It refuses the graphs
that TensorRT documents to refuse, and tells of layers what TensorRT's inspector tells.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

__version__ = "10.16.1"

#: What the tests want to happen: an error of the builder.
build_error: str | None = None
#: Every handle that an engine was started on.
streams: list[int] = []


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 7


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError  # pure virtual in the library, too: what is tested must override it


class IProfiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError  # pure virtual, as in the logger


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)


class Network:
    def __init__(self, flags: int) -> None:
        self.is_strongly_typed = bool(flags & 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.graph = b""


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytearray | None:
        self.logger.log(ILogger.Severity.WARNING, "a warning that is none of the reasons")
        if build_error is not None:
            self.logger.log(ILogger.Severity.ERROR, build_error)
            return None
        head = {
            "strongly_typed": network.is_strongly_typed,
            "tf32": BuilderFlag.TF32 in config.flags,
            "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
        }
        return bytearray(b"engine" + json.dumps(head).encode() + b"\n" + network.graph)


class ParserError:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network = network
        self.errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]

    def parse(self, model: bytes) -> bool:
        self.network.graph = model
        self.errors = [ParserError(text) for text in _refused(onnx.load_from_string(model))]
        return not self.errors


def _refused(model: Any) -> Iterator[str]:
    """TensorRT's limits of explicit quantization."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            if zero.any():
                yield f"{node.name}: Assertion failed: shiftIsAllZeros(zeroPoint)"
            if zero.dtype not in (np.int8, np.float16):
                yield f"{node.name}: only activation types allowed as input to this layer."


class Context:
    def __init__(self, graph: bytes) -> None:
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.layers = [node.name for node in onnx.load_from_string(graph).graph.node]
        self.addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        streams.append(stream_handle)
        (given,), (wanted,) = self.session.get_inputs(), self.session.get_outputs()
        dtype = np.dtype(np.float16 if "float16" in given.type else np.float32)
        size = int(np.prod(given.shape)) * dtype.itemsize
        memory = ctypes.string_at(self.addresses[given.name], size)
        images = np.frombuffer(memory, dtype).reshape(given.shape)
        (logits,) = self.session.run(None, {given.name: images})
        ctypes.memmove(self.addresses[wanted.name], np.ascontiguousarray(logits).ctypes.data, logits.nbytes)
        if self.profiler is not None:
            for number, layer in enumerate(self.layers, start=1):
                self.profiler.report_layer_time(layer, number / 4)
        return True


class Engine:
    def __init__(self, head: dict[str, bool], graph: bytes) -> None:
        self.head = head
        self.graph = graph
        self.model = onnx.load_from_string(graph)

    def create_execution_context(self) -> Context:
        return Context(self.graph)

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self)

    def _tensor(self, name: str) -> Any:
        both = [*self.model.graph.input, *self.model.graph.output]
        return next(value.type.tensor_type for value in both if value.name == name)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size.dim_value for size in self._tensor(name).shape.dim)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.HALF if self._tensor(name).elem_type == TensorProto.FLOAT16 else DataType.FLOAT


class Inspector:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get_engine_information(self, layer_format: LayerInformationFormat) -> str:
        assert layer_format is LayerInformationFormat.JSON
        graph = self.engine.model.graph
        made_by = {name: node.op_type for node in graph.node for name in node.output}
        half = self.engine.get_tensor_dtype(graph.input[0].name) is DataType.HALF
        layers: list[Any] = []
        for node in graph.node:
            if not self.engine.head["detailed"]:
                layers.append(node.name)
            elif node.op_type == "Conv":
                in_int8 = made_by.get(node.input[0]) == "DequantizeLinear" and self.engine.head["strongly_typed"]
                layers.append(self._convolution("Int8" if in_int8 else "FP16" if half else "FP32"))
        return json.dumps({"Layers": layers})

    def _convolution(self, dtype: str) -> dict[str, Any]:
        tf32 = "_tf32" if self.engine.head["tf32"] and dtype == "FP32" else ""
        described = (
            {"DataType": {"FP16": "Half", "FP32": "Float"}.get(dtype, dtype), "Format": "Row major linear"}
            if int(__version__.partition(".")[0]) >= 11
            else {"Format/Datatype": f"Row major linear {dtype} format"}
        )
        return {
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [described],
            "TacticName": f"sm90_xmma_fprop{tf32}_nhwc",
        }


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized: bytes) -> Engine | None:
        head, _, graph = serialized.partition(b"\n")
        if not head.startswith(b"engine"):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion magicTagRead failed.")
            return None
        return Engine(json.loads(head.removeprefix(b"engine")), graph)
