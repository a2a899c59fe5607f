"""ONNX Runtime: the model exported to ONNX and run by one execution provider, through I/O binding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="exported to ONNX, run by ONNX Runtime's CPU or CUDA provider",
    precisions=("fp32",),
    layouts=("nchw", "channels_last"),
    requires=("onnxruntime", "onnx", "onnxscript"),
    reasons={"amp": "autocast is torch's own; an ONNX graph has fixed dtypes"},
)

FILE = "model.onnx"
CPU = "CPUExecutionProvider"
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
    return {"opset": opset, "graph_nodes": len(program.model_proto.graph.node)}


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
        if self.workload.recipe.layout == "channels_last":
            host = np.ascontiguousarray(host.transpose(0, 2, 3, 1))
        return self.runtime.OrtValue.ortvalue_from_numpy(host, self.on, 0)

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
        nodes = self._nodes_by_provider(on_device)
        actual = max(nodes, key=lambda name: nodes[name], default="none seen")
        return {
            "provider_asked": self.provider,
            "provider": self.session.get_providers()[0],
            "dtype_asked": "float32",
            "dtype": _dtype(self.session.get_outputs()[0].type),
            "nodes": nodes,
            "nodes_elsewhere": sum(nodes.values()) - nodes.get(self.provider, 0),
            "nodes_mostly_on": actual,
            "channels_last": self.workload.recipe.layout == "channels_last",
        }

    def _nodes_by_provider(self, on_device: Any) -> dict[str, int]:
        """Runs the graph once more in a session of its own that writes a profile."""
        import collections
        import json
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self.runtime.InferenceSession(str(self.file), options, providers=[self.provider])
            session.run(None, {"images": on_device.numpy()})
            events = json.loads(Path(session.end_profiling()).read_text())
        found = [event["args"]["provider"] for event in events if event.get("args", {}).get("provider")]
        return dict(collections.Counter(found))


def _dtype(onnx_type: str) -> str:
    """`tensor(float)` as torch names it."""
    inner = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
