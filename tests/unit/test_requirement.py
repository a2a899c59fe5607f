"""What a job asks of its worker, and what an environment lacks of it."""

from __future__ import annotations

from typing import Any

import pytest

from farm import building, catalogue, requirement
from farm.errors import Unsupported
from farm.measurement import Environment
from farm.requirement import Requirement
from farm.settings import Settings
from tests import factories
from tests.fakes.driver import Driver

ALL = {"torch": "2", "onnx": "1", "onnxscript": "0.7", "onnxruntime": "1", "tensorrt": "10", "torch-pruning": "1"}


def of(recipe: str, device: str = "cuda", **fields: Any) -> Requirement | None:
    return requirement.of(factories.cell(recipe=recipe, device=device, **fields))


def lacking(wanted: Requirement | None, **fields: Any) -> str:
    assert wanted is not None
    return wanted.lacking(where(**fields))


def where(packages: dict[str, str] = ALL, **facts: Any) -> Environment:
    return factories.environment(device_kind="cuda", device_model="Tesla T4", packages=packages, gpu=facts)


@pytest.mark.parametrize("recipe", ["baseline", "channels_last", "amp", "fp16", "compile", "cuda_graph"])
def test_what_every_worker_of_a_queue_can_do_asks_for_nothing(recipe: str) -> None:
    assert of(recipe) is None


def test_what_a_kind_of_device_cannot_run_asks_for_nothing_because_nobody_could() -> None:
    assert of("tensorrt", "cpu") is None
    assert of("openvino", "cuda") is None


@pytest.mark.parametrize(
    ("recipe", "device", "packages"),
    [
        ("tensorrt", "cuda", ("onnx", "onnxscript", "tensorrt")),
        ("fp16+onnxruntime(tensorrt)", "cuda", ("onnx", "onnxscript", "onnxruntime", "tensorrt")),
        ("onnxruntime", "cpu", ("onnx", "onnxscript", "onnxruntime")),
        ("openvino", "cpu", ("onnx", "onnxscript", "openvino")),
        ("pruning", "cuda", ("torch-pruning",)),
    ],
)
def test_packages_that_not_every_worker_has_are_asked_for(
    recipe: str, device: str, packages: tuple[str, ...]
) -> None:
    found = of(recipe, device)
    assert found is not None
    assert found.packages == packages


@pytest.mark.parametrize(
    ("recipe", "capability"),
    [("bf16", 8.0), ("tf32", 8.0), ("int8_static+tensorrt", 7.5), ("int8_dynamic", 7.5), ("fp16+tensorrt", None)],
)
def test_a_precision_asks_for_the_units_that_multiply_so(recipe: str, capability: float | None) -> None:
    found = of(recipe)
    assert found is not None
    assert found.compute_capability == capability


def test_a_cpu_is_asked_for_no_compute_capability() -> None:
    assert of("bf16", "cpu") is None


def test_a_requirement_is_of_its_queue_and_processors_and_the_same_for_every_batch_size() -> None:
    one = of("bf16", "cuda.h200", threads=2, batch_size=1)
    assert one == of("bf16", "cuda.h200", threads=2, batch_size=64)
    assert one is not None
    assert (one.queue, one.threads) == ("gpu.h200", 2)
    assert Requirement.model_validate_json(one.canonical()) == one


def test_what_is_lacking_is_named_with_what_there_is() -> None:
    assert lacking(of("bf16"), compute_capability=7.5) == "compute capability 8.0 (Tesla T4 has 7.5)"
    assert lacking(of("bf16"), compute_capability=8.0) == ""
    assert lacking(of("tensorrt"), packages={"onnx": "1", "onnxscript": "1"}) == "tensorrt"
    big = of("baseline", min_vram_mb=40_000)
    assert lacking(big, memory_bytes=16 << 30) == "40,000 MiB of GPU memory (Tesla T4 has 16,384)"
    assert lacking(big, memory_bytes=40_000 << 20) == ""
    assert str(of("bf16", min_vram_mb=40_000)) == "compute capability 8.0, 40,000 MiB of GPU memory"


def test_what_a_driver_does_not_tell_nobody_can_say_that_it_is_lacking() -> None:
    assert lacking(of("int8_static+tensorrt", min_vram_mb=40_000)) == ""


def test_a_job_that_its_device_cannot_do_is_unsupported_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(monkeypatch)
    monkeypatch.setattr(catalogue, "require_installed", lambda _: None)
    here = building.environment_of(factories.spec(recipe="bf16", device="cuda"), Settings(visible_gpu=None))
    assert here.gpu is not None
    assert here.gpu.compute_capability == 9.0
    driver.capability = (7, 5)
    with pytest.raises(Unsupported, match=r"bf16 needs compute capability 8.0 \(NVIDIA H200 has 7.5\)"):
        building.environment_of(factories.spec(recipe="bf16", device="cuda"), Settings(visible_gpu=None))
    spec = factories.spec(device="cuda", min_vram_mb=1_000_000)
    with pytest.raises(Unsupported, match="1,000,000 MiB of GPU memory"):
        building.environment_of(spec, Settings(visible_gpu=None))
