"""Datasets: the same every time, train and test apart, the user's own folder read as it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farm import datasets
from farm.datasets import digits
from farm.errors import BadInput


def picture(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), color).save(path)


def test_digits_are_real_labels_with_at_least_800_held_out(tmp_path: Path) -> None:
    train, test = (datasets.load("digits", part, 64, tmp_path) for part in ("train", "test"))
    assert train.labels is not None
    assert test.labels is not None
    assert len(test.images) == len(test.labels) >= 800
    assert test.images[:2].shape == (2, 3, 64, 64)
    assert test.images[:2].dtype == np.float32
    assert set(test.labels) == set(range(10))


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = digits._read()
    assert np.array_equal(pixels, load_digits().images)
    assert np.array_equal(labels, load_digits().target)


def test_no_digit_is_both_trained_on_and_tested(tmp_path: Path) -> None:
    train, test = (datasets.load("digits", part, 32, tmp_path) for part in ("train", "test"))
    seen = {train.images[i : i + 1].tobytes() for i in range(len(train.images))}
    again = [i for i in range(len(test.images)) if test.images[i : i + 1].tobytes() in seen]
    assert again == []


def test_synthetic_has_no_labels_and_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (datasets.load("synthetic", "test", 32, tmp_path) for _ in range(2))
    assert first.labels is None
    assert np.array_equal(first.images[:4], second.images[:4])


def test_a_folder_with_parts_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        picture(tmp_path / "pets/train" / name / "1.png", color)
        picture(tmp_path / "pets/val" / name / "2.png", color)
    test = datasets.load("image_folder:pets", "test", 32, tmp_path)
    assert test.classes == ("cat", "dog")
    assert test.labels is not None
    assert test.labels.tolist() == [0, 1]
    red, blue = test.images[np.array([0, 1])]
    assert red[0].mean() > red[2].mean()
    assert blue[0].mean() < blue[2].mean()


def test_a_folder_without_parts_holds_the_same_images_out_everywhere(tmp_path: Path) -> None:
    for root in ("one/pets", "two/pets"):
        for name in ("cat", "dog"):
            for i in range(20):
                picture(tmp_path / root / name / f"{i}.png", (i, i, i))
    sizes = []
    for root in ("one", "two"):
        train, test = (datasets.load("image_folder:pets", part, 32, tmp_path / root) for part in ("train", "test"))
        assert len(train.images) + len(test.images) == 40
        assert 0 < len(test.images) < 20
        assert test.labels is not None
        sizes.append(test.labels.tolist())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("change", ["add", "edit", "remove"])
def test_the_digest_of_a_folder_shows_a_change(tmp_path: Path, change: str) -> None:
    for i in range(3):
        picture(tmp_path / f"pets/cat/{i}.png", (i, 0, 0))
    before = datasets.digest("image_folder:pets", tmp_path)
    if change == "add":
        picture(tmp_path / "pets/cat/9.png", (9, 0, 0))
    elif change == "edit":
        picture(tmp_path / "pets/cat/1.png", (200, 0, 0))
    else:
        (tmp_path / "pets/cat/1.png").unlink()
    assert before is not None
    assert datasets.digest("image_folder:pets", tmp_path) != before


def test_what_is_not_there_or_not_an_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        datasets.load("image_folder:pets", "test", 32, tmp_path)
    (tmp_path / "pets").mkdir()
    with pytest.raises(BadInput, match="at least two classes"):
        datasets.load("image_folder:pets", "test", 32, tmp_path)
    for name in ("cat", "dog"):
        picture(tmp_path / "pets/train" / name / "1.png", (0, 0, 0))
        picture(tmp_path / "pets/test" / name / "1.png", (0, 0, 0))
    (tmp_path / "pets/test/dog/1.png").write_text("not an image")
    with pytest.raises(BadInput, match=r"1\.png cannot be read"):
        datasets.load("image_folder:pets", "test", 32, tmp_path).images[:2]


def test_test_images_of_a_class_that_was_not_trained_are_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "pets/train" / name / "1.png", (0, 0, 0))
    picture(tmp_path / "pets/test/bird/1.png", (0, 0, 0))
    with pytest.raises(BadInput, match=r"classes that train has not: bird\. Classes of train: cat, dog"):
        datasets.load("image_folder:pets", "test", 32, tmp_path)


def test_only_files_are_images(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "pets/train" / name / "1.png", (0, 0, 0))
        (tmp_path / "pets/train" / name / "folder.jpg").mkdir()
        (tmp_path / "pets/train" / name / "gone.png").symlink_to(tmp_path / "nowhere.png")
    train = datasets.load("image_folder:pets", "train", 32, tmp_path)
    assert len(train.images) == 2
    assert datasets.digest("image_folder:pets", tmp_path) is not None


def test_an_image_too_large_to_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("cat", "dog"):
        picture(tmp_path / "pets/train" / name / "1.png", (0, 0, 0))
    with pytest.raises(BadInput, match=r"1\.png cannot be read"):
        datasets.load("image_folder:pets", "train", 32, tmp_path).images[:1]
