"""The accuracy pass: the very callable that was timed, on the test part, at the same batch size and device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from farm.datasets import Split
from farm.errors import FarmError
from farm.measurement import Accuracy
from farm.runtimes import Session

#: Of so many classes or fewer the right one is always among the first five.
TOO_FEW_FOR_TOP5 = 5


def run(session: Session, test: Split, reference: np.ndarray, batch_size: int) -> Accuracy:
    """Answers for every test image, compared with its label and with the fp32 baseline.

    Args:
        session: what was timed.
        test: images, and labels where there are real ones.
        reference: the fp32 baseline's logits, (samples, classes).
        batch_size: the job's; the last batch is filled up with copies that are not counted.
    """
    logits = np.concatenate(list(_answers(session, test, batch_size, reference.shape[1])))
    finite = bool(np.isfinite(logits).all())
    labels, classes = test.labels, reference.shape[1]
    return Accuracy(
        samples=len(logits),
        classes=classes,
        top1_correct=None if labels is None else correct(logits, labels, 1),
        top5_correct=None if labels is None or classes <= TOO_FEW_FOR_TOP5 else correct(logits, labels, 5),
        baseline_top1_correct=None if labels is None else correct(reference, labels, 1),
        agreeing=int((logits.argmax(axis=1) == reference.argmax(axis=1)).sum()),
        logits_relative_error=_relative_error(logits, reference) if finite else None,
        finite=finite,
    )


def correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many labels are among the k highest logits."""
    highest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return int((highest == labels[:, None]).any(axis=1).sum())


def _answers(session: Session, test: Split, batch_size: int, classes: int) -> Iterator[np.ndarray]:
    for start in range(0, len(test.images), batch_size):
        images = test.images[start : start + batch_size]
        logits = session.to_host(session.run(session.to_device(filled(images, batch_size))))
        if logits.shape != (batch_size, classes):
            raise FarmError(f"The runtime answered with shape {logits.shape}, not {(batch_size, classes)}.")
        yield logits[: len(images)].astype(np.float64)


def filled(images: np.ndarray, size: int) -> np.ndarray:
    """The images, repeated until there are `size` of them."""
    return np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])), dtype=np.float32)


def _relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))
