"""Random images without labels: for speed alone. No accuracy is ever stated, only agreement with fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from farm.datasets import Split, Support

SUPPORT = Support(summary="random images, no labels: agreement with fp32 instead of accuracy", labelled=False)

SAMPLES = 64
CLASSES = 1000
SEED = 0


def load(part: str, image_size: int, folder: Path | None) -> Split:
    """The same random images every time, others for each part; there is nothing to train on."""
    shape = (SAMPLES, 3, image_size, image_size)
    seed = SEED if part == "test" else SEED + 1
    images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return Split(images=images, labels=None, classes=tuple(f"class{i}" for i in range(CLASSES)))
