"""The user's own labelled images, as they lie: `<folder>/train/<class>/…` and `<folder>/test/<class>/…`.

`val` may stand for `test` (ImageNet, Imagenette), the images of a class may lie in its folder `images`, and
`val/images` goes with `val/val_annotations.txt` (Tiny-ImageNet, whose `test` has no labels and is left
alone). Where there is only `<folder>/<class>/…`, a fifth is held out, chosen by the digest of each file's
name, so that it is the same fifth everywhere. Without `train` a folder is for weights that are given.

An image is prepared as torchvision's pretrained models expect it: its shorter side to 256/224 of the image
size, bilinearly, then the middle cut out. One that has the image size already is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from farm.datasets import Split, Support
from farm.errors import BadInput, shorten

SUPPORT = Support(summary="your own labelled images: image_folder:NAME in FARM_DATASETS_DIR", needs_folder=True)

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

#: ImageNet's channel means and deviations, which torchvision's pretrained weights expect.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]

#: Part of the digest: changes with how images are prepared, so that nothing made from others is taken for it.
PREPARED = b"shorter side to 256/224, middle cut out\0"

#: Which image of Tiny-ImageNet's `val/images` shows what: file name, wnid and a box, separated by tabs.
ANNOTATIONS = "val_annotations.txt"
#: Its classes; read only where there is no `train`.
CLASSES = "wnids.txt"

#: Folders beneath the dataset's own: part, class, `images`.
_DEEPEST = 3
#: An image this many times as long as it is wide would be gigantic once its shorter side is enlarged.
_THINNEST = 50

#: An image's path and its class.
_Labelled = tuple[str, str]


class Images:
    """Images that are read when they are asked for."""

    def __init__(self, files: list[str], side: int) -> None:
        self.files = files
        self.side = side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """float32, (chosen, 3, side, side)."""
        indices = np.arange(len(self.files))[chosen]
        return np.stack([_read(self.files[i], self.side) for i in indices])


def load(part: str, image_size: int, folder: Path | None) -> Split:
    """One part of the folder, its classes sorted.

    Raises:
        BadInput: no images, fewer than two classes, or labels that are not there or make no sense.
    """
    assert folder is not None
    try:
        classes, found = _found(folder, part)
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be read: {(error.strerror or str(error)).lower()}."
        ) from None
    if len(classes) < 2 or not found:
        raise BadInput(
            f"{folder} has no {part} images of at least two classes. Expected {part}/CLASS/IMAGE or "
            f"CLASS/IMAGE, with images ending in {', '.join(ENDINGS)}."
        )
    number = {name: place for place, name in enumerate(classes)}
    strange = sorted({name for _, name in found} - set(classes))
    if strange:
        raise BadInput(
            f"{folder} has {part} images of classes that train has not: {shorten(strange)}. "
            f"Classes of train: {shorten(classes)}."
        )
    labels = np.fromiter((number[name] for _, name in found), dtype=np.int64, count=len(found))
    return Split(images=Images([file for file, _ in found], image_size), labels=labels, classes=tuple(classes))


def digest(folder: Path) -> str:
    """sha256 over every image's path, size and first 4 KiB: a change of content shows, at little cost.

    What labels images beside folders' names goes into it whole, and so does how images are prepared.
    """
    total = hashlib.sha256(PREPARED)
    try:
        for name in (f"val/{ANNOTATIONS}", CLASSES):
            if (folder / name).is_file():
                total.update(f"{name}\0".encode() + hashlib.sha256((folder / name).read_bytes()).digest())
        for name in _walk(str(folder), "", 0):
            with open(f"{folder}/{name}", "rb", buffering=0) as stream:  # noqa: PTH123  # a million of them
                total.update(f"{name}\0{os.fstat(stream.fileno()).st_size}\0".encode() + stream.read(4096))
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be read: {(error.strerror or str(error)).lower()}."
        ) from None
    return total.hexdigest()


def _walk(root: str, beneath: str, depth: int) -> Iterator[str]:
    """The images below a folder, relative to it, in an order that is the same everywhere."""
    for entry in _entries(f"{root}/{beneath}"):
        if _is_image(entry):
            yield f"{beneath}{entry.name}"
        elif depth < _DEEPEST and entry.is_dir():
            yield from _walk(root, f"{beneath}{entry.name}/", depth + 1)


def _found(folder: Path, part: str) -> tuple[list[str], list[_Labelled]]:
    """The classes, and the images of a part with theirs."""
    train, test = folder / "train", _test_folder(folder)
    if not train.is_dir() and test is None:
        everything = _in_classes(folder)
        return _folders(folder), [found for found in everything if _held_out(found[0], folder) == (part == "test")]
    if part == "train" and not train.is_dir():
        raise BadInput(
            f"{folder} has no train/CLASS/IMAGE: it can test weights that are given (--weights), but neither "
            f"train nor calibrate a quantization."
        )
    classes = _folders(train) if train.is_dir() else _classes_of_test(folder, test)
    if part == "train":
        return classes, _in_classes(train)
    return classes, [] if test is None else _of_test(test, set(classes))


def _test_folder(folder: Path) -> Path | None:
    """The part with labels that is for testing; an unlabelled `test` is none."""
    for test in (folder / "test", folder / "val"):
        if test.is_dir() and (_is_annotated(test) or set(_folders(test)) - {"images"}):
            return test
    if (folder / "val/images").is_dir():
        raise BadInput(
            f"{folder / 'val' / ANNOTATIONS} is missing: it says what each image of val/images shows, one line "
            f"for each: file name, tab, class. It comes with Tiny-ImageNet; unpack that again."
        )
    return None


def _is_annotated(test: Path) -> bool:
    return (test / "images").is_dir() and (test / ANNOTATIONS).is_file()


def _classes_of_test(folder: Path, test: Path | None) -> list[str]:
    assert test is not None
    if not _is_annotated(test):
        return _folders(test)
    listed = folder / CLASSES
    if listed.is_file():
        return sorted(set(_text(listed).split()))
    return sorted({name for name, *_ in _annotations(test / ANNOTATIONS).values()})


def _of_test(test: Path, classes: set[str]) -> list[_Labelled]:
    return _annotated(test, classes) if _is_annotated(test) else _in_classes(test)


def _annotated(test: Path, classes: set[str]) -> list[_Labelled]:
    """The images of `images`, with the classes that the annotations say."""
    source = test / ANNOTATIONS
    said = _annotations(source)
    for name, (wnid, line) in said.items():
        if wnid not in classes:
            raise BadInput(
                f"{source}, line {line}: {name} shows {wnid!r}, which train has not. "
                f"Classes of train: {shorten(sorted(classes), 6)}."
            )
    there = [entry.name for entry in _entries(str(test / "images")) if _is_image(entry)]
    unnamed, gone = sorted(set(there) - set(said)), sorted(set(said) - set(there))
    if unnamed:
        raise BadInput(f"{source} does not say what these images show: {shorten(unnamed, 6)}. Unpack it again.")
    if gone:
        raise BadInput(
            f"{source} names images that {test / 'images'} has not: {shorten(gone, 6)}. Unpack it again."
        )
    return [(f"{test}/images/{name}", said[name][0]) for name in there]


def _annotations(source: Path) -> dict[str, tuple[str, int]]:
    """The class that each image shows, and the line that says so."""
    said: dict[str, tuple[str, int]] = {}
    for line, text in enumerate(_text(source).splitlines(), start=1):
        if not text.strip():
            continue
        name, *rest = text.split("\t")
        if not name or not rest or not rest[0].strip():
            raise BadInput(
                f"{source}, line {line}: a file name, a tab and a class are expected, not {text[:60]!r}."
            )
        if said.setdefault(name, (rest[0].strip(), line))[0] != rest[0].strip():
            raise BadInput(f"{source}, line {line}: {name} shows {rest[0]!r} here and {said[name][0]!r} before.")
    return said


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except ValueError:
        raise BadInput(f"{file} is no text: it is damaged. Unpack it again.") from None


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in _entries(str(root)) if entry.is_dir()]


def _in_classes(root: Path) -> list[_Labelled]:
    """The images in `CLASS` and in `CLASS/images`."""
    found: list[_Labelled] = []
    for name in _folders(root):
        within = _entries(f"{root}/{name}")
        found += [(f"{root}/{name}/{entry.name}", name) for entry in within if _is_image(entry)]
        if any(entry.name == "images" and entry.is_dir() for entry in within):
            deeper = _entries(f"{root}/{name}/images")
            found += [(f"{root}/{name}/images/{entry.name}", name) for entry in deeper if _is_image(entry)]
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to one, with an image's ending; a link that leads nowhere is none."""
    return os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file()  # noqa: PTH122  # as above


