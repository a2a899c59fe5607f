"""Models, one file for each source of them.

A plug-in is a module `farm/models/<source>.py` with

- `NAMES`: the models it makes, readable without importing anything heavy;
- `create(name, classes, image_size)`: the model, untrained, on the CPU, in evaluation mode;
- `fingerprint(name)`, if it has something better than its file's digest: changes when the model does;
- `check_size(name, image_size)`, if not every size will do: raises BadInput for one that the model cannot take;
- `pretrained(name)`, if there are such: the state that is published for it, and where it comes from;
- `adapted(name, state)`, if files have other names than the model: the state with the model's.

A model of the user's own needs no file here: a package that is installed offers it as an entry point
(`farm/models/_installed.py`, docs/adding-a-model.md).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import extend_path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from farm import plugins
from farm.errors import BadInput, BrokenPlugin, FarmError, unknown
from farm.models import _installed

if TYPE_CHECKING:
    import torch

__path__ = extend_path(__path__, __name__)

#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"NAMES": tuple, "create": Callable}


def by_source() -> dict[str, tuple[str, ...]]:
    """The names of all models, by where they come from: files here, and distributions with entry points."""
    files = {source: _usable(source, module.NAMES) for source, module in plugins.loadable(__name__).items()}
    return {**files, **_installed.by_distribution()}


def _usable(source: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _installed.is_name(name):
            plugins.warn(
                f"The model {name!r} of {source} is left out: its name must have {_installed.NAME_HAS} only."
            )
    return tuple(filter(_installed.is_name, names))


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(dict.fromkeys(name for found in by_source().values() for name in found))


def check_name(name: str) -> str:
    """The name as given, where exactly one source has such a model.

    Raises:
        BadInput: no such model.
        BrokenPlugin: several sources have one, and nobody can tell which is meant.
    """
    count = sum(found.count(name) for found in by_source().values())
    if count > 1:
        raise BrokenPlugin(clash(name))
    if count == 0:
        raise unknown("model", name, names())
    return name


def check_size(name: str, image_size: int) -> None:
    """Passes where the model is not known to refuse images of this size; nothing heavy is imported.

    Raises:
        BadInput: it does; says what is possible.
    """
    module = _module(name)
    if hasattr(module, "check_size"):
        module.check_size(name, image_size)  # type: ignore[union-attr]  # it has it


def ambiguous() -> tuple[str, ...]:
    """The names that more than one source has."""
    return tuple(name for name, times in Counter(itertools.chain(*by_source().values())).items() if times > 1)


def clash(name: str) -> str:
    """What is wrong with such a name, and what to do."""
    sources = [source for source, found in by_source().items() for other in found if other == name]
    return (
        f"The model {name!r} is there {len(sources)} times: in {' and in '.join(sources)}. "
        f"Rename the entry point of an installed package, or uninstall it."
    )


def create(name: str, classes: int, image_size: int) -> Any:
    """The model of this name with this many outputs, untrained, on the CPU, in evaluation mode.

    Raises:
        BadInput: no such model, or it cannot take images of this size.
        BrokenPlugin: its plug-in fails, or makes something else than a model.
    """
    check_name(name)
    module = _module(name)
    try:
        model = (
            module.create(name, classes, image_size) if module else _installed.create(name, classes, image_size)
        )
    except FarmError:
        raise
    except (Exception, SystemExit) as error:
        # Broad: this runs whatever a plug-in does.
        raise BrokenPlugin(
            f"The model {name!r} of {_source(name)} cannot be created with {classes} classes at {image_size}×"
            f"{image_size}: {plugins.what(error)}. Expected: "
            f"create({'name, ' if module else ''}classes, image_size)."
        ) from None
    return _as_model(name, model)


def try_out(name: str, model: torch.nn.Module, classes: int, image_size: int) -> None:
    """Passes where the model answers two images with two rows of one figure per class.

    Raises:
        BrokenPlugin: it does not.
    """
    import torch

    try:
        with torch.inference_mode():
            answer = model(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:
        raise BrokenPlugin(
            f"The model {name!r} of {_source(name)} fails on images of {image_size}×{image_size}: "
            f"{plugins.what(error)}. Choose another --image-size, or mend it."
        ) from None
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (2, classes):
        raise BrokenPlugin(
            f"The model {name!r} of {_source(name)} answers 2 images with {shape}; expected is a tensor of shape "
            f"{(2, classes)}: one row per image, one figure per class."
        )


def fingerprint(name: str) -> Mapping[str, Any]:
    """What changes when the model of this name does; nothing heavy is imported."""
    module = _module(check_name(name))
    if module is None:
        return _installed.fingerprint(name)
    if hasattr(module, "fingerprint"):
        found: Mapping[str, Any] = module.fingerprint(name)
        return found
    return {"source": hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()}


def digest(name: str) -> str | None:
    """What tells apart two states of an installed package's model; None for one that the farm comes with."""
    if _module(check_name(name)) is not None:
        return None
    return hashlib.sha256(json.dumps(fingerprint(name), sort_keys=True).encode()).hexdigest()


def require_pretrained(name: str) -> None:
    """Passes where weights are published for this model.

    Raises:
        BadInput: there are none.
    """
    if not hasattr(_module(check_name(name)), "pretrained"):
        raise BadInput(
            f"The model {name!r} of {_source(name)} has no published weights: 'pretrained' means nothing for it. "
            "Name a file with --weights FILE, or leave --weights out."
        )


def pretrained(name: str) -> tuple[dict[str, torch.Tensor], str]:
    """The state that is published for the model of this name, and where it comes from."""
    require_pretrained(name)
    module = _module(name)
    assert module is not None
    state, origin = module.pretrained(name)
    return adapted(name, state), origin


def adapted(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state as it lies in a file, with the names that the model of today has."""
    module = _module(name)
    if not hasattr(module, "adapted"):
        return dict(state)
    found: dict[str, torch.Tensor] = module.adapted(name, state)  # type: ignore[union-attr]  # it has it
    return found


def _module(name: str) -> ModuleType | None:
    """The file that has the model; None where an installed package has it."""
    return next((found for found in plugins.loadable(__name__).values() if name in found.NAMES), None)


def _source(name: str) -> str:
    return next((source for source, found in by_source().items() if name in found), "nowhere")


def _as_model(name: str, made: Any) -> Any:
    import torch

    if not isinstance(made, torch.nn.Module):
        raise BrokenPlugin(
            f"The model {name!r} of {_source(name)} is no torch.nn.Module but {type(made).__name__}. "
            f"Its create must return one."
        )
    return made.to("cpu").eval()
