"""Structured pruning by torch-pruning: the least important channels are really removed, then fine-tuned.

Importance is the L2 norm of all weights that belong to a channel, over all layers that share it: Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from farm import training
from farm.compression import Support, Task, _channels
from farm.precision import Tolerance
from farm.recipe import Share

if TYPE_CHECKING:
    import torch

SUPPORT = Support(
    summary="a share of every layer's channels removed, fine-tuned where there are labels",
    tolerance=Tolerance(top1_drop=0.02, agreement=0.9, logits_error=None),
    share=Share(low=0.05, high=0.9, default=0.3, of="the share of every layer's channels to remove"),
    requires=("torch_pruning",),
)

SCHEDULE = training.Schedule(epochs=3, max_learning_rate=1e-3)


def compress(model: torch.nn.Module, task: Task) -> tuple[torch.nn.Module, Mapping[str, Any]]:
    """The model with fewer channels; without labels there is nothing to fine-tune it with."""
    assert task.share is not None
    _channels.remove(model, task.image_size, task.share)
    if task.train.labels is None:
        return model, {"fine_tuned": "no: there are no real labels"}
    return model, {"fine_tuned": dict(training.train(model, task.train, SCHEDULE, task.device))}