def _held_out(file: str, root: Path) -> bool:
    return hashlib.sha256(os.path.relpath(file, root).encode()).digest()[0] < 256 // 5


def _read(file: str, side: int) -> np.ndarray:
    """The image at this size, normalized: float32, (3, side, side)."""
    try:
        with Pillow.open(file) as image:
            fitted = _fitted(image.convert("RGB"), side, file)
    except (UnidentifiedImageError, Pillow.DecompressionBombError, OSError, SyntaxError) as error:
        raise BadInput(f"Image {file} cannot be read: {error}. Remove or mend it.") from None
    pixels = np.asarray(fitted, dtype=np.float32).transpose(2, 0, 1) / 255
    normalized: np.ndarray = (pixels - MEAN) / STD
    return normalized


def _fitted(image: Pillow.Image, side: int, file: str) -> Pillow.Image:
    """As torchvision's Resize and CenterCrop do it, to the pixel."""
    if image.size == (side, side):
        return image
    if max(image.size) > _THINNEST * min(image.size):
        raise BadInput(f"Image {file} is too thin: {image.width}×{image.height} pixels. Remove or crop it.")
    short, least = round(side * 256 / 224), min(image.size)
    width, height = (short if length == least else int(short * length / least) for length in image.size)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    resized = image.resize((width, height), Pillow.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))
