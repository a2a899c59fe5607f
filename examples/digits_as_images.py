"""Writes scikit-learn's digits as PNG files, `FOLDER/CLASS/NUMBER.png`: an image folder to try things on.

python examples/digits_as_images.py .farm/datasets/my-digits
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main(folder: Path) -> None:
    """Writes the 1,797 images."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((64, 64)).save(file)
    print(f"{len(digits.images):,} images of {len(digits.target_names)} classes in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
