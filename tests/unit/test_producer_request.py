from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from farm import catalogue
from farm.errors import BadInput
from farm.recipe import DEFAULTS
from producer import request


def written(folder: Path, text: str) -> Path:
    path = folder / "matrix.toml"
    path.write_text(text)
    return path


def flags(**given: Any) -> dict[str, Any]:
    return {"optimizations": ["baseline"], **given}


def test_flags_take_commas_and_may_be_repeated() -> None:
    matrix = request.matrix(flags(batch_sizes=["1,8", "32"], optimizations=["baseline, amp", "channels_last+amp"]))
    assert matrix.batch_sizes == (1, 8, 32)
    assert [str(recipe) for recipe in matrix.optimizations] == ["baseline", "amp", "channels_last+amp"]


def test_repeats_default_to_those_of_the_protocol() -> None:
    assert request.matrix(flags(protocol="quick")).repeats == 1
    assert request.matrix(flags()).repeats == 10
    assert request.matrix(flags(protocol="thorough", repeats=2)).repeats == 2


def test_the_device_defaults_to_the_cpu_and_gpu_means_cuda() -> None:
    assert request.matrix(flags()).devices == ("cpu",)
    assert request.matrix(flags(devices=["cpu,gpu"])).devices == ("cpu", "cuda")


def test_keys_of_a_file_are_written_with_a_hyphen_or_an_underscore(tmp_path: Path) -> None:
    text = 'optimizations = ["amp"]\nprotocol = "quick"\n'
    hyphen = request.matrix({}, written(tmp_path, text + "batch-sizes = [4]\nimage-size = 96\n"))
    underscore = request.matrix({}, written(tmp_path, text + "batch_sizes = 4\nimage_size = 96\n"))
    assert hyphen == underscore
    assert hyphen.batch_sizes == (4,)
    assert hyphen.image_size == 96


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'optimizations = ["amp"]\nbatch-sizes = [1, 8]\nrepeats = 3\n')
    matrix = request.matrix({"batch_sizes": ["2"], "repeats": None, "models": []}, file)
    assert matrix.batch_sizes == (2,)
    assert matrix.repeats == 3


def test_the_matrix_that_comes_with_the_project_has_eighteen_jobs() -> None:
    matrix = request.matrix({}, Path("matrices/densenet121-cpu.toml"))
    assert len(matrix.jobs()) == 18


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_sizes": ["0"]}, "--batch-sizes"),
        ({"batch_sizes": ["-1"]}, "greater than or equal to 1"),
        ({"batch_sizes": ["1000000000"]}, "65536"),
        ({"batch_sizes": ["abc"]}, "'abc'"),
        ({"batch_sizes": [","]}, "batch_sizes names nothing"),
        ({"models": [""]}, "models names nothing"),
        ({"models": ["densnet121"]}, "'densenet121'"),
        ({"optimizations": ["chanels_last"]}, "'channels_last'"),
        ({"optimizations": ["amp+fp32"]}, "both choices of precision"),
        ({"dataset": "digit"}, "'digits'"),
        ({"devices": ["tpu"]}, "cuda"),
        ({"protocol": "quik"}, "'quick'"),
        ({"repeats": 0}, "--repeats"),
        ({"image_size": 8}, "--image-size"),
        ({"threads": 0}, "--threads"),
        ({"seed": -1}, "--seed"),
        ({"set": ["min_cals=3"]}, "'min_calls'"),
        ({"set": ["min_calls=3"], "protocol": "quik"}, "'quick'"),
        ({"eval_samples": "0"}, "--eval-samples 0: the number of test images"),
        ({"eval_samples": "many"}, "'all'"),
        ({"eval_samples": "-3"}, "--eval-samples -3"),
        ({"isolation": "forc"}, "Unknown isolation 'forc'. Did you mean 'fork'?"),
        ({"weights": "no-such-file.pth"}, "--weights no-such-file.pth"),
        ({"weights": "pretrained", "sha256": "0" * 64}, "--sha256 belongs to a file"),
        ({"weights": f"sha256:{'a' * 64}", "models": ["resnet18,resnet34"]}, "belongs to one model"),
        ({"optimizations": []}, "--optimizations"),
    ],
)
def test_a_wrong_flag_is_named_with_what_is_possible(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        request.matrix(flags(**given))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizations = [", "not valid TOML"),
        ('optimisations = ["amp"]', "'optimizations'"),
        ('batch-size = [1]\noptimizations = ["amp"]', "'batch-sizes'"),
        ('optimizations = ["amp"]\nbatch-sizes = [true]', "whole numbers"),
        ('optimizations = ["amp"]\nbatch-sizes = [1.5]', "whole numbers"),
        ('optimizations = ["amp"]\nbatch-sizes = ["8"]', "whole numbers"),
        ('optimizations = ["amp"]\nbatch-sizes = []', "names nothing"),
        ("optimizations = [3]", "names"),
        ('optimizations = ["amp"]\nset = [3]', "set must be a list"),
        ('optimizations = ["amp"]\nrepeats = "many"', "a whole number"),
        ('optimizations = ["amp"]\nprotocol = 3', "quick"),
        ('optimizations = ["amp"]\nbatch-sizes = [1]\nbatch_sizes = [2]', "twice"),
        ('optimizations = ["amp"]\neval-samples = 1.5', "a whole number or 'all'"),
        ('optimizations = ["amp"]\neval-samples = true', "a whole number or 'all'"),
        ('optimizations = ["amp"]\nweights = 3', "weights must be text"),
        ("", "--optimizations"),
    ],
)
def test_a_wrong_matrix_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        request.matrix({}, written(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    written(tmp_path, "")
    with pytest.raises(BadInput, match="no such file") as caught:
        request.read_file(tmp_path / "other.toml")
    assert str(tmp_path / "matrix.toml") in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not valid TOML"):
        request.read_file(path)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000 + "]" * 5000, "seed = " + "9" * 5000, "models = 1 2", "\x00"]
)
def test_what_no_parser_takes_is_said_with_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"matrix\.toml is not valid TOML"):
        request.read_file(written(tmp_path, text))


