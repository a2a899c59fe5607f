from __future__ import annotations

from pathlib import Path

import pytest

from farm import environment
from farm.errors import BadInput
from farm.measurement import Environment
from tests import factories
from tests.fakes.driver import UUID, Driver


def test_where_there_is_no_repository_the_commit_is_the_one_that_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    commit = environment._commit.__wrapped__
    assert commit() is None
    (tmp_path / "COMMIT").write_text("530de6e12345+\n")
    assert commit() == "530de6e12345+"


def test_what_a_gpus_driver_says_is_part_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    found = environment.describe("cuda", 1)
    assert (found.device_model, found.device_uuid, found.driver) == ("NVIDIA H200", UUID, "580.1")
    assert found.gpu is not None
    assert (found.gpu.compute_capability, found.gpu.power_limit_w) == (9.0, 700)
    assert Environment.model_validate_json(found.model_dump_json()) == found
    driver.refused = {"nvmlDeviceGetPowerManagementLimit"}
    assert environment.describe("cuda", 1).key != found.key


@pytest.mark.parametrize("visible", [None, "0", UUID, "GPU-"])
def test_the_gpu_is_the_first_that_cuda_would_see(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    assert environment.describe("cuda", 1, visible).device_uuid == UUID


@pytest.mark.parametrize("visible", ["", "3", "GPU-7"])
def test_a_gpu_that_is_not_there_is_said_with_those_that_are(
    visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Driver(monkeypatch)
    with pytest.raises(BadInput, match=f"Possible here: cpu, {UUID}"):
        environment.describe("cuda", 1, visible)


def test_what_a_gpu_is_set_to_makes_a_class_of_its_own_and_which_one_it_is_does_not() -> None:
    def key(**facts: object) -> str:
        return factories.environment(device_kind="cuda", gpu={"power_limit_w": 700, **facts}).key

    assert key() == key(memory_bytes=1) == key(part_of="GPU-1")
    assert len({key(), key(power_limit_w=350), key(sm_set_hz=1.2e9), key(compute_capability=8.0)}) == 4


def test_a_cpus_environment_is_written_and_told_apart_as_before_gpus_had_facts() -> None:
    here = factories.environment()
    assert "gpu" not in here.model_dump(mode="json")
    assert "gpu" not in here.apart
    assert here.key == "9d08fbca7964"
