"""The accuracy pass: through the callable, at its batch size, against real labels or none."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from farm import measuring
from farm.datasets import Split
from farm.passes import accuracy, latency
from tests import factories

CLASSES = 10


class Table:
    """A session whose answer to an image is the row that the image's first pixel names."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits
        self.batches: list[int] = []

    def to_device(self, host: np.ndarray) -> np.ndarray:
        self.batches.append(len(host))
        return host

    def run(self, on_device: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.logits[on_device[:, 0, 0, 0].astype(int)]
        return rows

    def to_host(self, output: np.ndarray) -> np.ndarray:
        return output

    def evidence(self, on_device: Any) -> Mapping[str, Any]:
        return {}


def part(labels: np.ndarray | None, samples: int) -> Split:
    images = np.broadcast_to(np.arange(samples, dtype=np.float32)[:, None, None, None], (samples, 3, 4, 4))
    return Split(images=images, labels=labels, classes=tuple("0123456789"))


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((23, CLASSES))


@pytest.mark.parametrize("batch_size", [1, 8, 23, 64])
def test_every_sample_counts_once_at_any_batch_size(logits: np.ndarray, batch_size: int) -> None:
    labels = logits.argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % CLASSES
    session = Table(logits)
    found = accuracy.run(session, part(labels, 23), logits, batch_size)
    assert (found.samples, found.top1_correct, found.agreeing) == (23, 20, 23)
    assert set(session.batches) == {batch_size}


def test_top_5_holds_the_label_among_the_five_highest(logits: np.ndarray) -> None:
    ranked = np.argsort(-logits, axis=1)
    assert accuracy.run(Table(logits), part(ranked[:, 4], 23), logits, 8).top5_correct == 23
    assert accuracy.run(Table(logits), part(ranked[:, 5], 23), logits, 8).top5_correct == 0


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_top_5_of_so_few_classes_that_it_is_always_right_is_empty_with_a_reason(
    logits: np.ndarray, classes: int
) -> None:
    few = logits[:, :classes]
    test = Split(images=part(None, 23).images, labels=few.argmin(axis=1), classes=tuple("012345"[:classes]))
    found = accuracy.run(Table(few), test, few, 8)
    assert found.top1_correct == 0
    assert found.top5_correct == (None if classes <= 5 else 0)
    ready = cast(measuring.Prepared, SimpleNamespace(test=test, memory=None))
    timed = cast(latency.Latency, SimpleNamespace(contention=factories.contention(), control=None))
    why = measuring._missing(ready, factories.spec(), timed, None).get("accuracy_top5")
    assert why == (f"digits has only {classes} classes" if classes <= 5 else None)


def test_without_labels_there_is_agreement_and_no_accuracy(logits: np.ndarray) -> None:
    found = accuracy.run(Table(logits), part(None, 23), logits, 8)
    assert found.top1_correct is None
    assert found.top5_correct is None
    assert found.agreeing == 23
    assert found.logits_relative_error == 0.0


def test_wrong_answers_show(logits: np.ndarray) -> None:
    labels = logits.argmax(axis=1)
    found = accuracy.run(Table(-logits), part(labels, 23), logits, 8)
    assert found.top1_correct == 0
    assert found.agreeing == 0
    assert found.logits_relative_error == pytest.approx(2.0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_output_that_is_not_finite_shows(logits: np.ndarray, poison: float) -> None:
    broken = logits.copy()
    broken[11, 3] = poison
    found = accuracy.run(Table(broken), part(None, 23), logits, 8)
    assert not found.finite
    assert found.logits_relative_error is None
