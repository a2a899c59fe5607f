"""Datasets: the same every time, train and test apart, the user's own folder read as it lies."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm import datasets
from farm.datasets import digits, image_folder
from farm.errors import BadInput

WNIDS = ("n01443537", "n01629819", "n02124075")


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


def tiny(root: Path, wnids: tuple[str, ...] = WNIDS) -> Path:
    """Tiny-ImageNet as it comes, with three classes."""
    folder = root / "tiny"
    lines = []
    for place, wnid in enumerate(wnids):
        for i in range(2):
            picture(folder / f"train/{wnid}/images/{wnid}_{i}.JPEG", (80 * place, 0, 0))
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    # The pictures' order is not the classes'.
    for number, place in enumerate((2, 0, 1, 2)):
        picture(folder / f"val/images/val_{number}.JPEG", (80 * place, 0, 0))
        lines.append(f"val_{number}.JPEG\t{wnids[place]}\t0\t32\t44\t62\n")
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    picture(folder / "test/images/test_0.JPEG", (9, 9, 9))
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    return folder


def labels(root: Path, dataset: str = "image_folder:tiny") -> list[int]:
    found = datasets.load(dataset, "test", 32, root).labels
    assert found is not None
    return [int(label) for label in found]


def test_tiny_imagenet_is_taken_as_it_comes(tmp_path: Path) -> None:
    tiny(tmp_path)
    train, test = (datasets.load("image_folder:tiny", part, 32, tmp_path) for part in ("train", "test"))
    assert train.classes == test.classes == WNIDS
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert labels(tmp_path) == [2, 0, 1, 2]
    reds = test.images[:][:, 0].mean(axis=(1, 2))
    assert np.argsort(reds, kind="stable").tolist() == [1, 2, 0, 3]


def test_tiny_imagenet_without_train_has_the_classes_that_it_lists(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    (folder / "train").rename(tmp_path / "elsewhere")
    assert labels(tmp_path) == [2, 0, 1, 2]
    (folder / "wnids.txt").unlink()
    assert labels(tmp_path) == [2, 0, 1, 2]
    with pytest.raises(BadInput, match="neither train nor calibrate"):
        datasets.load("image_folder:tiny", "train", 32, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: None, r"val_annotations\.txt is missing"),
        (lambda text: text.replace("\t", " "), "line 1: a file name, a tab and a class are expected"),
        (lambda text: text.splitlines(keepends=True)[0], r"does not say what these images show: val_1\.JPEG"),
        (lambda text: text + "val_9.JPEG\tn01443537\n", r"names images that .* has not: val_9\.JPEG"),
        (
            lambda text: text.replace(WNIDS[2], "n09999999"),
            "line 1: val_0.JPEG shows 'n09999999', which train has not",
        ),
        (lambda text: text + f"val_0.JPEG\t{WNIDS[0]}\n", "line 5: val_0.JPEG shows 'n01443537' here"),
        (lambda text: "\0\udcff", "is no text"),
    ],
)
def test_annotations_that_are_damaged_are_said(tmp_path: Path, change: Any, said: str) -> None:
    annotations = tiny(tmp_path) / "val/val_annotations.txt"
    text = change(annotations.read_text())
    if text is None:
        annotations.unlink()
    else:
        annotations.write_text(text, errors="surrogateescape")
    with pytest.raises(BadInput, match=said):
        datasets.load("image_folder:tiny", "test", 32, tmp_path)


def test_the_digest_shows_a_change_of_annotations_and_of_classes(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    seen = {datasets.digest("image_folder:tiny", tmp_path)}
    for file in (
        folder / "val/val_annotations.txt",
        folder / "wnids.txt",
        folder / "train/n01443537/images/x.JPEG",
    ):
        file.write_text(file.read_text() + "\n" if file.exists() else "x")
        seen.add(datasets.digest("image_folder:tiny", tmp_path))
    assert len(seen) == 4


def test_imagenet_is_taken_as_it_comes(tmp_path: Path) -> None:
    for place, wnid in enumerate(WNIDS):
        picture(tmp_path / f"imagenet/train/{wnid}/{wnid}_1.JPEG", (place, 0, 0))
        picture(tmp_path / f"imagenet/val/{wnid}/ILSVRC2012_val_{9 - place}.JPEG", (place, 0, 0))
    picture(tmp_path / "imagenet/test/ILSVRC2012_test_1.JPEG", (0, 0, 0))
    assert labels(tmp_path, "image_folder:imagenet") == [0, 1, 2]


def test_a_folder_with_val_alone_is_for_given_weights(tmp_path: Path) -> None:
    for wnid in WNIDS:
        picture(tmp_path / f"only/val/{wnid}/1.JPEG", (0, 0, 0))
    assert labels(tmp_path, "image_folder:only") == [0, 1, 2]
    with pytest.raises(BadInput, match="weights that are given"):
        datasets.load("image_folder:only", "train", 32, tmp_path)


@pytest.mark.parametrize("size", [(50, 40), (40, 51), (300, 200), (37, 37), (500, 375)])
@pytest.mark.parametrize("side", [32, 64, 224])
def test_images_are_prepared_as_torchvision_does_it(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    from torchvision.transforms._presets import ImageClassification

    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / f"pets/test/{name}").mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / f"pets/test/{name}/1.png")
    ours = datasets.load("image_folder:pets", "test", side, tmp_path).images[:1][0]
    preset = ImageClassification(crop_size=side, resize_size=round(side * 256 / 224))
    assert np.allclose(ours, preset(Image.fromarray(noise)).numpy(), atol=1e-6)


def test_an_image_of_the_size_asked_for_is_taken_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / f"pets/test/{name}").mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / f"pets/test/{name}/1.png")
    ours = datasets.load("image_folder:pets", "test", 64, tmp_path).images[:1][0]
    assert np.allclose(ours * image_folder.STD + image_folder.MEAN, noise.transpose(2, 0, 1) / 255, atol=1e-6)


def test_an_image_too_thin_to_be_enlarged_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"pets/test/{name}").mkdir(parents=True)
        Image.new("RGB", (1, 5000)).save(tmp_path / f"pets/test/{name}/1.png")
    with pytest.raises(BadInput, match="too thin: 1×5000"):
        datasets.load("image_folder:pets", "test", 64, tmp_path).images[:1]


def test_images_that_are_drawn_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / f"pets/test/{name}/1.png", (0, 0, 0))
    (tmp_path / "pets/test/dog/1.png").write_text("not an image")
    both = datasets.load("image_folder:pets", "test", 32, tmp_path)
    drawn = datasets.drawn(both, np.array([1, 0]))
    assert drawn.labels is not None
    assert drawn.labels.tolist() == [1, 0]
    assert drawn.images[1:2].shape == (1, 3, 32, 32)
    with pytest.raises(BadInput, match="cannot be read"):
        drawn.images[np.array([0])]


def test_tens_of_thousands_of_images_take_seconds_and_little_memory(tmp_path: Path) -> None:
    count = 30_000
    for place in range(10):
        (tmp_path / f"many/val/n{place:08}").mkdir(parents=True)
    for i in range(count):
        (tmp_path / f"many/val/n{i % 10:08}/{i}.JPEG").write_bytes(b"%d" % i)
    began = time.monotonic()
    assert len(datasets.load("image_folder:many", "test", 32, tmp_path).images) == count
    first = datasets.digest("image_folder:many", tmp_path)
    # ImageNet has 43 times as many: ten minutes at this limit, which is far from what it takes.
    assert time.monotonic() - began < 14
    (tmp_path / "many/val/n00000003/3.JPEG").write_bytes(b"another")
    tracemalloc.start()
    assert datasets.digest("image_folder:many", tmp_path) != first
    # A folder's names at a time, not the whole dataset's.
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
