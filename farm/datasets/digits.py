"""scikit-learn's handwritten digits: 1,797 real images with real labels that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from farm.datasets import Split, Support

SUPPORT = Support(summary="1,797 handwritten digits with real labels, offline (scikit-learn)", image_size=64)

#: Half of the images are held out, so that accuracy has an interval worth reading.
TEST_SIZE = 899
SEED = 0


def load(part: str, image_size: int, folder: Path | None) -> Split:
    """The digits, enlarged bilinearly to the image size, as three equal channels in [-1, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, test = train_test_split(indices, test_size=TEST_SIZE, random_state=SEED, stratify=digits.target)
    chosen = train if part == "train" else test
    images = np.stack([_enlarge(digits.images[i], image_size) for i in chosen])
    labels = digits.target[chosen].astype(np.int64)
    return Split(images=images, labels=labels, classes=tuple(str(name) for name in digits.target_names))


def _enlarge(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    large = Image.fromarray(image.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    plane = np.asarray(large, dtype=np.float32) / 8 - 1
    return np.broadcast_to(plane, (3, side, side)).astype(np.float32)
