"""TorchScript: the model traced, frozen and saved, then run by torch's C++ interpreter.

Deprecated upstream; kept because much of what is deployed today runs this way.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="traced, frozen graph run by torch's C++ interpreter (deprecated upstream)",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    reasons=dict.fromkeys(("int8_static", "int8_dynamic"), "torch quantizes an exported graph only"),
)

FILE = "model.pt"


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Traces and freezes the model: constants folded, batch norms folded into convolutions."""
    import torch

    from farm import torch_session

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its deprecation is known
        traced = torch.jit.trace(
            torch_session.prepared(workload, cache_casts=False), torch_session.example(workload)
        )
        frozen = torch.jit.freeze(traced)
    frozen.save(str(folder / FILE))
    kinds = Counter(node.kind() for node in frozen.graph.nodes())
    return {"graph_nodes": sum(kinds.values()), "graph_convolutions": kinds["aten::_convolution"]}


def load(workload: Workload, folder: Path | None) -> Session:
    """The frozen graph from its file."""
    import torch

    from farm import torch_session

    assert folder is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its deprecation is known
        module = torch.jit.load(str(folder / FILE), map_location=workload.device)

    class ScriptSession(torch_session.TorchSession):
        """A TorchScript graph."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """What ran, and that it is a graph and no Python."""
            return {**super().evidence(on_device), "compiled": isinstance(module, torch.jit.ScriptModule)}

    return ScriptSession(workload, module)
