"""Checkpoints: a model whose layers changed their sizes comes back as it was, from files that hold no code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farm import checkpoint, models
from farm.compression import _channels
from farm.errors import Unsupported

IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def pruned(name: str, share: float = 0.5) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A pruned model and the whole one."""
    torch.manual_seed(0)
    whole = models.create(name, 10, 64)
    model = models.create(name, 10, 64)
    model.load_state_dict(whole.state_dict())
    _channels.remove(model, 64, share)
    return model.eval(), whole


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "resnet18"])
def test_a_pruned_model_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model, whole = pruned(name)
    checkpoint.save(model, tmp_path, whole)
    found = checkpoint.restore(models.create(name, 10, 64), tmp_path)
    with torch.no_grad():
        assert torch.equal(found(IMAGES), model(IMAGES))
    assert checkpoint.cost(found, 64) == checkpoint.cost(model, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.json", "weights.safetensors"]


def test_a_whole_model_needs_only_its_weights(tmp_path: Path) -> None:
    model = models.create("squeezenet1_1", 10, 64)
    checkpoint.save(model, tmp_path)
    found = checkpoint.restore(models.create("squeezenet1_1", 10, 64), tmp_path)
    with torch.no_grad():
        assert torch.equal(found(IMAGES), model(IMAGES))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_channels_are_counted_before_and_after() -> None:
    model, whole = pruned("resnet18")
    before, after = checkpoint.cost(whole, 64), checkpoint.cost(model, 64)
    assert 0.45 < after["channels"] / before["channels"] < 0.55
    assert before["parameters"] == 11_181_642
    assert after["macs"] < 0.35 * before["macs"]


def test_the_multiply_accumulates_are_those_of_the_literature() -> None:
    # He et al. 2015, table 1: 1.8 billion for ResNet-18 at 224 pixels.
    assert checkpoint.cost(models.create("resnet18", 1000, 224), 224)["macs"] == pytest.approx(1.8e9, rel=0.02)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "densenet121"])
def test_the_number_of_classes_stays(name: str) -> None:
    model, _ = pruned(name, 0.9)
    with torch.no_grad():
        assert model(IMAGES).shape == (2, 10)


def test_a_network_that_cannot_be_cut_is_an_error_that_says_so() -> None:
    class Fixed(torch.nn.Module):
        """Its reshape knows the number of channels."""

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 32, 3)
            self.last = torch.nn.Linear(32, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Logits."""
            return self.last(self.first(images).mean((2, 3)).reshape(-1, 32))

    with pytest.raises(Unsupported, match="cannot remove channels of this model"):
        _channels.remove(Fixed().eval(), 64, 0.5)
