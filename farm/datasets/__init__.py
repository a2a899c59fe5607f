"""Datasets, one file each: images and, where there are real ones, labels.

A plug-in is a module `farm/datasets/<name>.py` with

- `SUPPORT`: a `Support`, readable without importing anything heavy;
- `load(part, image_size, folder)`: a `Split` of `train` or `test`; the same one every time;
- `digest(folder)`, only where it is the user's own: changes when its content does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import extend_path
from typing import Any, Protocol

import numpy as np

from farm import plugins
from farm.errors import BadInput, unknown

__path__ = extend_path(__path__, __name__)


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a dataset is, known without loading it."""

    summary: str
    #: Side of its images in pixels, where the user does not say otherwise.
    image_size: int = 224
    #: Whether its labels are real; without them no accuracy is ever stated.
    labelled: bool = True
    #: Whether it is the user's own folder, written `name:folder`.
    needs_folder: bool = False


class Images(Protocol):
    """float32 images of (channels, height, width); an array of them is one."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """Those of a slice or of an array of indices, as (chosen, channels, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images of one part of a dataset."""

    #: Normalized; whole in memory or read when asked for.
    images: Images
    #: int64, (samples,); None where there are no real labels.
    labels: np.ndarray | None
    classes: tuple[str, ...]


#: File systems take no longer names.
_MAX_FOLDER_BYTES = 255

#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"SUPPORT": Support, "load": Callable}


def names() -> tuple[str, ...]:
    """The names of all datasets."""
    return plugins.names(__name__)


def check_name(value: Any) -> str:
    """The name as given, where there is such a dataset.

    Raises:
        BadInput: no such dataset, or a folder where none belongs or none where one does.
    """
    name, colon, folder = str(value).partition(":")
    if name not in names():
        raise unknown("dataset", name, names())
    if plugins.load(__name__, name).SUPPORT.needs_folder:
        parts = Path(folder).parts
        if not parts or ".." in parts or Path(folder).is_absolute() or not _is_writable(folder):
            raise BadInput(
                f"Dataset {value!r}: write {name}:FOLDER, the name of a folder inside FARM_DATASETS_DIR "
                f"(by default .farm/datasets)."
            )
    elif colon:
        raise BadInput(f"Dataset {value!r}: {name} takes no folder; write {name}.")
    return str(value)


def _is_writable(folder: str) -> bool:
    """Whether people see what it says (no NUL, nothing that turns text around), and file systems take it."""
    return folder.isprintable() and len(folder.encode()) <= _MAX_FOLDER_BYTES


def support(dataset: str) -> Support:
    """What a dataset is."""
    found: Support = plugins.load(__name__, dataset.partition(":")[0]).SUPPORT
    return found


def default_image_size(dataset: str) -> int:
    """Side of its images in pixels, where the user does not say otherwise."""
    return support(check_name(dataset)).image_size


def folder(dataset: str, root: Path) -> Path:
    """The folder of a dataset that is the user's own.

    Raises:
        BadInput: there is none.
    """
    path = root / dataset.partition(":")[2]
    if not path.is_dir():
        raise BadInput(f"Dataset {dataset!r}: no folder {path}. Put it there, or set FARM_DATASETS_DIR.")
    return path


def load(dataset: str, part: str, image_size: int, root: Path) -> Split:
    """The `train` or `test` part of a dataset, at this image size."""
    plugin = plugins.load(__name__, dataset.partition(":")[0])
    own = folder(dataset, root) if plugin.SUPPORT.needs_folder else None
    split: Split = plugin.load(part, image_size, own)
    return split


def drawn(split: Split, chosen: np.ndarray) -> Split:
    """The images of these indices and no others; they are read when they are asked for."""
    labels = None if split.labels is None else split.labels[chosen]
    return Split(images=_Drawn(split.images, chosen), labels=labels, classes=split.classes)


def relabelled(split: Split, classes: Sequence[str]) -> Split:
    """The same images with labels that count these classes, found by name; its own are among them."""
    if split.labels is None or tuple(classes) == split.classes:
        return Split(images=split.images, labels=split.labels, classes=tuple(classes))
    place = {name: number for number, name in enumerate(classes)}
    numbers = np.array([place[name] for name in split.classes], dtype=np.int64)
    return Split(images=split.images, labels=numbers[split.labels], classes=tuple(classes))


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k's classes, in the order of pretrained models' outputs."""
    return tuple((Path(__file__).parent / "imagenet_wnids.txt").read_text(encoding="ascii").split())


@dataclass(frozen=True)
class _Drawn:
    images: Images
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self.images[self.indices[chosen]]


def digest(dataset: str, root: Path) -> str | None:
    """What tells apart two states of a dataset that is the user's own; None for one that never changes."""
    plugin = plugins.load(__name__, dataset.partition(":")[0])
    found: str | None = plugin.digest(folder(dataset, root)) if plugin.SUPPORT.needs_folder else None
    return found
