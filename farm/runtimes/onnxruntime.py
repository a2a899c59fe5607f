"""ONNX Runtime: the model exported to ONNX and run by one execution provider, through I/O binding.

`onnxruntime(tensorrt)` asks for its TensorRT provider. That one makes an engine, which takes minutes, when a
session is created; the build phase creates one with the engine cache in the artifact, and the measuring
process only loads it. The cache is valid for one model, GPU and set of versions, as the artifact's key is:
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html#tensorrt-ep-caches
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farm import onnx_graph, profiling
from farm.errors import Unsupported
from farm.measurement import Profile
from farm.precision import PRECISIONS
from farm.runtimes import Mode, Session, Support, Workload

SUPPORT = Support(
    summary="exported to ONNX, run by ONNX Runtime's CPU or CUDA provider",
    precisions=("fp32", "tf32", "fp16", "int8_static", "int8_dynamic"),
    layouts=("nchw", "channels_last"),
    modes={
        "tensorrt": Mode(
            summary="its TensorRT provider, the engine kept (pip install -r requirements-tensorrt.txt)",
            devices=("cuda",),
            requires=("tensorrt",),
        )
    },
    only_on={
        # Its CPU provider casts float16 convolutions to float32, its GPU providers have no ConvInteger.
        "fp16": ("cuda",),
        "int8_dynamic": ("cpu",),
    },
    requires=("onnxruntime", "onnx", "onnxscript"),
    reasons={
        "amp": "autocast is torch's own; an ONNX graph has fixed dtypes",
        "bf16": "its CPU provider has no bfloat16 convolution",
    },
)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
#: Operators of the optimized graph that convolve in 8 bits, and those that do not.
INT8_CONVOLUTIONS = ("QLinearConv", "ConvInteger")
EXACT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")
#: The provider of a mode or, without one, of a device.
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

#: Read by NVIDIA's libraries: 0 forbids TF32 to all of them.
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"

#: How names of TensorRT's kernels tell that they multiply in 8 bits. They are not documented.
_INT8_KERNEL = re.compile(r"i8i|i8f|i8816|i16832|_s8|int8|imma", re.IGNORECASE)


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Exports the model and quantizes it; for TensorRT, makes the engine too.

    Raises:
        Unsupported: 8 bits on the CUDA provider, which has no such convolution.
    """
    by_tensorrt = workload.recipe.mode == "tensorrt"
    if workload.device == "cuda" and PRECISIONS[workload.recipe.precision].is_int8 and not by_tensorrt:
        asked = workload.recipe.precision
        raise Unsupported(
            f"ONNX Runtime's CUDA provider has no 8-bit convolution, it would run {asked} in float32: "
            f"take {asked}+onnxruntime(tensorrt) or {asked}+tensorrt"
        )
    scheme = onnx_graph.Scheme.TENSORRT if by_tensorrt else onnx_graph.Scheme.CPU
    facts = onnx_graph.build(workload, folder / onnx_graph.FILE, scheme)
    if by_tensorrt:
        session = OnnxSession(workload, folder)
        session.run(session.to_device(np.zeros(workload.shape, np.float32)))
        facts = {**facts, "engines": len(_engines(folder))}
    return facts


def load(workload: Workload, folder: Path | None) -> Session:
    """A session on the provider of the recipe's mode or of the workload's device.

    ONNX Runtime falls back to another provider with nothing but a log line where it cannot have this one;
    the session's evidence says which one it got.
    """
    assert folder is not None
    return OnnxSession(workload, folder)


def providers(workload: Workload, folder: Path) -> list[tuple[str, dict[str, str]]]:
    """The provider that is asked for, with its options, and the one for nodes that TensorRT cannot take."""
    asked = PROVIDERS[workload.recipe.mode or workload.device]
    # The CUDA provider's own default is 1: fp32 would be TF32.
    cuda = (CUDA, {"use_tf32": "1" if workload.recipe.precision == "tf32" else "0"})
    if asked == TENSORRT:
        # Neither trt_fp16_enable nor trt_int8_enable: without them the network is strongly typed.
        return [(TENSORRT, {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}), cuda]
    return [cuda] if asked == CUDA else [(asked, {})]


def _prepare_tensorrt(workload: Workload) -> None:
    """Loads TensorRT where the provider finds it, with TF32 as the recipe asks.

    The provider has no option for TF32, which TensorRT takes by default; this variable is the only way
    (https://github.com/microsoft/onnxruntime/issues/26029) and is read once, so before TensorRT is loaded.
    """
    if workload.recipe.mode != "tensorrt":
        return
    if workload.recipe.precision == "tf32":
        os.unsetenv(TF32_OVERRIDE)
    else:
        os.putenv(TF32_OVERRIDE, "0")
    from farm.runtimes import tensorrt

    # Its libraries lie in the package, where no linker looks.
    tensorrt.library()


def _engines(folder: Path) -> dict[str, int]:
    """The cached engines, with the time each was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.engine")}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the optimized graph that ran."""

    provider: str
    operator: str
    #: Of its first input; empty where it has none.
    dtype: str


