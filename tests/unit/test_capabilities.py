from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farm import environment, locks, requirement
from farm.devices import nvml
from farm.devices.nvml import Gpu
from farm.errors import BadInput
from farm.settings import Settings
from results_store.store import WorkerInfo, open_store
from tests import factories
from tests.fakes.driver import UUID, Driver
from workers import __main__ as door
from workers import capabilities


def gpu(number: int, name: str = "NVIDIA H200") -> Gpu:
    return Gpu(uuid=f"GPU-{number}", name=name, driver="580.1")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "gpus", lambda: (gpu(1), gpu(2)))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
    ],
)
def test_a_gpus_queue_has_its_models_name(name: str, word: str) -> None:
    assert capabilities.queues(gpu(1, name)) == ("gpu", f"gpu.{word}")


def test_a_device_of_a_matrix_and_a_workers_queue_agree() -> None:
    assert factories.spec(device="cuda.h200").queue in capabilities.queues(gpu(1))
    assert factories.spec(device="cuda").queue in capabilities.queues(gpu(1))
    assert factories.spec(device="cpu").queue in capabilities.queues(None)


def test_a_cpu_worker_takes_all_processors_by_default() -> None:
    worker = capabilities.capabilities("cpu")
    assert (worker.queues, worker.threads, worker.device_uuid) == (("cpu",), len(locks.processors()), None)
    assert worker.environment == environment.describe("cpu", worker.threads)
    assert worker.environment_key == worker.environment.key


def test_auto_is_a_gpu_where_there_is_one(two_gpus: None) -> None:
    assert capabilities.capabilities("auto").device_uuid == "GPU-1"


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "gpus", tuple)
    assert capabilities.capabilities("auto").queues == ("cpu",)


def test_two_workers_take_different_gpus_and_a_third_one_shares(two_gpus: None) -> None:
    taken = []
    living: list[WorkerInfo] = []
    for _ in range(3):
        worker = capabilities.capabilities("cuda", living=living)
        living.append(worker)
        taken.append(worker.device_uuid)
    assert taken == ["GPU-1", "GPU-2", "GPU-1"]


def test_workers_in_containers_of_other_names_count_by_their_gpus(two_gpus: None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, lock_dir=tmp_path / "locks", visible_gpu=None)
    elsewhere = factories.environment(
        host="0f3c", device_kind="cuda", device_model="NVIDIA H200", device_uuid="GPU-1"
    )
    with contextlib.closing(open_store(settings.database)) as store:
        store.register(factories.worker("gpu@0f3c", environment=elsewhere))
    assert door._worker(settings, "cuda", 1, "second").device_uuid == "GPU-2"


def test_a_gpu_worker_takes_few_processors(two_gpus: None) -> None:
    assert capabilities.capabilities("cuda").threads <= nvml.HOST_THREADS


def test_names_made_up_are_unique_and_say_what_and_where() -> None:
    names = {capabilities.full_name(None, "cuda") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"gpu@{environment.describe('cpu', 1).host}.") for name in names)


@pytest.mark.parametrize("name", ["", "a b", "a@b@c", "x/../y", "a\n"])
def test_a_name_that_tools_would_trip_over_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="not possible"):
        capabilities.full_name(name, "cpu")


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, ["GPU-1", "GPU-2"]),
        ("", []),
        ("1", ["GPU-2"]),
        ("GPU-1", ["GPU-1"]),
        ("0, 1", ["GPU-1", "GPU-2"]),
        ("7", []),
    ],
)
def test_only_visible_gpus_are_chosen_from(visible: str | None, left: list[str]) -> None:
    assert [found.uuid for found in nvml.among([gpu(1), gpu(2)], visible)] == left


def test_workers_that_start_together_take_different_gpus(two_gpus: None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, lock_dir=tmp_path / "locks", visible_gpu=None)
    open_store(settings.database).close()
    with ThreadPoolExecutor() as pool:
        found = list(
            pool.map(lambda name: door._worker(settings, "cuda", 1, name), ["one", "two", "three", "four"])
        )
    assert sorted(str(worker.device_uuid) for worker in found) == ["GPU-1", "GPU-1", "GPU-2", "GPU-2"]


def test_a_worker_with_a_gpu_claims_nothing_before_that_was_probed(two_gpus: None) -> None:
    assert capabilities.capabilities("cuda").quarantined == "its device has not been probed yet"
    assert capabilities.capabilities("cpu").quarantined is None


def test_a_slice_of_a_gpu_has_a_queue_of_its_own_and_says_what_it_is_a_part_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Driver(monkeypatch).slices = ("MIG-a", "MIG-b")
    first = capabilities.capabilities("cuda")
    second = capabilities.capabilities("cuda", living=[first])
    assert (first.device_uuid, second.device_uuid) == ("MIG-a", "MIG-b")
    assert first.queues == ("gpu", "gpu.h200-mig-1g")
    assert first.part_of == second.part_of == UUID
    assert capabilities.capabilities("cpu").part_of is None


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        ({"recipe": "bf16"}, (8, 0)),
        ({"recipe": "tf32"}, (8, 0)),
        ({"recipe": "int8_dynamic"}, (7, 5)),
        ({"recipe": "fp16"}, (0, 0)),
    ],
)
def test_a_worker_takes_what_its_driver_says_that_the_gpu_can(
    asked: dict[str, str], least: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, wanted = Driver(monkeypatch), requirement.of(factories.cell(device="cuda", **asked))
    for driver.capability in ((7, 0), (7, 5), (8, 0), (8, 9), (12, 0)):
        found = capabilities.capabilities("cuda").meets(wanted) if wanted else True
        assert found is (driver.capability >= least)
    driver.refused = {"nvmlDeviceGetCudaComputeCapability"}
    assert wanted is None or capabilities.capabilities("cuda").meets(wanted)


def test_a_worker_takes_what_fits_into_its_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    worker = capabilities.capabilities("cuda")
    for min_vram_mb, fits in ((141 << 10, True), ((141 << 10) + 1, False)):
        wanted = requirement.of(factories.cell(device="cuda", min_vram_mb=min_vram_mb))
        assert wanted is not None
        assert worker.meets(wanted) is fits


def test_a_gpu_may_be_called_as_in_a_matrix(two_gpus: None) -> None:
    assert capabilities.capabilities("gpu").device_kind == "cuda"
    with pytest.raises(BadInput, match="Did you mean 'cuda'"):
        capabilities.capabilities("cudda")
