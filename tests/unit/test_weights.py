"""Given weights: known by their digest, whole or not at all, and never those of another model."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from farm import datasets, models, weights
from farm.datasets import Split
from farm.errors import BadInput, FarmError
from farm.models import torchvision_zoo
from farm.settings import Settings
from producer import submit
from tests import factories

ROOT = Path(__file__).resolve().parents[2]
NAME, SIZE = "mobilenet_v3_small", 32
WNIDS = datasets.imagenet_wnids()


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def state_of(classes: int, name: str = NAME) -> dict[str, Any]:
    torch.manual_seed(classes)
    return dict(models.create(name, classes, SIZE).state_dict())


def data(classes: tuple[str, ...], labelled: bool = True) -> Split:
    images = np.zeros((2, 3, SIZE, SIZE), dtype=np.float32)
    return Split(images=images, labels=np.array([0, 1]) if labelled else None, classes=classes)


def kept(tmp_path: Path, state: Any, ending: str = ".pth") -> str:
    """A file with this state in the folder of weights; the spec's word for it."""
    file = tmp_path / f"mine{ending}"
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    value, path = weights.named(str(file), None)
    assert value is not None
    assert path == file
    weights.keep(value, file, tmp_path / "weights")
    return value


def loaded(tmp_path: Path, value: str, given: Split, name: str = NAME) -> tuple[Any, tuple[str, ...], str]:
    return weights.load(value, name, SIZE, given, "image_folder:x", tmp_path / "weights")


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt"])
def test_a_file_is_known_by_its_digest_and_loads_as_it_was(tmp_path: Path, ending: str) -> None:
    state = state_of(3)
    value = kept(tmp_path, state, ending)
    suffix = ".safetensors" if ending == ".safetensors" else ".pth"
    digest = digest_of(tmp_path / f"mine{ending}")
    assert value == f"sha256:{digest}"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [f"{digest}{suffix}"]
    model, classes, origin = loaded(tmp_path, value, data(("a", "b", "c")))
    assert classes == ("a", "b", "c")
    assert origin == f"file {value}"
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_a_file_with_the_wrong_ending_is_kept_under_the_right_one(tmp_path: Path) -> None:
    state = state_of(10)
    torch.save(state, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "b.pt")
    for file, ending in ((tmp_path / "a.safetensors", ".pth"), (tmp_path / "b.pt", ".safetensors")):
        value, path = weights.named(str(file), None)
        assert value is not None
        assert path is not None
        assert weights.keep(value, path, tmp_path / "weights").suffix == ending
        assert set(weights.read(weights.locate(value, tmp_path / "weights"))) == set(state)


def test_another_digest_than_expected_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"x")
    digest = digest_of(file)
    assert weights.named(str(file), digest.upper()) == (f"sha256:{digest}", file)
    with pytest.raises(BadInput, match=f"its sha256 is {digest}, not {'0' * 64} as --sha256 says"):
        weights.named(str(file), "0" * 64)
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        weights.named(str(file), "abc")


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("gone.pth", None, "gone.pth is not there"),
        (".", None, "is no file"),
        ("notes.txt", None, "ends in .safetensors, .pt, .pth"),
        ("pretrained", "0" * 64, "--sha256 belongs to a file"),
        (None, "0" * 64, "--sha256 belongs to a file"),
        ("sha256:abc", None, "64 hexadecimal digits"),
    ],
)
def test_what_names_no_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("x")
    with pytest.raises(BadInput) as refused:
        weights.named(text, expected)
    assert said in str(refused.value)


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "mine.pth", tmp_path / "weights"
    file.write_bytes(b"before")
    value, _ = weights.named(str(file), None)
    assert value is not None
    file.write_bytes(b"after!")
    with pytest.raises(BadInput, match="changed while it was copied"):
        weights.keep(value, file, folder)
    assert list(folder.iterdir()) == []
    file.write_bytes(b"before")
    damaged = folder / f"{value.removeprefix('sha256:')}.pth"
    damaged.write_bytes(b"other")
    assert weights.keep(value, file, folder).read_bytes() == b"before"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="FARM_WEIGHTS_DIR"):
        weights.keep(value, file, tmp_path / "file/weights")


def test_a_host_without_the_file_says_which_where_and_what_to_set(tmp_path: Path) -> None:
    value = f"sha256:{'a' * 64}"
    with pytest.raises(BadInput) as refused:
        weights.locate(value, tmp_path)
    assert all(part in str(refused.value) for part in (value, str(tmp_path), "FARM_WEIGHTS_DIR"))


def test_a_kept_file_that_was_changed_is_noticed(tmp_path: Path) -> None:
    value = kept(tmp_path, state_of(3))
    weights.locate(value, tmp_path / "weights").write_bytes(b"other")
    with pytest.raises(FarmError, match="is damaged: its sha256 is"):
        loaded(tmp_path, value, data(("a", "b", "c")))


