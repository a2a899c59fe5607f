"""Removes channels from a whole network at once, by torch-pruning's graph of which layers share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farm.errors import FarmError

if TYPE_CHECKING:
    import torch

#: Kept channels come to a multiple of this: kernels work on so many at a time.
_MULTIPLE = 8


def remove(model: torch.nn.Module, image_size: int, share: float) -> None:
    """Removes about this share of every layer's channels, in place; classes stay as they are.

    Raises:
        FarmError: the network has a part that torch-pruning cannot cut.
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
            ignored_layers=[layer for layer in model.modules() if getattr(layer, "out_features", None) == classes],
        ).step()
        with torch.no_grad():
            model(example)
    except Exception as error:
        # Broad: what the library says of a network that it cannot follow is of any kind.
        raise FarmError(f"torch-pruning cannot remove channels of this model: {error}".splitlines()[0]) from error
    model.zero_grad(set_to_none=True)


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
