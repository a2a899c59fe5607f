"""Models of installed packages: entry points of the group `benchmark_farm.models`.

An entry point's name is the model's, and its object a callable `create(classes, image_size)`. Which there are
is read from the packages' metadata: nothing of theirs is imported before one of them is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from farm import plugins
from farm.errors import BrokenPlugin

GROUP = "benchmark_farm.models"

#: A name is part of labels, of file names and of lists with commas.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
NAME_HAS = "letters, digits, _ . and -"


def by_distribution() -> dict[str, tuple[str, ...]]:
    """The names of these models, by the distribution that has them, such as `my-models 1.0`."""
    found: dict[str, list[str]] = {}
    for point in _points():
        found.setdefault(_distribution(point), []).append(point.name)
    return {source: tuple(sorted(names)) for source, names in sorted(found.items())}


def create(name: str, classes: int, image_size: int) -> Any:
    """What the entry point of this name makes.

    Raises:
        BrokenPlugin: it cannot be loaded, or is nothing that can be called.
    """
    point = _point(name)
    try:
        made = point.load()
    except (Exception, SystemExit) as error:
        # Broad: loading runs whatever stands in the package.
        raise BrokenPlugin(
            f"The model {name!r} of {_distribution(point)} cannot be loaded ({point.value}): "
            f"{plugins.what(error)}. Mend the package or uninstall it."
        ) from None
    if not callable(made):
        raise BrokenPlugin(
            f"The model {name!r} of {_distribution(point)} is no callable ({point.value} is "
            f"{type(made).__name__}). Expected: create(classes, image_size)."
        )
    return made(classes, image_size)


def fingerprint(name: str) -> Mapping[str, Any]:
    """The distribution with its version, and a digest of its source: nothing of it is imported."""
    point, total = _point(name), hashlib.sha256()
    files = list(_sources(point.module))
    for file in files:
        total.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return {"distribution": _distribution(point), "entry": point.value, "source": total.hexdigest()}


@functools.cache
def _points() -> tuple[EntryPoint, ...]:
    """Read once: looking through all installed packages takes a while."""
    found = {point for point in entry_points(group=GROUP) if _usable(point)}
    return tuple(sorted(found, key=lambda point: (point.name, _distribution(point))))


def is_name(name: object) -> bool:
    """Whether a model can be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _usable(point: EntryPoint) -> bool:
    if is_name(point.name) and EntryPoint.pattern.match(point.value):
        return True
    plugins.warn(
        f"The model {point.name!r} of {_distribution(point)} is left out: its name must have {NAME_HAS} only, "
        f"and its object be module:callable, not {point.value!r}."
    )
    return False


def _point(name: str) -> EntryPoint:
    return next(point for point in _points() if point.name == name)


def _distribution(point: EntryPoint) -> str:
    return "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _sources(module: str) -> Iterator[Path]:
    """The module's file or, where it belongs to a package, all Python files of that, found without importing."""
    spec = _spec(module.partition(".")[0], None)
    if spec is not None and spec.origin and spec.submodule_search_locations:
        yield from sorted(Path(spec.origin).parent.rglob("*.py"))
        return
    for part in module.split(".")[1:]:  # a namespace: only the module itself belongs to this distribution
        if spec is None:
            return
        spec = _spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    if spec is not None and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin)


def _spec(module: str, path: Any) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module) if path is None else PathFinder.find_spec(module, path)
    except (ImportError, ValueError):
        return None