def test_what_is_no_state_is_refused_and_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/run",)

    for ending, content, said in (
        (".pth", {"optimizer": 3}, "no state_dict but a mapping of optimizer"),
        (".pth", Evil(), "cannot be read as weights"),
    ):
        with pytest.raises(BadInput, match=said):
            loaded(tmp_path, kept(tmp_path, content, ending), data(("a", "b")))
    assert not (tmp_path / "run").exists()
    for ending in (".pth", ".safetensors"):
        file = tmp_path / f"noise{ending}"
        file.write_bytes(b"noise" * 100)
        value, _ = weights.named(str(file), None)
        assert value is not None
        weights.keep(value, file, tmp_path / "weights")
        with pytest.raises(BadInput, match="cannot be read as weights"):
            loaded(tmp_path, value, data(("a", "b")))


def test_a_checkpoint_of_a_training_script_has_the_state_within(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in state_of(3).items()}
    value = kept(tmp_path, {"model": state, "epoch": 3})
    assert loaded(tmp_path, value, data(("a", "b", "c")))[1] == ("a", "b", "c")


def test_another_number_of_classes_is_said_in_these_words(tmp_path: Path) -> None:
    value = kept(tmp_path, state_of(1000))
    with pytest.raises(BadInput, match="the file has 1,000 classes, the dataset 10"):
        loaded(tmp_path, value, data(tuple("0123456789")))


def test_other_names_and_shapes_are_named_the_first_few(tmp_path: Path) -> None:
    state = state_of(3)
    first, *_ = state
    state["strange.weight"] = state.pop(first)
    with pytest.raises(BadInput, match=rf"it lacks: {first}; it has what the model has not: strange\.weight"):
        loaded(tmp_path, kept(tmp_path, state), data(("a", "b", "c")))
    with pytest.raises(BadInput, match=r"not those of resnet18 at 32×32: it lacks: .*… \(\d+ in all\)"):
        loaded(tmp_path, kept(tmp_path, state_of(3)), data(("a", "b", "c")), "resnet18")


def test_weights_of_another_size_of_a_vision_transformer_say_so(tmp_path: Path) -> None:
    small, large = (models.create("vit_b_32", 3, size) for size in (32, 64))
    with pytest.raises(BadInput, match=r"pos_embedding \(1, 5, 768\) instead of \(1, 2, 768\).*--image-size"):
        weights.put(small, large.state_dict(), "vit_b_32 at 32×32", "a file")


def test_files_without_batch_counters_load(tmp_path: Path) -> None:
    state = {key: value for key, value in state_of(3).items() if "num_batches" not in key}
    assert loaded(tmp_path, kept(tmp_path, state), data(("a", "b", "c")))[1] == ("a", "b", "c")


def test_a_file_with_1000_outputs_is_mapped_by_wnid_for_a_part_of_imagenet_only(tmp_path: Path) -> None:
    value = kept(tmp_path, state_of(1000))
    assert loaded(tmp_path, value, data((WNIDS[7], WNIDS[900])))[1] == WNIDS
    with pytest.raises(BadInput, match="the file has 1,000 classes, the dataset 2"):
        loaded(tmp_path, value, data((WNIDS[7], "n00000001")))
    # As many outputs as classes: they are the dataset's own.
    two = kept(tmp_path, state_of(2))
    assert loaded(tmp_path, two, data((WNIDS[7], WNIDS[900])))[1] == (WNIDS[7], WNIDS[900])


def test_without_labels_any_number_of_outputs_will_do(tmp_path: Path) -> None:
    value = kept(tmp_path, state_of(3))
    unlabelled = data(tuple(f"class{i}" for i in range(1000)), labelled=False)
    assert loaded(tmp_path, value, unlabelled)[1] == ("output0", "output1", "output2")


def test_labels_are_mapped_by_name_and_not_by_place() -> None:
    split = Split(images=np.zeros((3, 1)), labels=np.array([0, 1, 1]), classes=(WNIDS[5], WNIDS[998]))
    mapped = datasets.relabelled(split, WNIDS)
    assert mapped.labels is not None
    assert mapped.labels.tolist() == [5, 998, 998]
    assert mapped.classes == WNIDS


def test_the_classes_of_imagenet_are_a_thousand_in_their_order() -> None:
    assert len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    # tench, goldfish, great white shark … and what torchvision calls the same places
    known = {
        "n01440764": "tench",
        "n02123045": "tabby",
        "n03085013": "computer keyboard",
        "n15075141": "toilet tissue",
    }
    categories = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert {wnid: categories[WNIDS.index(wnid)] for wnid in known} == known


@pytest.mark.parametrize("dataset", ["digits", "image_folder:x"])
def test_pretrained_weights_need_imagenets_classes(dataset: str) -> None:
    with pytest.raises(BadInput, match="Its class folders must be WordNet ids such as n01440764"):
        weights.imagenet_classes(dataset, data(("cat", WNIDS[0])))
    assert weights.imagenet_classes(dataset, data(WNIDS[:3])) == WNIDS


