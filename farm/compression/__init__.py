"""Compressions, one file each: what is done to a model before a runtime gets it.

A plug-in is a module `farm/compression/<name>.py` with

- `SUPPORT`: a `Support`, readable without importing anything heavy;
- `compress(model, task)`: changes the model and returns it with facts worth storing. What may change is
  weights, and the sizes of its layers: `farm.checkpoint` keeps those and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import extend_path
from typing import Any

from farm import plugins
from farm.datasets import Split
from farm.precision import PRECISIONS, Tolerance
from farm.recipe import Share

__path__ = extend_path(__path__, __name__)


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a compression is, known without loading it."""

    #: One sentence for `python -m farm recipes`.
    summary: str
    #: What it may cost, beside what the precision may.
    tolerance: Tolerance
    #: The number it takes in parentheses; None where it takes none.
    share: Share | None = None
    #: Precisions that it goes with.
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    #: Why a precision is missing, by its name.
    reasons: Mapping[str, str] = field(default_factory=dict)
    #: Modules that must be importable; they are looked for, not imported.
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a compression works with."""

    #: Training images, with labels where there are real ones.
    train: Split
    #: Side of an image in pixels.
    image_size: int
    #: `cpu` or `cuda`: where to train.
    device: str
    #: The number in parentheses.
    share: float | None


#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"SUPPORT": Support, "compress": Callable}


def names() -> tuple[str, ...]:
    """The names of all compressions."""
    return plugins.names(__name__)


def support(name: str) -> Support:
    """What a compression is."""
    found: Support = plugins.load(__name__, name).SUPPORT
    return found


def module(name: str) -> Any:
    """The plug-in itself."""
    return plugins.load(__name__, name)
