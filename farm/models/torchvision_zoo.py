"""torchvision's classifiers, by their names there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

#: Those that take any image size from 32 pixels on and need nothing but torchvision.
NAMES = (
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
)


def create(name: str, classes: int) -> nn.Module:
    """The model, untrained, on the CPU, in evaluation mode."""
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return model.eval()
