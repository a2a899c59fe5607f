from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil
import pytest

from farm.devices.nvml import Gpu
from farm.errors import BadInput, Unreachable
from farm.settings import Settings
from producer import local, seats
from results_store.store import open_store
from tests import factories


def test_one_data_directory_has_one_embedded_farm_and_says_whose(tmp_path: Path) -> None:
    with local.only_one(tmp_path) as note:
        note("20260101-000000-abcd")
        with (
            pytest.raises(BadInput, match=f"20260101-000000-abcd .* by process {os.getpid()}"),
            local.only_one(tmp_path),
        ):
            pass
    with local.only_one(tmp_path):
        pass


def test_without_any_redis_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unreachable, match="CELERY_BROKER_URL"):
        local.redis_server()


def test_the_systems_redis_is_preferred_to_the_bundled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "valkey-server" else None)
    assert local.redis_server() == "/usr/bin/valkey-server"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert Path(local.redis_server()).name == "redis-server"


def gpu(name: str, uuid: str) -> Gpu:
    return Gpu(uuid=uuid, name=name, driver="580")


def test_every_gpu_that_fits_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    there = (gpu("NVIDIA H200", "a"), gpu("NVIDIA H200", "b"), gpu("NVIDIA A100-SXM4-80GB", "c"))
    monkeypatch.setattr("farm.devices.nvml.gpus", lambda: there)

    def taken(*devices: str) -> list[str]:
        return [seat.uuid or seat.device for seat in seats.seats(factories.matrix(devices=devices))]

    assert taken("cpu") == ["cpu"]
    assert taken("cpu", "cuda") == ["cpu", "a", "b", "c"]
    assert taken("cuda.a100") == ["c"]
    with pytest.raises(BadInput, match=r"cuda\.a100"):
        taken("cuda.h100")


def test_cpu_workers_side_by_side_need_processors_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    assert [seat.threads for seat in seats.seats(factories.matrix(threads=2), 2)] == [2, 2]
    with pytest.raises(BadInput, match="Add --threads 1,"):
        seats.seats(factories.matrix(threads=2), 3)
    with pytest.raises(BadInput, match="Add --threads 2,"):
        seats.seats(factories.matrix(), 2)


def test_a_workers_processors_are_those_that_the_matrix_asks_for() -> None:
    [seat] = seats.seats(factories.matrix(threads=1))
    assert seat.arguments() == ["--device", "cpu", "--threads", "1"]
    with pytest.raises(BadInput, match="this host has"):
        seats.seats(factories.matrix(threads=1024))


def test_gpus_that_are_not_to_be_used_have_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    there = (gpu("NVIDIA H200", "GPU-a"), gpu("NVIDIA H200", "GPU-b"))
    monkeypatch.setattr("farm.devices.nvml.gpus", lambda: there)
    [seat] = seats.seats(factories.matrix(devices=("cuda",)), visible="GPU-b")
    assert seat.uuid == "GPU-b"
    with pytest.raises(BadInput, match="it has: cpu"):
        seats.seats(factories.matrix(devices=("cuda",)), visible="")


@pytest.mark.parametrize(("uuid", "shown"), [("GPU-b", "GPU-b"), (None, "0")])
def test_a_worker_of_the_embedded_farm_sees_the_gpu_of_its_seat_and_no_other(
    uuid: str | None, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    settings = Settings(data_dir=tmp_path)
    seat = seats.Seat(device="cpu" if uuid is None else "cuda", threads=1, uuid=uuid)
    with contextlib.closing(open_store(settings.database)) as store:
        farm = local.LocalFarm(settings, store, [seat], "a-run", print)
        farm.folder.mkdir(parents=True)
        worker = farm._start_worker(seat)
        try:
            assert psutil.Process(worker.pid).environ()["CUDA_VISIBLE_DEVICES"] == shown
        finally:
            worker.stop(0.0)
