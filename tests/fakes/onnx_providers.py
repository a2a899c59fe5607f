"""A stand-in for ONNX Runtime's sessions on a GPU: its providers, its engine cache and its profiles.

The answers come from the real library's CPU provider; which provider a session has, and which took which
node, is what a test says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

_Session = onnxruntime.InferenceSession


class Value:
    """An array on a device."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.array = array
        self.device = device

    def numpy(self) -> np.ndarray:
        return self.array


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.output_device = ""
        self.outputs: list[Value] = []

    def bind_output(self, name: str, device_type: str) -> None:
        self.output_device = device_type

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def get_outputs(self) -> list[Value]:
        return self.outputs


class Gpu:
    """The patched library, and what was seen of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: What can be loaded here.
        self.available = [TENSORRT, CUDA, CPU]
        #: What the driver says when a session is created; None where it has nothing against it.
        self.refusal: str | None = None
        #: (provider, operator, dtype) of each node in a profile.
        self.nodes: list[tuple[str, str, str]] = []
        #: The providers that each session was asked for.
        self.asked: list[Sequence[tuple[str, dict[str, str]]]] = []
        self.bindings: list[Binding] = []
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.session)
        monkeypatch.setattr(
            onnxruntime, "OrtValue", SimpleNamespace(ortvalue_from_numpy=lambda array, on, _: Value(array, on))
        )

    def session(self, path: Any, sess_options: Any = None, providers: Any = (), **more: Any) -> Any:
        if isinstance(providers[0], str):  # the quantizer's own, on the CPU
            return _Session(path, sess_options, providers, **more)
        self.asked.append(providers)
        found = [name for name, _ in providers if name in self.available]
        if self.refusal is not None:
            if not more.get("enable_fallback", 1):
                raise RuntimeError(self.refusal)
            found = []  # the library prints a line, and takes the CPU
        if found[:1] == [TENSORRT]:
            self._cache(dict(providers)[TENSORRT])
        exact = _Session(path, providers=[CPU])

        def bound() -> Binding:
            self.bindings.append(Binding())
            return self.bindings[-1]

        def run_bound(binding: Binding) -> None:
            (logits,) = exact.run(None, {name: value.array for name, value in binding.inputs.items()})
            binding.outputs = [Value(logits, binding.output_device)]

        def profiled() -> str:
            file = Path(f"{sess_options.profile_file_prefix}.json")
            file.write_text(json.dumps([_event(*node) for node in self.nodes]))
            return str(file)

        return SimpleNamespace(
            get_providers=lambda: [*found, CPU],
            get_outputs=exact.get_outputs,
            io_binding=bound,
            run_with_iobinding=run_bound,
            run=exact.run,
            end_profiling=profiled,
        )

    def _cache(self, options: dict[str, str]) -> None:
        file = Path(options["trt_engine_cache_path"]) / "TensorrtExecutionProvider_TRTKernel_0_sm90.engine"
        if options["trt_engine_cache_enable"] == "1" and not file.exists():
            file.write_bytes(b"an engine")


def _event(provider: str, operator: str, dtype: str) -> dict[str, Any]:
    args = {"provider": provider, "op_name": operator, "input_type_shape": [{dtype: [2, 3, 16, 16]}]}
    return {"cat": "Node", "name": f"{operator}_kernel_time", "args": args}
