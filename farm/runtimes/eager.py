"""torch as it is: the model's own Python code, operator by operator."""

from __future__ import annotations

from pathlib import Path

from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="torch as it is, operator by operator (the baseline)",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    reasons=dict.fromkeys(("int8_static", "int8_dynamic"), "torch quantizes an exported graph only"),
)


def load(workload: Workload, folder: Path | None) -> Session:
    """The model itself."""
    from farm import torch_session

    return torch_session.TorchSession(workload, torch_session.prepared(workload))
