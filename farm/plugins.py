"""Finds plug-ins by the name of their file, without importing what they need.

A folder of plug-ins (`farm/runtimes`, `farm/datasets`, …) holds one file for each. A folder outside
the project takes part when it has the same shape and its root is on `PYTHONPATH`:
`my-plugins/farm/runtimes/my_runtime.py`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import pkgutil
import traceback
from types import ModuleType

from farm.errors import BrokenPlugin, unknown

log = logging.getLogger(__name__)


def names(package: str) -> tuple[str, ...]:
    """The names of the plug-ins of a package, sorted; nothing but the package itself is imported."""
    path = importlib.import_module(package).__path__
    found = {module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_")}
    return tuple(sorted(found))


def load(package: str, name: str) -> ModuleType:
    """The plug-in `name` of a package.

    Raises:
        BadInput: no such plug-in.
        BrokenPlugin: its file cannot be imported, or lacks what the package's contract asks for.
    """
    known, kind = names(package), package.rpartition(".")[2].rstrip("s")
    if name not in known:
        raise unknown(kind, name, known)
    try:
        module = importlib.import_module(f"{package}.{name}")
    except (Exception, SystemExit) as error:
        # Broad: importing runs whatever stands in the file.
        raise BrokenPlugin(
            f"The {kind} {name!r} cannot be loaded: {what(error)}. {_where(package, name)}"
        ) from None
    contract = importlib.import_module(package).CONTRACT
    wrong = [part for part, wanted in contract.items() if not isinstance(getattr(module, part, None), wanted)]
    if wrong:
        raise BrokenPlugin(f"The {kind} {name!r} has no {', '.join(wrong)} as it should. {_where(package, name)}")
    return module


def loadable(package: str) -> dict[str, ModuleType]:
    """The plug-ins of a package that can be loaded, by name; the others are warned of once."""
    found = {}
    for name in names(package):
        try:
            found[name] = load(package, name)
        except BrokenPlugin as error:
            warn(str(error))
    return found


@functools.cache
def warn(text: str) -> None:
    """Says it once in this process."""
    log.warning(text)


def what(error: BaseException) -> str:
    """An error in one line."""
    # As a traceback ends: that never raises, whatever the error's own text does.
    return traceback.format_exception_only(error)[-1].strip()


def _where(package: str, name: str) -> str:
    spec = importlib.util.find_spec(f"{package}.{name}")
    place = "" if spec is None or spec.origin is None else f"{spec.origin}; "
    return f"Mend it ({place}{package.replace('.', '/')}/__init__.py states the contract) or take it away."


def installed(module: str) -> bool:
    """Whether a module can be imported, found out without importing it."""
    return importlib.util.find_spec(module) is not None
