"""The user's own labelled images: `<folder>/train/<class>/…` and `<folder>/test/<class>/…`.

`val` may stand for `test`. Where there is only `<folder>/<class>/…`, a fifth is held out, chosen by the
digest of each file's name, so that it is the same fifth everywhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from farm.datasets import Split, Support
from farm.errors import BadInput, shorten

SUPPORT = Support(summary="your own labelled images: image_folder:NAME in FARM_DATASETS_DIR", needs_folder=True)

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

#: ImageNet's channel means and deviations, which torchvision's pretrained weights expect.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]


class Images:
    """Images that are read when they are asked for."""

    def __init__(self, files: list[Path], side: int) -> None:
        self.files = files
        self.side = side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """float32, (chosen, 3, side, side)."""
        indices = np.arange(len(self.files))[chosen]
        return np.stack([_read(self.files[i], self.side) for i in indices])


def load(part: str, image_size: int, folder: Path | None) -> Split:
    """One part of the folder, its classes the names of its subfolders, sorted.

    Raises:
        BadInput: no images, or fewer than two classes.
    """
    assert folder is not None
    classes, files = _files(folder, part)
    if len(classes) < 2 or not files:
        raise BadInput(
            f"{folder} has no {part} images of at least two classes. Expected {part}/CLASS/IMAGE or "
            f"CLASS/IMAGE, with images ending in {', '.join(ENDINGS)}."
        )
    strange = sorted({file.parent.name for file in files} - set(classes))
    if strange:
        raise BadInput(
            f"{folder} has {part} images of classes that train has not: {shorten(strange)}. "
            f"Classes of train: {shorten(classes)}."
        )
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number[file.parent.name] for file in files], dtype=np.int64)
    return Split(images=Images(files, image_size), labels=labels, classes=tuple(classes))


def digest(folder: Path) -> str:
    """sha256 over every image's path, size and first 4 KiB: a change of content shows, at little cost."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if _is_image(path)):
        with file.open("rb") as stream:
            head = stream.read(4096)
        total.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode() + head)
    return total.hexdigest()


def _files(folder: Path, part: str) -> tuple[list[str], list[Path]]:
    parts = {"train": ("train",), "test": ("test", "val")}
    if not (folder / "train").is_dir():
        everything = _images(folder)
        return _classes(folder), [f for f in everything if _held_out(f, folder) == (part == "test")]
    root = next((folder / name for name in parts[part] if (folder / name).is_dir()), folder / part)
    return _classes(folder / "train"), _images(root)


def _classes(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def _images(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*/*") if _is_image(path))


def _is_image(path: Path) -> bool:
    """A file, or a link to one, with an image's ending; a link that leads nowhere is none."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def _held_out(file: Path, root: Path) -> bool:
    return hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()[0] < 256 // 5


def _read(file: Path, side: int) -> np.ndarray:
    """Shorter side to the image size, the middle cut out, normalized."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise BadInput(f"Image {file} cannot be read: {error}. Remove or mend it.") from None
    pixels = np.asarray(fitted, dtype=np.float32).transpose(2, 0, 1) / 255
    normalized: np.ndarray = (pixels - MEAN) / STD
    return normalized
