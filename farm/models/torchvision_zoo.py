"""torchvision's classifiers, by their names there, with their published weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from farm.errors import BadInput, FarmError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: All models of torchvision 0.29 that classify images.
NAMES = (
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
)

#: Changes when what this file makes changes, so that weights from before are not taken for new ones.
VERSION = 1

#: Least side in pixels, where it is more than the farm's 32.
_LEAST = {"alexnet": 63, "inception_v3": 75}
#: What a side must be a multiple of: the patches of a vision transformer, the windows of MaxViT's last stage.
_STEP = {"vit_b_16": 16, "vit_b_32": 32, "vit_h_14": 14, "vit_l_16": 16, "vit_l_32": 32, "maxvit_t": 224}

_NEAREST = 2

#: A published file's name ends in the beginning of its sha256.
_HASH = re.compile(r"-([a-f0-9]{8,})\.pth$")
#: The old names in DenseNet's published files: `denselayer1.norm.1.weight`, and what they are today.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
#: Outputs that only training uses, and that are not made here.
_AUXILIARY = {"inception_v3": ("AuxLogits.",), "googlenet": ("aux1.", "aux2.")}

#: A download server that says nothing for so long is not there.
_SILENCE_S = 30.0


def create(name: str, classes: int, image_size: int) -> nn.Module:
    """The model, untrained, on the CPU, in evaluation mode.

    GoogLeNet and Inception v3 have no auxiliary outputs, and take images normalized as all others do: their
    published weights expect another normalization, which `transform_input` makes from it.

    Raises:
        BadInput: it does not take images of this size.
    """
    import torchvision

    check_size(name, image_size)
    special: dict[str, Any] = {}
    if name.startswith("vit_"):
        special = {"image_size": image_size}
    elif name == "maxvit_t":
        special = {"input_size": (image_size, image_size)}
    elif name in _AUXILIARY:
        special = {"aux_logits": False, "transform_input": True, "init_weights": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **special)
    return model.eval()


def check_size(name: str, image_size: int) -> None:
    """Passes where the model takes images of this size.

    Raises:
        BadInput: it does not; says what is possible.
    """
    step, least = _STEP.get(name, 1), _LEAST.get(name, 1)
    if image_size >= least and image_size % step == 0:
        return
    possible = f"{least} or more" if step == 1 else f"multiples of {step}"
    below = image_size // step * step
    near = [side for side in (below, below + step) if side >= max(32, least)] or [least]
    hint = " or ".join(map(str, near[:_NEAREST])) if step > 1 else str(least)
    raise BadInput(
        f"{name} cannot take images of {image_size}×{image_size} pixels. Possible image sizes: {possible}; "
        f"nearest: {hint}."
    )


def fingerprint(name: str) -> Mapping[str, Any]:
    """What changes when the model of this name does."""
    return {"torchvision": importlib.metadata.version("torchvision"), "version": VERSION}


def adapted(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state as it lies in a file, with the names that the model of today has."""
    dropped = _AUXILIARY.get(name, ())
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(dropped))}
    if name.startswith("densenet"):
        return {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in kept.items()}
    return kept


def pretrained(name: str) -> tuple[dict[str, torch.Tensor], str]:
    """The state that torchvision publishes as the model's DEFAULT, and where it comes from.

    Raises:
        FarmError: it is not there and cannot be downloaded, or its file is damaged.
    """
    import torch
    import torchvision

    published = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    if file.exists():
        _check_hash(file)
    try:
        with _impatient():
            state = published.get_state_dict(check_hash=True, progress=False, weights_only=True)
    except (OSError, HTTPException, RuntimeError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer too, with its connection
        raise FarmError(_unavailable(name, published.url, file, error)) from None
    return dict(state), f"torchvision {published}{_unusual(published)}"


def _check_hash(file: Path) -> None:
    """torchvision checks what it downloads, and nothing that lies there already."""
    match = _HASH.search(file.name)
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if match is None or not found.startswith(match[1]):
        wanted = "none" if match is None else match[1]
        raise FarmError(
            f"{file} is damaged: its sha256 is {found}, and its name says that it begins with {wanted}. "
            f"Delete it; it is downloaded again, or put a good copy there."
        )


@contextmanager
def _impatient() -> Iterator[None]:
    """torch.hub waits without end for a server that is silent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unavailable(name: str, url: str, file: Path, error: Exception) -> str:
    return (
        f"The published weights of {name} cannot be had: {url}: {str(error) or type(error).__name__}. "
        f"Two ways out: put the file {file.name} into {file.parent} (TORCH_HOME/hub/checkpoints) on this host; or "
        f"name a file of your own with --weights FILE --sha256 HEX."
    )


def _unusual(published: Any) -> str:
    """What the weights expect of their images that these images do not have."""
    made = published.transforms()
    usual = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if (list(made.mean), list(made.std)) == usual:
        return ""
    return f" (made for images of mean {list(made.mean)} and deviation {list(made.std)}, which these are not)"