def test_the_producer_sees_what_cannot_be_before_anything_is_queued(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(BadInput, match="dataset 'digits' has others"):
        submit.check_weights(factories.matrix(weights="pretrained"), settings, must_exist=True)
    submit.check_weights(factories.matrix(weights="pretrained", dataset="synthetic"), settings, must_exist=True)
    given = factories.matrix(weights=f"sha256:{'a' * 64}")
    submit.check_weights(given, settings, must_exist=False)
    with pytest.raises(BadInput, match="No weights sha256:aaa"):
        submit.check_weights(given, settings, must_exist=True)


class Served:
    """A download server on this host in the place of torchvision's."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.asked: list[str] = []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *given: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        served = Served(folder, f"http://127.0.0.1:{running.server_port}")
        served.asked = asked
        yield served
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, str]]:
    """The DEFAULT weights of a small model, on that server; its file's name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    torch.save(torchvision.models.get_model(NAME).state_dict(), server.folder / "new")
    name = f"small-{digest_of(server.folder / 'new')[:8]}.pth"
    (server.folder / "new").rename(server.folder / name)
    member = torchvision.models.get_model_weights(NAME).DEFAULT
    before = member.value
    served = torchvision.models._api.Weights(f"{server.url}/{name}", before.transforms, before.meta)
    monkeypatch.setattr(member, "_value_", served)
    yield server, name


def cached(tmp_path: Path, name: str) -> Path:
    return tmp_path / "torch/hub/checkpoints" / name


def test_published_weights_are_downloaded_once_and_say_what_they_are(
    published: tuple[Served, str], tmp_path: Path
) -> None:
    server, name = published
    given = data(WNIDS[:2])
    model, classes, origin = loaded(tmp_path, "pretrained", given)
    assert origin == "torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    assert classes == WNIDS
    theirs = torch.load(server.folder / name)
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())
    loaded(tmp_path, "pretrained", given)
    assert len(server.asked) == 1
    assert cached(tmp_path, name).is_file()


def test_a_damaged_file_in_the_cache_is_refused(published: tuple[Served, str], tmp_path: Path) -> None:
    _, name = published
    file = cached(tmp_path, name)
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.get_model(NAME).state_dict(), file)  # loads, and is another
    with pytest.raises(FarmError, match=rf"{name} is damaged.*Delete it"):
        loaded(tmp_path, "pretrained", data(WNIDS[:2]))


def test_a_damaged_download_is_refused_and_not_kept(published: tuple[Served, str], tmp_path: Path) -> None:
    server, name = published
    (server.folder / name).write_bytes(b"damaged")
    with pytest.raises(FarmError, match="invalid hash value"):
        loaded(tmp_path, "pretrained", data(WNIDS[:2]))
    assert not cached(tmp_path, name).exists()


def test_a_server_without_the_file_is_said_with_both_ways_out(
    published: tuple[Served, str], tmp_path: Path
) -> None:
    server, name = published
    (server.folder / name).unlink()
    with pytest.raises(FarmError) as refused:
        loaded(tmp_path, "pretrained", data(WNIDS[:2]))
    for part in (f"{server.url}/{name}", str(cached(tmp_path, name).parent), "--weights FILE --sha256 HEX", "404"):
        assert part in str(refused.value)
    answer = refused.value.__context__
    assert isinstance(answer, HTTPError)
    assert answer.fp.closed


def test_offline_there_is_an_error_and_no_model(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from pathlib import Path; from farm import datasets, weights\n"
        "data = datasets.load('synthetic', 'test', 32, Path('.'))\n"
        "weights.load('pretrained', 'densenet121', 32, data, 'synthetic', Path('.'))"
    )
    closed = "http://127.0.0.1:1"
    environment = {**os.environ, "https_proxy": closed, "HTTPS_PROXY": closed, "TORCH_HOME": str(tmp_path)}
    for name in ("no_proxy", "NO_PROXY"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("farm.errors.FarmError: The published weights of densenet121 cannot be had")
    assert "densenet121-a639ec97.pth into" in last
    assert str(tmp_path / "hub/checkpoints") in last


def test_old_densenet_files_load(tmp_path: Path) -> None:
    state = state_of(3, "densenet121")
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()
    }
    assert set(old) != set(state)
    # As they are published: in the format of their time, and without counters of batches.
    file = tmp_path / "old.pth"
    counted = OrderedDict((key, value) for key, value in old.items() if "num_batches" not in key)
    torch.save(counted, file, _use_new_zipfile_serialization=False)
    value, _ = weights.named(str(file), None)
    assert value is not None
    weights.keep(value, file, tmp_path / "weights")
    assert loaded(tmp_path, value, data(("a", "b", "c")), "densenet121")[1] == ("a", "b", "c")


def test_weights_for_otherwise_normalized_images_say_so() -> None:
    default = torchvision.models.get_model_weights
    assert "mean [0.5, 0.5, 0.5]" in torchvision_zoo._unusual(default("efficientnet_v2_l").DEFAULT)
    others = [name for name in torchvision_zoo.NAMES if torchvision_zoo._unusual(default(name).DEFAULT)]
    assert others == ["efficientnet_v2_l"]
