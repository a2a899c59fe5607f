"""Finds plug-ins by the name of their file, without importing what they need.

A folder of plug-ins (`farm/runtimes`, `farm/datasets`, …) holds one file for each. A folder outside
the project takes part when it has the same shape and its root is on `PYTHONPATH`:
`my-plugins/farm/runtimes/my_runtime.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from farm.errors import unknown


def names(package: str) -> tuple[str, ...]:
    """The names of the plug-ins of a package, sorted; nothing but the package itself is imported."""
    path = importlib.import_module(package).__path__
    found = {module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_")}
    return tuple(sorted(found))


def load(package: str, name: str) -> ModuleType:
    """The plug-in `name` of a package.

    Raises:
        BadInput: no such plug-in.
    """
    known = names(package)
    if name not in known:
        raise unknown(package.rpartition(".")[2].rstrip("s"), name, known)
    return importlib.import_module(f"{package}.{name}")


def installed(module: str) -> bool:
    """Whether a module can be imported, found out without importing it."""
    return importlib.util.find_spec(module) is not None
