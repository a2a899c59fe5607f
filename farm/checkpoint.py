"""A model on disk: its weights as safetensors and, where a compression changed them, the sizes of its layers.

Nothing in these files is code: whoever loads them makes the model first and fills it in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import weights

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
LAYERS = "layers.json"


def save(model: torch.nn.Module, folder: Path, original: torch.nn.Module | None = None) -> None:
    """Writes the model's weights and, where an original is given, how its layers differ from that one's."""
    from safetensors.torch import save_file

    # Cloned: parameters that a model uses twice are one tensor, which the file does not take.
    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    if original is not None:
        (folder / LAYERS).write_text(json.dumps(_changes(model, original), indent=1, sort_keys=True))


def restore(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The freshly made model with the sizes and the weights of these files, in evaluation mode."""
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS)
    if (folder / LAYERS).exists():
        _resize(model, json.loads((folder / LAYERS).read_text()), state)
    weights.put(model, state, type(model).__name__, folder.name)
    return model.eval()


def _changes(model: torch.nn.Module, original: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Attributes that are numbers, or tuples of them, and differ: by layer, then by name."""
    before = {name: _sizes(layer) for name, layer in original.named_modules()}
    after = {name: _sizes(layer) for name, layer in model.named_modules()}
    changes = {name: _differing(sizes, before[name]) for name, sizes in after.items()}
    return {name: found for name, found in changes.items() if found}


def _sizes(layer: torch.nn.Module) -> dict[str, Any]:
    public = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    return {name: value for name, value in public.items() if _is_size(value)}


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _differing(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if before.get(name) != value}


def _resize(
    model: torch.nn.Module, changes: Mapping[str, Mapping[str, Any]], state: Mapping[str, torch.Tensor]
) -> None:
    import torch

    for name, sizes in changes.items():
        for attribute, value in sizes.items():
            # JSON has no tuples.
            setattr(model.get_submodule(name), attribute, tuple(value) if isinstance(value, list) else value)
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        if leaf in layer._parameters:
            layer._parameters[leaf] = torch.nn.Parameter(torch.empty_like(value))
        else:
            layer._buffers[leaf] = torch.empty_like(value)


def cost(model: torch.nn.Module, image_size: int) -> dict[str, int]:
    """What the model has and does: `parameters`, `macs` of one image, output `channels` of its layers.

    MACs are multiply-accumulates of convolutions and matrix products, half of torch's count of operations:
    https://docs.pytorch.org/docs/stable/torch.utils.flop_counter (an untaken addition counts there, too).
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, image_size, image_size))
    layers = (layer for layer in model.modules() if hasattr(layer, "weight") and hasattr(layer, "bias"))
    outputs = (getattr(layer, "out_channels", getattr(layer, "out_features", 0)) for layer in layers)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": int(counter.get_total_flops()) // 2,
        "channels": sum(outputs),
    }
