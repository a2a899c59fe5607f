"""Removes channels from a whole network at once, by torch-pruning's graph of which layers share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farm.errors import Unsupported

if TYPE_CHECKING:
    import torch

#: Kept channels come to a multiple of this: kernels work on so many at a time.
_MULTIPLE = 8


def remove(model: torch.nn.Module, image_size: int, share: float) -> None:
    """Removes about this share of every layer's channels, in place; classes stay as they are.

    Raises:
        Unsupported: the network has a part that torch-pruning cannot cut.
    """
    import torch
    import torch_pruning

    example = torch.zeros(1, 3, image_size, image_size)
    with torch.no_grad():
        classes = model(example).shape[1]
    try:
        torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            pruning_ratio_dict=_shares(model, share),
            max_pruning_ratio=1.0,
            ignored_layers=[layer for layer in model.modules() if _outputs(layer) == classes],
        ).step()
        with torch.no_grad():
            left = model(example).shape[1]
    except Exception as error:
        # Broad: what the library says of a network that it cannot follow is of any kind.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Unsupported(f"torch-pruning cannot remove channels of this model ({why})") from error
    if left != classes:
        raise Unsupported(f"torch-pruning would remove classes of this model: {left} of {classes} were left")
    model.zero_grad(set_to_none=True)


def _outputs(layer: torch.nn.Module) -> int | None:
    """How many figures or channels a layer gives; SqueezeNet's classes come from a convolution."""
    found: int | None = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return found


def _shares(model: torch.nn.Module, share: float) -> dict[torch.nn.Module, float]:
    """For each layer the share nearest to what is asked that keeps a multiple of channels."""
    shares = {}
    for layer in model.modules():
        channels = getattr(layer, "out_channels", 0)
        if channels > _MULTIPLE:
            kept = max(_MULTIPLE, round(channels * (1 - share) / _MULTIPLE) * _MULTIPLE)
            # A little more is removed than that in exact arithmetic, which rounding takes back.
            shares[layer] = max(0.0, 1 - (kept + 1e-6) / channels)
    return shares