class OnnxSession:
    """An ONNX Runtime session with its input and output bound on the device."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        _prepare_tensorrt(workload)
        # On a GPU torch is loaded by now, and with it the CUDA libraries that the providers need.
        import onnxruntime

        self.workload = workload
        self.file = folder / onnx_graph.FILE
        self.providers = providers(workload, folder)
        self.runtime = onnxruntime
        before = _engines(folder)
        self.session = self._session(self._options())
        self.engine_was_cached = bool(before) and before == _engines(folder)
        self.binding = self.session.io_binding()
        self.on = "cpu" if self.session.get_providers()[0] == CPU else "cuda"
        self.binding.bind_output(onnx_graph.OUTPUT, self.on)

    def _session(self, options: Any) -> Any:
        # Its own fallback would take a GPU whose memory ran out for a wish to run on the CPU.
        return self.runtime.InferenceSession(str(self.file), options, providers=self.providers, enable_fallback=0)

    def _options(self) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.workload.threads
        options.inter_op_num_threads = 1
        # Between calls the threads would spin for 200 ms and take the processors from whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def to_device(self, host: np.ndarray) -> Any:
        """The array on the device, as the graph wants it: NHWC with `channels_last`, float16 with `fp16`."""
        return self.runtime.OrtValue.ortvalue_from_numpy(onnx_graph.as_input(self.workload, host), self.on, 0)

    def run(self, on_device: Any) -> Any:
        """One call through the binding."""
        self.binding.bind_ortvalue_input(onnx_graph.INPUT, on_device)
        self.session.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[0]

    def to_host(self, output: Any) -> np.ndarray:
        """The logits as float32."""
        logits: np.ndarray = output.numpy()
        return logits.astype(np.float32, copy=False)

    def evidence(self, on_device: Any) -> Mapping[str, Any]:
        """The provider that took each node of one profiled call, and the dtypes of its convolutions."""
        ran, asked = self._ran(on_device), self.providers[0][0]
        nodes = dict(collections.Counter(node.provider for node in ran))
        on_asked, total = nodes.get(asked, 0), sum(nodes.values())
        return {
            "provider_asked": asked,
            "provider": self.session.get_providers()[0],
            "dtype_asked": PRECISIONS[self.workload.recipe.precision].dtypes[self.workload.device],
            **self._dtypes(ran),
            "weight_dtypes": onnx_graph.weight_dtypes(self.file),
            **(self._by_tensorrt(on_device) if asked == TENSORRT else {}),
            "nodes": nodes,
            "nodes_elsewhere": total - on_asked,
            "node_share": on_asked / total if total else 0.0,
            "nodes_mostly_on": max(nodes, key=lambda name: nodes[name], default="none seen"),
            "channels_last": self.workload.recipe.layout == "channels_last",
        }

    def _dtypes(self, ran: list[Node]) -> dict[str, Any]:
        """How many convolutions ran in each dtype; without any, the dtype of the output."""
        operators = collections.Counter(node.operator for node in ran)
        int8 = sum(operators[name] for name in INT8_CONVOLUTIONS)
        floats = collections.Counter(node.dtype for node in ran if node.operator in EXACT_CONVOLUTIONS)
        output = _dtype(self.session.get_outputs()[0].type)
        exact = max(floats, key=lambda dtype: floats[dtype], default=output)
        return {
            "dtype": "int8" if int8 else exact,
            "convolutions": {"int8": int8, "float32": 0, **floats},
            **({"int8_convolutions": int8, "exact_convolutions": floats.total()} if int8 else {}),
        }

    def _by_tensorrt(self, on_device: Any) -> dict[str, Any]:
        """What can be told of an engine whose layers ONNX Runtime does not show."""
        known: dict[str, Any] = {"engine_was_cached": self.engine_was_cached}
        if not PRECISIONS[self.workload.recipe.precision].is_int8:
            return known
        from farm import torch_session

        kernels = torch_session.kernels(lambda: self.run(on_device))
        int8 = [name for name in kernels if _INT8_KERNEL.search(name)]
        dtype = "int8" if int8 else "no 8-bit kernel seen"
        return {**known, "dtype": dtype, "kernels": len(kernels), "int8_kernels": len(int8)}

    def profile(self, on_device: Any, calls: int) -> Profile:
        """The nodes of some calls, in a session that writes a profile. The first call of it is left out.

        Times are the host's: on a GPU a node ends when its kernels are queued.
        """
        events = self._profiled(on_device, 1 + calls)
        begins = sorted(event["ts"] for event in events if event["name"] == "model_run")[-calls]
        spans = [_span(event) for event in events if event["ts"] >= begins and _is_node(event)]
        return Profile(
            source="onnxruntime",
            calls=calls,
            operators=profiling.operators(spans, calls),
            trace=profiling.trace(events),
            missing={"device_self_s": "its profiler does not tell the GPU's time"} if self.on == "cuda" else {},
        )

    def _ran(self, on_device: Any) -> list[Node]:
        """Every node of one more call."""
        return [_node(event["args"]) for event in self._profiled(on_device, 1) if _is_node(event)]

    def _profiled(self, on_device: Any, calls: int) -> list[dict[str, Any]]:
        """The events of some calls in a session that writes a profile, in Chrome's format."""
        import json
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._session(options)
            for _ in range(calls):
                session.run(None, {onnx_graph.INPUT: on_device.numpy()})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return events


def _is_node(event: Mapping[str, Any]) -> bool:
    return bool(event.get("args", {}).get("provider"))


def _span(event: Mapping[str, Any]) -> profiling.Span:
    args = event["args"]
    return profiling.Span(
        name=event["name"],
        operator=args.get("op_name", ""),
        provider=args["provider"],
        seconds=event["dur"] / 1e6,
    )


def _node(args: Mapping[str, Any]) -> Node:
    """A profile's event: its inputs are listed as `{"float": [4, 3, 64, 64]}`."""
    dtypes = [dtype for shape in args.get("input_type_shape", ()) for dtype in shape]
    return Node(
        provider=args["provider"], operator=args.get("op_name", ""), dtype=_dtype(dtypes[0] if dtypes else "")
    )


def _dtype(onnx_type: str) -> str:
    """`tensor(float)` or `float` as torch names it."""
    inner = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
