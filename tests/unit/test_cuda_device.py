"""The GPU as a device, with stand-ins for torch.cuda and for the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from farm import devices, measuring, onnx_graph
from farm.devices import cuda
from farm.errors import Unsupported
from farm.measurement import Memory
from tests.fakes import precisions, workloads
from tests.fakes.driver import UUID, Driver


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was called of torch.cuda, in order; its allocator held 3 GiB."""
    called: list[str] = []

    def stand_in(name: str, answer: Any) -> None:
        def call() -> Any:
            called.append(name)
            return answer

        monkeypatch.setattr(torch.cuda, name, call)

    stand_in("is_available", True)
    stand_in("reset_peak_memory_stats", None)
    stand_in("max_memory_allocated", 3 << 30)
    stand_in("synchronize", None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with precisions.as_they_were():
        cuda.allow_tf32(True)
        yield called


def test_memory_is_what_the_allocator_held_and_what_the_gpu_holds_more_than_before(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(monkeypatch)
    driver.used_bytes = 5 << 30  # others were there already
    device = devices.open_device("cuda", torch.get_num_threads(), UUID)
    device.reset_peak()
    driver.used_bytes = 9 << 30
    assert device.peak_bytes() == (3 << 30, 4 << 30)
    assert seen == ["is_available", "reset_peak_memory_stats", "max_memory_allocated"]
    assert driver.opened == 0


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_what_the_driver_hides_is_not_observed_and_never_zero(
    seen: list[str], monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    driver = Driver(monkeypatch)
    driver.refused = {refused}
    device = devices.open_device("cuda", torch.get_num_threads(), UUID)
    driver.refused = set()
    assert device.peak_bytes() == (3 << 30, None)


@pytest.mark.parametrize("left_bytes", [0, 5 << 30])
def test_a_gpu_that_others_left_meanwhile_does_not_tell_and_never_nothing(
    seen: list[str], monkeypatch: pytest.MonkeyPatch, left_bytes: int
) -> None:
    driver = Driver(monkeypatch)
    device = devices.open_device("cuda", torch.get_num_threads(), UUID)
    driver.used_bytes = left_bytes  # 5 GiB were there before
    assert device.peak_bytes() == (3 << 30, None)


def test_a_library_with_an_allocator_of_its_own_took_not_nothing_of_torchs(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(monkeypatch)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    device = devices.open_device("cuda", torch.get_num_threads(), UUID)
    driver.used_bytes = 9 << 30
    assert device.peak_bytes() == (None, 4 << 30)


@pytest.mark.parametrize(
    ("told", "why"),
    [({}, "the driver does not tell"), ({"vram_allocator_bytes": 5}, ""), ({"vram_process_bytes": 5}, "")],
)
def test_memory_of_a_gpu_that_nobody_tells_has_a_reason(told: dict[str, int], why: str) -> None:
    taken = Memory(floor_bytes=1, peak_bytes=2, **told)
    said = measuring._no_vram(taken)
    assert said.startswith(why)
    assert bool(said) is bool(why)


def test_fp32_is_exact_and_waiting_is_torchs(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    device = devices.open_device("cuda", torch.get_num_threads(), UUID)
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert not torch.backends.cudnn.allow_tf32
    device.synchronize()
    assert seen[-1] == "synchronize"
    assert device.amp_evidence() == "hardware"


@pytest.mark.parametrize("recipe", ["fp32", "tf32"])
def test_what_is_set_for_a_gpu_lets_torch_export_and_ask_for_what_is_set(
    recipe: str, seen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Driver(monkeypatch)
    devices.open_device("cuda", torch.get_num_threads(), UUID)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # what follows is torch's own, on the CPU
    if recipe == "tf32":
        cuda.allow_tf32(True)
    is_exact = recipe == "fp32"
    # Inductor reads the one, torch.export the other: both raise where torch is told two things.
    assert torch.get_float32_matmul_precision() == ("highest" if is_exact else "high")
    onnx_graph.export(workloads.workload("tensorrt"), tmp_path / "model.onnx")
    found = {backend.fp32_precision for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv)}
    assert ("tf32" in found) is not is_exact


def test_without_a_gpu_it_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="no CUDA GPU"):
        devices.open_device("cuda", torch.get_num_threads(), UUID)
