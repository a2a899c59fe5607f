"""A small convolutional network, as an example of a model that the farm did not come with."""

from __future__ import annotations

from torch import nn


def create(classes: int, image_size: int) -> nn.Module:
    """The network, untrained; it takes images of any size."""
    return nn.Sequential(
        *_halving(3, 16),
        *_halving(16, 32),
        *_halving(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
