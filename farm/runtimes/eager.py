"""torch as it is: the model's own Python code, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="torch as it is, operator by operator (the baseline)",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16", "int8_dynamic"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    requires_for={"int8_dynamic": ("torchao",)},
    reasons={"int8_static": "torch calibrates an exported graph only"},
)


def load(workload: Workload, folder: Path | None) -> Session:
    """The model itself; for `int8_dynamic` with its Linear layers quantized by torchao."""
    from farm import torch_session

    model = torch_session.prepared(workload)
    if workload.recipe.precision != "int8_dynamic":
        return torch_session.TorchSession(workload, model)
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())

    class DynamicSession(torch_session.TorchSession):
        """A model whose Linear layers quantize their input in every call."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """How many products ran in 8 bits, and how much of the model that is."""
            watch = self.watch(on_device)
            products = sum(watch.dtypes("_int_mm").values())
            return {
                **super().evidence(on_device),
                "dtype_asked": "int8",
                "dtype": "int8" if products else "none seen",
                "int8_products": products,
                "note": _note(model, products),
            }

    return DynamicSession(workload, model)


def _note(model: Any, products: int) -> str:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    layers = sum(isinstance(layer, kinds) for layer in model.modules())
    text = f"{products} of {layers} layers run in 8 bits, for torch quantizes Linear layers only"
    return f"{text}: that is why little shrinks" if products < layers / 2 else text
