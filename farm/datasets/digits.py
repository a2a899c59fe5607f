"""scikit-learn's handwritten digits: 1,797 real images with real labels that come with the package."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farm.datasets import Split, Support

SUPPORT = Support(summary="1,797 handwritten digits with real labels, offline (scikit-learn)", image_size=64)

#: Half of the images are held out, so that accuracy has an interval worth reading.
TEST_SIZE = 899
SEED = 0


def load(part: str, image_size: int, folder: Path | None) -> Split:
    """The digits, enlarged bilinearly to the image size, as three equal channels in [-1, 1]."""
    pixels, labels = _read()
    order = np.random.default_rng(SEED).permutation(len(labels))
    chosen = np.sort(order[:TEST_SIZE] if part == "test" else order[TEST_SIZE:])
    return Split(images=_Enlarged(pixels[chosen], image_size), labels=labels[chosen], classes=tuple("0123456789"))


@dataclass(frozen=True)
class _Enlarged:
    """Images that are enlarged when they are asked for: a repeat looks at a few of them only."""

    pixels: np.ndarray
    side: int

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        small = self.pixels[chosen]
        if small.ndim == 2:
            return _enlarge(small, self.side)
        return np.stack([_enlarge(image, self.side) for image in small])


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """All images, (1797, 8, 8) from 0 to 16, and their labels.

    From scikit-learn's file and not through it: importing it takes longer than measuring a job.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    with gzip.open(file, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _enlarge(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    large = Image.fromarray(image.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    plane = np.asarray(large, dtype=np.float32) / 8 - 1
    return np.broadcast_to(plane, (3, side, side)).astype(np.float32)
