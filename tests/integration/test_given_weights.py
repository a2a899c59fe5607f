"""Jobs with given weights, measured for real: nothing is trained, and right answers count as right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from farm import building, datasets, measuring, models, training
from farm.datasets import image_folder
from farm.errors import BadInput, FarmError
from farm.measurement import Measurement
from farm.settings import Settings
from farm.spec import JobSpec, Protocol, job

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
WNIDS = datasets.imagenet_wnids()
PROTOCOL = Protocol(
    name="test",
    warmup_min_s=0.0,
    warmup_max_s=0.1,
    min_s=0.05,
    max_s=0.1,
    target_half_width=5,
    paired=False,
    accuracy_samples=30,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    def train(*given: Any) -> Any:
        raise AssertionError("with given weights nothing is trained")

    monkeypatch.setattr(training, "train", train)
    return Settings(data_dir=tmp_path / "data")


def thousand() -> Any:
    """A model with ImageNet's outputs whose answers depend on what it sees."""
    torch.manual_seed(0)
    model = models.create("resnet18", 1000, SIZE)
    torch.nn.init.normal_(model.fc.weight)
    return model


def what_it_sees(folder: Path, model: Any, count: int = 40) -> None:
    """Writes images into `val`, each in the class that the model takes it for: right answers by construction."""
    numbers = np.random.default_rng(0)
    for i in range(count):
        tile = numbers.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(tile).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
        with torch.inference_mode():
            seen = model(torch.from_numpy((pixels - image_folder.MEAN) / image_folder.STD)[None]).argmax().item()
        file = folder / "val" / WNIDS[seen] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)


def spec(recipe: str = "baseline", **fields: Any) -> JobSpec:
    given = {
        "model": "resnet18",
        "image_size": SIZE,
        "batch_size": 4,
        "protocol": PROTOCOL,
        "threads": 1,
        **fields,
    }
    return job(recipe=recipe, **given)


def measured(asked: JobSpec, settings: Settings) -> Measurement:
    building.build(asked, settings)
    return measuring.measure_here(asked, settings)


