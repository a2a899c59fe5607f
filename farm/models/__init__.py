"""Models, one file for each source of them.

A plug-in is a module `farm/models/<source>.py` with

- `NAMES`: the models it makes, readable without importing anything heavy;
- `create(name, classes)`: the model, untrained, on the CPU, in evaluation mode.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import Any

from farm import plugins

__path__ = extend_path(__path__, __name__)


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(name for source in plugins.names(__name__) for name in plugins.load(__name__, source).NAMES)


def create(name: str, classes: int) -> Any:
    """The model of this name with this many outputs, untrained, on the CPU, in evaluation mode."""
    sources = (plugins.load(__name__, source) for source in plugins.names(__name__))
    return next(s for s in sources if name in s.NAMES).create(name, classes)
