"""torch as it is: the model's own Python code, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.errors import Unsupported
from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="torch as it is, operator by operator (the baseline)",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16", "int8_dynamic"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    requires_for={"int8_dynamic": ("torchao",)},
    reasons={"int8_static": "torch calibrates an exported graph only"},
)


#: How a product of 8-bit numbers reaches the dispatcher: on a CPU, and as torchao asks for it on a GPU.
INT8_PRODUCTS = ("_int_mm", "out_dtype")
#: What both sides of a layer must be a multiple of for that on a GPU (torchao.kernel.intmm, `safe_int_mm`).
_MULTIPLE = 8


def load(workload: Workload, folder: Path | None) -> Session:
    """The model itself; for `int8_dynamic` with its Linear layers quantized by torchao."""
    from farm import torch_session

    model = torch_session.prepared(workload)
    if workload.recipe.precision != "int8_dynamic":
        return torch_session.TorchSession(workload, model)
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    if workload.device == "cuda":
        require_products(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())

    class DynamicSession(torch_session.TorchSession):
        """A model whose Linear layers quantize their input in every call."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """How many products ran in 8 bits, and how much of the model that is."""
            watch = self.watch(on_device)
            products = sum(watch.dtypes(*INT8_PRODUCTS).values())
            return {
                **super().evidence(on_device),
                "dtype_asked": "int8",
                "dtype": "int8" if products else "none seen",
                "int8_products": products,
                "note": _note(model, products),
            }

    return DynamicSession(workload, model)


def require_products(model: Any) -> None:
    """Passes where a GPU multiplies a layer of this model in 8 bits; torchao takes all others to the CPU and back.

    Raises:
        Unsupported: no layer can be.
    """
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    if not any(given % _MULTIPLE == 0 == made % _MULTIPLE for given, made in sizes):
        found = ", ".join(f"{given} × {made}" for given, made in sizes[:3]) or "none at all"
        raise Unsupported(
            f"torch multiplies Linear layers in 8 bits on a GPU where both sides are multiples of {_MULTIPLE}; "
            f"this model has {found}"
        )


def _note(model: Any, products: int) -> str:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    layers = sum(isinstance(layer, kinds) for layer in model.modules())
    text = f"{products} of {layers} layers run in 8 bits, for torch quantizes Linear layers only"
    return f"{text}: that is why little shrinks" if products < layers / 2 else text
