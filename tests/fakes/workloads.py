"""A small convolutional model as a workload: for tests of runtimes, without data, weights and cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from farm import catalogue
from farm.runtimes import Workload

SHAPE = (2, 3, 16, 16)


def network() -> torch.nn.Module:
    """Two convolutions and a classifier, the same in every call."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, groups=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    )
    return layers.eval()


def images(seed: int = 1, count: int = SHAPE[0]) -> np.ndarray:
    """A batch of random images, float32 NCHW."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def workload(recipe: str, **fields: Any) -> Workload:
    """The network as a workload of this recipe; on the CPU where nothing else is said."""
    given: dict[str, Any] = {
        "recipe": catalogue.parse_recipe(recipe),
        "device": "cpu",
        "shape": SHAPE,
        "threads": 1,
        "model": network,
        "calibration": lambda: images(seed=2, count=8),
        "weights": Path("weights"),
        **fields,
    }
    return Workload(**given)


def expected(batch: np.ndarray) -> np.ndarray:
    """The fp32 model's logits."""
    with torch.inference_mode():
        logits: np.ndarray = network()(torch.from_numpy(batch)).numpy()
    return logits


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """As the accuracy pass states it."""
    return float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))
