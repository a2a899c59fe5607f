"""Models: torchvision's whole zoo, and those of installed packages, each by its name and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from farm import models, weights
from farm.errors import BadInput, BrokenPlugin
from farm.models import _installed, torchvision_zoo
from farm.spec import job
from producer import submit
from tests import factories

ROOT = Path(__file__).resolve().parents[2]
#: They compute with values while they are made, which the meta device has not.
NOT_ON_META = {name for name in torchvision_zoo.NAMES if name.startswith("regnet")}
GOOD = """
import torch

def create(classes, image_size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, classes))
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution of one module with one entry point, and forgets it afterwards."""
    before = set(sys.modules)

    def _install(name: str, source: str = GOOD, version: str = "1.0", distribution: str = "theirs") -> Path:
        folder = tmp_path / distribution
        module = distribution.replace("-", "_")
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{_installed.GROUP}]\n{name} = {module}:create\n")
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        _installed._points.cache_clear()
        return folder / f"{module}.py"

    yield _install
    _installed._points.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("theirs"):
            del sys.modules[name]


def test_every_classifier_of_torchvision_is_there() -> None:
    # All of this module classify: detection, segmentation, video, optical flow and quantized ones have modules
    # of their own there. Asked of the weights rather than believed:
    theirs = torchvision.models.list_models(module=torchvision.models)
    assert {len(torchvision.models.get_model_weights(n).DEFAULT.meta["categories"]) for n in theirs} == {1000}
    assert list(torchvision_zoo.NAMES) == sorted(theirs)


@pytest.mark.parametrize("name", sorted(set(torchvision_zoo.NAMES) - NOT_ON_META))
def test_every_model_has_the_classes_asked_for_and_takes_a_state_without_versions(name: str) -> None:
    size = {"vit_h_14": 448, "maxvit_t": 224}.get(name, 96)
    with torch.device("meta"):
        model = torchvision_zoo.create(name, 7, size)
    with torch.inference_mode():
        answer = model(torch.empty(2, 3, size, size, device="meta"))
    assert answer.shape == (2, 7)
    assert not model.training
    weights.put(model, dict(model.state_dict()), name, "a file")


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf", "googlenet", "inception_v3", "mnasnet0_5"])
def test_unusual_models_answer_with_one_tensor(name: str) -> None:
    model = models.create(name, 5, 96)
    models.try_out(name, model, 5, 96)
    weights.put(models.create(name, 5, 96), dict(model.state_dict()), name, "a file")


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("inception_v3", 64, "64×64 pixels. Possible image sizes: 75 or more; nearest: 75"),
        ("alexnet", 32, "63 or more"),
        ("vit_b_16", 100, "multiples of 16; nearest: 96 or 112"),
        ("vit_b_32", 40, "multiples of 32; nearest: 32 or 64"),
        ("vit_h_14", 32, "multiples of 14; nearest: 42."),
        ("maxvit_t", 64, "multiples of 224; nearest: 224."),
    ],
)
def test_a_size_that_a_model_cannot_take_is_refused_with_what_is_possible(name: str, size: int, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        models.create(name, 10, size)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "least"), [*torchvision_zoo._LEAST.items(), ("squeezenet1_0", 32), ("vgg11", 32)]
)
def test_the_least_size_is_the_least(name: str, least: int) -> None:
    with torch.device("meta"), torch.inference_mode():
        model = torchvision_zoo.create(name, 7, least)
        assert model(torch.empty(1, 3, least, least)).shape == (1, 7)
        if least > 32:
            with pytest.raises(RuntimeError):
                model(torch.empty(1, 3, least - 1, least - 1))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_outputs_that_only_training_uses_are_not_made(name: str) -> None:
    with torch.device("meta"):
        model = torchvision_zoo.create(name, 7, 96).train()
        assert model(torch.empty(2, 3, 96, 96)).shape == (2, 7)


def test_the_names_of_old_densenet_files_are_todays() -> None:
    with torch.device("meta"):
        state = torchvision_zoo.create("densenet121", 10, 64).state_dict()
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert set(torchvision_zoo.adapted("densenet121", old)) == set(state)


def test_outputs_that_only_training_uses_are_dropped() -> None:
    state = {"AuxLogits.fc.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    assert list(torchvision_zoo.adapted("inception_v3", state)) == ["fc.weight"]
    assert list(torchvision_zoo.adapted("resnet18", state)) == list(state)


def test_a_model_of_an_installed_package_is_found_without_importing_it(install: Install) -> None:
    install("theirs_linear")
    assert models.by_source()["theirs 1.0"] == ("theirs_linear",)
    assert job(model="theirs_linear").model == "theirs_linear"
    models.fingerprint("theirs_linear")
    assert "theirs" not in sys.modules
    model = models.create("theirs_linear", 4, 32)
    models.try_out("theirs_linear", model, 4, 32)
    assert not model.training


def test_the_digest_of_an_installed_model_goes_into_the_matrix_and_its_keys(install: Install) -> None:
    source = install("theirs_linear")
    matrix = factories.matrix(models=("theirs_linear", "resnet18"))
    first = submit.with_model_digests(matrix)
    assert [cell.model_digest is None for cell in first.cells()] == [False, True]
    assert first.cells()[1] == matrix.cells()[1]
    source.write_text(GOOD + "\n# another\n")
    second = submit.with_model_digests(matrix)
    assert first.cells()[0].key != second.cells()[0].key
    assert submit.with_model_digests(factories.matrix()) == factories.matrix()


@pytest.mark.parametrize("line", ["two,names = theirs:create", "theirs_odd = no path at all!"])
def test_an_entry_point_that_makes_no_sense_is_left_out_with_a_warning(
    install: Install, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    info = next(install("theirs_linear").parent.glob("*.dist-info"))
    (info / "entry_points.txt").write_text(f"[{_installed.GROUP}]\n{line}\ntheirs_linear = theirs:create\n")
    assert models.by_source()["theirs 1.0"] == ("theirs_linear",)
    assert f"'{line.partition(' =')[0]}' of theirs 1.0 is left out" in caplog.text


def test_an_import_path_is_no_name(install: Install) -> None:
    install("theirs_linear")
    with pytest.raises(BadInput, match="Unknown model 'theirs:create'"):
        job(model="theirs:create")


def test_the_fingerprint_changes_with_version_and_source(install: Install) -> None:
    source = install("theirs_linear")
    first = models.fingerprint("theirs_linear")
    source.write_text(GOOD + "\n# another\n")
    second = models.fingerprint("theirs_linear")
    assert first != second
    info = next(source.parent.glob("*.dist-info"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.1\n")
    _installed._points.cache_clear()
    assert models.fingerprint("theirs_linear") not in (first, second)


def test_the_fingerprint_of_a_package_has_all_its_files_and_imports_none(install: Install) -> None:
    package = install("theirs_linear").with_suffix("")
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "helper.py").write_text("x = 1")
    first = models.fingerprint("theirs_linear")
    (package / "helper.py").write_text("x = 2")
    assert models.fingerprint("theirs_linear") != first


def test_the_fingerprint_of_the_zoo_is_torchvisions_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = models.fingerprint("resnet18")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    assert models.fingerprint("resnet18") != before


def test_a_name_that_two_sources_have_is_refused_and_the_others_work(install: Install) -> None:
    install("resnet18")
    with pytest.raises(BrokenPlugin, match=r"'resnet18' is there 2 times: in torchvision_zoo and in theirs 1\.0"):
        models.create("resnet18", 10, 32)
    with pytest.raises(BadInput, match="is there 2 times"):
        job(model="resnet18")
    assert job(model="resnet34").model == "resnet34"
    assert models.ambiguous() == ("resnet18",)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "cannot be loaded (theirs:create): ZeroDivisionError"),
        ("import no_such_module_here", "no_such_module_here"),
        ("def make(): pass", "cannot be loaded"),
        ("create = 3", "is no callable (theirs:create is int)"),
        ("def create(): pass", "cannot be created with 4 classes at 32×32: TypeError"),
        ("def create(classes, image_size): return 3", "is no torch.nn.Module but int"),
        ("import sys\nsys.exit(3)", "SystemExit"),
    ],
)
def test_a_package_that_is_broken_is_named_and_the_others_work(install: Install, source: str, said: str) -> None:
    install("theirs_broken", source)
    install("theirs_linear", distribution="theirs-too")
    with pytest.raises(BrokenPlugin) as refused:
        models.create("theirs_broken", 4, 32)
    assert said in str(refused.value)
    assert "theirs 1.0" in str(refused.value)
    assert models.create("theirs_linear", 4, 32) is not None
    assert "theirs_broken" in models.names()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            GOOD.replace("classes)", "classes + 1)"),
            "answers 2 images with (2, 5); expected is a tensor of shape (2, 4)",
        ),
        (GOOD.replace("image_size**2", "7"), "fails on images of 32×32: RuntimeError"),
        (GOOD.replace("torch.nn.Sequential", "torch.nn.Identity"), "answers 2 images with (2, 3, 32, 32)"),
    ],
)
def test_answers_of_the_wrong_shape_are_refused(install: Install, source: str, said: str) -> None:
    install("theirs_wrong", source)
    with pytest.raises(BrokenPlugin) as refused:
        models.try_out("theirs_wrong", models.create("theirs_wrong", 4, 32), 4, 32)
    assert said in str(refused.value)


def test_a_model_of_ones_own_has_no_published_weights(install: Install) -> None:
    install("theirs_linear")
    with pytest.raises(BadInput, match=r"'theirs_linear' of theirs 1\.0 has no published weights.*--weights FILE"):
        models.require_pretrained("theirs_linear")
    models.require_pretrained("densenet121")


def test_listing_models_imports_no_torch() -> None:
    code = (
        "import sys; from farm.__main__ import app\n"
        "try: app(['models'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torchvision_zoo (80): alexnet" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
