"""Models, one file for each source of them.

A plug-in is a module `farm/models/<source>.py` with

- `NAMES`: the models it makes, readable without importing anything heavy;
- `create(name, classes)`: the model, untrained, on the CPU, in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import extend_path
from typing import Any

from farm import plugins

__path__ = extend_path(__path__, __name__)


#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"NAMES": tuple, "create": Callable}


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(name for source in plugins.loadable(__name__).values() for name in source.NAMES)


def create(name: str, classes: int) -> Any:
    """The model of this name with this many outputs, untrained, on the CPU, in evaluation mode."""
    sources = plugins.loadable(__name__).values()
    return next(source for source in sources if name in source.NAMES).create(name, classes)