def test_a_missing_file_is_told_with_its_like_and_the_examples(tmp_path: Path) -> None:
    written(tmp_path, "")
    (tmp_path / "pyproject.toml").write_text("")
    with pytest.raises(BadInput) as refused:
        request.read_file(tmp_path / "matrx.toml")
    assert f"Did you mean {tmp_path / 'matrix.toml'}?" in str(refused.value)
    assert "matrices/densenet121-cpu.toml" in str(refused.value)
    assert "pyproject" not in str(refused.value)


def test_fields_of_the_protocol_are_set_by_flag_or_file_and_repeats_stay_the_presets(tmp_path: Path) -> None:
    by_flag = request.matrix(flags(set=["min_calls=100", "accuracy_samples=64"]))
    file = written(tmp_path, 'optimizations = ["baseline"]\nset = ["min_calls=100", "accuracy_samples=64"]\n')
    assert request.matrix({}, file) == by_flag
    protocol = by_flag.protocol
    assert (protocol.name, protocol.min_calls, protocol.accuracy_samples) == ("standard+", 100, 64)
    assert by_flag.repeats == 10
    assert request.matrix({"set": ["min_calls=12"]}, file).protocol.min_calls == 12
    assert request.matrix(flags(set=["min_calls=100"], repeats=2)).repeats == 2


def test_eval_samples_are_the_test_images_of_the_accuracy_pass(tmp_path: Path) -> None:
    assert request.matrix(flags(eval_samples="all", protocol="quick")).protocol.accuracy_samples is None
    assert request.matrix(flags(eval_samples="64")).protocol.accuracy_samples == 64
    text = 'optimizations = ["amp"]\nprotocol = "quick"\n'
    for written_as, samples in (("500", 500), ('"all"', None)):
        matrix = request.matrix({}, written(tmp_path, f"{text}eval-samples = {written_as}\n"))
        assert (matrix.protocol.accuracy_samples, matrix.protocol.name) == (samples, "quick+")
    # What the preset says already changes nothing, its name neither.
    assert request.matrix(flags(eval_samples="256", protocol="quick")) == request.matrix(flags(protocol="quick"))


def test_isolation_is_how_measuring_processes_begin(tmp_path: Path) -> None:
    assert request.matrix(flags()).protocol.isolation == "fork"
    protocol = request.matrix(flags(isolation="spawn")).protocol
    assert (protocol.isolation, protocol.name) == ("spawn", "standard+")
    file = written(tmp_path, 'optimizations = ["amp"]\nisolation = "spawn"\n')
    assert request.matrix({}, file).protocol.isolation == "spawn"
    assert request.matrix(flags(isolation="fork"), file) == request.matrix(flags())


def test_a_file_of_weights_becomes_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    asked = flags(weights="mine.pth", sha256=digest)
    assert request.matrix(asked).weights == f"sha256:{digest}"
    assert request.weights_file(asked) == Path("mine.pth")
    file = written(tmp_path, f'optimizations = ["amp"]\nweights = "mine.pth"\nsha256 = "{digest}"\n')
    assert request.matrix({}, file).weights == f"sha256:{digest}"
    # Another choice on the command line takes the file's digest with it.
    assert request.matrix({"weights": "pretrained"}, file).weights == "pretrained"
    assert request.weights_file({"weights": "pretrained"}, file) is None
    with pytest.raises(BadInput, match="not 0000"):
        request.matrix({"sha256": "0" * 64}, file)


def test_the_gpu_matrix_has_every_choice_that_a_gpu_can_run_at_eight_batch_sizes() -> None:
    matrix = request.matrix({}, Path("matrices/densenet121-gpu.toml"))
    assert matrix.devices == ("cuda",)
    assert matrix.batch_sizes == (1, 4, 8, 16, 32, 64, 128, 256)
    assert len(matrix.jobs()) == len(set(matrix.optimizations)) * 8
    assert [str(recipe) for recipe in matrix.optimizations if not catalogue.runs_on(recipe, "cuda")] == []
    named = {str(choice) for recipe in matrix.optimizations for choice in recipe.choices}
    unsaid = set(DEFAULTS.values())  # `baseline` stands for them
    possible = {text for text in catalogue.described() if catalogue.why_not(text, ["cuda"]) != "no: needs cpu"}
    assert possible - unsaid - named == set()


def test_gpu_memory_is_a_flag_and_a_key(tmp_path: Path) -> None:
    file = written(tmp_path, 'optimizations = ["amp"]\ndevices = ["cuda"]\nmin-vram-mb = 16000\n')
    assert request.matrix({}, file).min_vram_mb == 16_000
    assert request.matrix({"min_vram_mb": 40_000}, file).min_vram_mb == 40_000
    with pytest.raises(BadInput, match="--min-vram-mb"):
        request.matrix({"min_vram_mb": 0}, file)