def farm(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "farm", "measure", *arguments, "--threads", "1"]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def kept(model: Any, settings: Settings) -> str:
    """The spec's word for a file with this model's state, which lies where files of weights are kept."""
    file = settings.weights / "new"
    file.parent.mkdir(parents=True)
    save_file(dict(model.state_dict()), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(settings.weights / f"{digest}.safetensors")
    return f"sha256:{digest}"


@pytest.mark.parametrize("recipe", ["baseline", "channels_last+torchscript"])
def test_a_part_of_imagenet_is_mapped_by_wnid_to_the_thousand_outputs(recipe: str, settings: Settings) -> None:
    model = thousand()
    what_it_sees(settings.datasets / "some", model)
    classes = datasets.load("image_folder:some", "test", SIZE, settings.datasets).classes
    assert len(classes) >= 3
    value = kept(model, settings)
    found = measured(spec(recipe, dataset="image_folder:some", weights=value), settings)
    assert found.evidence["weights"] == f"file {value}"
    assert found.accuracy.classes == 1000
    assert (found.accuracy.top1_correct, found.accuracy.top5_correct, found.accuracy.samples) == (30, 30, 30)


def test_pretrained_weights_are_measured_on_random_images(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.save(thousand().state_dict(), tmp_path / "new")
    name = f"resnet18-{hashlib.sha256((tmp_path / 'new').read_bytes()).hexdigest()[:8]}.pth"
    (tmp_path / "new").rename(tmp_path / name)
    member = torchvision.models.ResNet18_Weights.DEFAULT
    there = torchvision.models._api.Weights((tmp_path / name).as_uri(), member.value.transforms, member.value.meta)
    monkeypatch.setattr(member, "_value_", there)
    found = measured(spec(dataset="synthetic", weights="pretrained"), settings)
    assert found.evidence["weights"] == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert found.accuracy.agreeing == found.accuracy.samples == 30
    assert found.accuracy.top1_correct is None


def test_a_host_without_the_file_says_which_and_where(settings: Settings) -> None:
    with pytest.raises(BadInput) as refused:
        building.build(spec(dataset="synthetic", weights=f"sha256:{'a' * 64}"), settings)
    assert all(part in str(refused.value) for part in ("a" * 64, str(settings.weights), "FARM_WEIGHTS_DIR"))


def test_a_folder_for_testing_cannot_calibrate(settings: Settings) -> None:
    model = thousand()
    what_it_sees(settings.datasets / "some", model, 12)
    asked = spec("int8_static+onnxruntime", dataset="image_folder:some", weights=kept(model, settings))
    with pytest.raises(BadInput, match="neither train nor calibrate"):
        building.build(asked, settings)


def test_a_size_that_the_model_cannot_take_is_said_before_training(settings: Settings) -> None:
    with pytest.raises(BadInput, match="inception_v3 cannot take images of 64×64 pixels"):
        building.build(spec(model="inception_v3"), settings)


def test_the_command_takes_a_file_and_keeps_it(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "mine.pth"
    torch.save(models.create("mobilenet_v3_small", 10, SIZE).state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    model = ("--model", "mobilenet_v3_small", "--weights", str(file), "--sha256")
    refused = farm(*model, "0" * 64, FARM_DATA_DIR=str(data))
    assert refused.returncode == 2
    assert "as --sha256 says" in refused.stderr
    assert not data.exists()
    done = farm(*model, digest, "--eval-samples", "20", "--set", "min_s=0.1", FARM_DATA_DIR=str(data))
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended["evidence"]["weights"] == f"file sha256:{digest}"
    assert ended["spec"]["weights"] == f"sha256:{digest}"
    assert ended["accuracy"]["samples"] == 20
    assert [path.name for path in (data / "weights").iterdir()] == [f"{digest}.pth"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--eval-samples", "0"], "--eval-samples 0"),
        (["--eval-samples", "some"], "or 'all' for every one"),
        (["--weights", "gone.pth"], "gone.pth is not there"),
        (["--weights", "pretrained"], "digits' has others"),
        (["--model", "vit_b_16", "--image-size", "70"], "multiples of 16; nearest: 64 or 80"),
    ],
)
def test_bad_input_ends_with_2_and_no_traceback(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = farm(*arguments, FARM_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_the_command_ends_with_an_error_and_measures_no_random_model(tmp_path: Path) -> None:
    closed = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")
    variables = {**closed, "no_proxy": "", "NO_PROXY": "", "TORCH_HOME": str(tmp_path / "torch")}
    asked = ("--dataset", "synthetic", "--image-size", "32", "--weights", "pretrained")
    done = farm(*asked, **variables, FARM_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 2
    assert "densenet121-a639ec97.pth" in done.stderr
    assert "--weights FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "data/artifacts").glob("*/weights.safetensors"))


def test_the_example_package_is_installed_and_measured(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(ROOT / "examples/my-models", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(target), str(source)], check=True)
    asked = ("--model", "my_small_cnn", "--image-size", "32", "--batch-size", "2", "--eval-samples", "50")
    done = farm(*asked, FARM_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended["model_variant"] == "my_small_cnn_baseline"
    assert ended["evidence"]["weights"] == "trained here"
    assert ended["accuracy"]["top1"] > 0.3
    done = farm(*asked, "--weights", "pretrained", FARM_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(target))
    assert done.returncode == 2
    assert "'my_small_cnn' of my-models 1.0 has no published weights" in done.stderr


def test_other_weights_versions_and_sources_have_other_keys(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(asked: JobSpec) -> str:
        return building._Plan(asked, settings, building.environment_of(asked, settings)).weights_key

    asked = spec(dataset="synthetic")
    keys = {key(asked)} | {key(spec(dataset="synthetic", weights=w)) for w in ("pretrained", f"sha256:{'a' * 64}")}
    monkeypatch.setattr(models, "fingerprint", lambda name: {"version": 2})
    assert len(keys | {key(asked)}) == 4


def test_another_version_of_a_model_than_was_submitted_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(dataset="synthetic").model_copy(update={"model_digest": "a" * 64})
    monkeypatch.setattr(models, "digest", lambda name: "b" * 64)
    with pytest.raises(BadInput, match="'resnet18' here is not the one that was submitted"):
        building.build(asked, settings)


def test_a_damaged_file_is_an_error_of_the_build(settings: Settings) -> None:
    value = kept(thousand(), settings)
    file = settings.weights / f"{value.removeprefix('sha256:')}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FarmError, match="is damaged"):
        building.build(spec(dataset="synthetic", weights=value), settings)
