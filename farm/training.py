"""Trains a model on a dataset, from a fixed seed: what every recipe runs, and what compressions make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from farm.datasets import Split
from farm.environment import has_bf16

if TYPE_CHECKING:
    import torch

#: Changes when training itself changes, so that weights from before are not taken for new ones.
VERSION = 1

#: The loss of a batch, from the model's logits, the images, and the labels where there are real ones.
Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int = 4
    batch_size: int = 32
    max_learning_rate: float = 2e-3
    #: Training stops here however large the dataset is.
    max_steps: int = 400
    seed: int = 0
    #: bfloat16 where the processor has it.
    autocast: bool = True


def to_labels(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy with the real labels, smoothed."""
    import torch

    assert labels is not None
    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05)


def train(
    model: torch.nn.Module, data: Split, schedule: Schedule, device: str = "cpu", loss_of: Loss = to_labels
) -> Mapping[str, Any]:
    """Trains the model in place: AdamW, one-cycle learning rate.

    Returns:
        Facts about the training: steps, the last epoch's mean loss, samples.
    """
    import torch

    torch.manual_seed(schedule.seed)
    steps = min(schedule.max_steps, schedule.epochs * math.ceil(len(data.images) / schedule.batch_size))
    model.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.max_learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.max_learning_rate, total_steps=steps + 1)
    losses = []
    for images, labels in _batches(data, schedule, steps, device):
        with torch.autocast(device, torch.bfloat16, enabled=schedule.autocast and device == "cpu" and has_bf16()):
            loss = loss_of(model(images), images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(loss.item())
    model.to(device="cpu", memory_format=torch.contiguous_format).eval()
    return {"steps": steps, "train_samples": len(data.images), "final_loss": float(np.mean(losses[-20:]))}


def _batches(
    data: Split, schedule: Schedule, steps: int, device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Shuffled batches, epoch after epoch, all of the same size."""
    import torch

    order = np.random.default_rng(schedule.seed)
    size = min(schedule.batch_size, len(data.images))
    queue = np.array([], dtype=np.int64)
    for _ in range(steps):
        if len(queue) < size:
            queue = np.concatenate([queue, order.permutation(len(data.images))])
        chosen, queue = queue[:size], queue[size:]
        images = torch.from_numpy(data.images[chosen]).to(device, memory_format=torch.channels_last)
        yield images, None if data.labels is None else torch.from_numpy(data.labels[chosen]).to(device)
