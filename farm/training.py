"""Trains a model on a dataset with real labels, from a fixed seed: the weights that every recipe then runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from farm.datasets import Split
from farm.environment import has_bf16

if TYPE_CHECKING:
    import torch

#: Changes when training itself changes, so that weights from before are not taken for new ones.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int = 4
    batch_size: int = 32
    max_learning_rate: float = 2e-3
    #: Training stops here however large the dataset is.
    max_steps: int = 400
    seed: int = 0


def train(model: torch.nn.Module, data: Split, schedule: Schedule, device: str = "cpu") -> Mapping[str, Any]:
    """Trains the model in place: AdamW, one-cycle learning rate, bfloat16 where the processor has it.

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
        with torch.autocast(device, torch.bfloat16, enabled=device == "cpu" and has_bf16()):
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(loss.item())
    model.to(device="cpu", memory_format=torch.contiguous_format).eval()
    return {"steps": steps, "train_samples": len(data.images), "final_loss": float(np.mean(losses[-20:]))}


def _batches(
    data: Split, schedule: Schedule, steps: int, device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled batches, epoch after epoch, all of the same size."""
    import torch

    assert data.labels is not None
    order = np.random.default_rng(schedule.seed)
    size = min(schedule.batch_size, len(data.images))
    queue = np.array([], dtype=np.int64)
    for _ in range(steps):
        if len(queue) < size:
            queue = np.concatenate([queue, order.permutation(len(data.images))])
        chosen, queue = queue[:size], queue[size:]
        images = torch.from_numpy(data.images[chosen]).to(device, memory_format=torch.channels_last)
        yield images, torch.from_numpy(data.labels[chosen]).to(device)
