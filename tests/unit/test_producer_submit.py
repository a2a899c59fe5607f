from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from farm.errors import BadInput
from producer import submit
from results_store.store import WorkerInfo
from tests import factories


def test_a_queue_without_a_living_worker_is_named_with_how_to_start_one() -> None:
    matrix = factories.matrix(devices=("cpu", "cuda", "cuda.h200"), batch_sizes=(1, 2))
    sentences = submit.unserved(matrix, [factories.worker()])
    assert len(sentences) == 2
    assert "Queue gpu (2 jobs)" in sentences[0]
    assert "python -m workers --device cuda" in sentences[0]
    assert "Queue gpu.h200 (2 jobs)" in sentences[1]


def test_a_queue_whose_workers_have_too_few_processors_is_named() -> None:
    matrix = factories.matrix(threads=8)
    [sentence] = submit.unserved(matrix, [factories.worker(threads=2)])
    assert "--threads 8" in sentence
    assert submit.unserved(matrix, [factories.worker(threads=8)]) == []


def test_only_workers_that_serve_the_matrix_count_as_its_environment() -> None:
    cpu = factories.worker()
    gpu = factories.worker("gpu@alpha", queues=("gpu",), environment=factories.environment(device_kind="cuda"))
    assert submit.environments_of(factories.matrix(), [cpu, gpu]) == {cpu.environment_key}


def test_a_directory_that_does_not_exist_yet_is_tried_without_being_made(tmp_path: Path) -> None:
    submit.check_writable(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_beneath_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        submit.check_writable(tmp_path / "file" / "results")


def test_a_special_file_system_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        submit.check_writable(Path("/proc/results"))


def test_the_digest_of_the_users_own_images_goes_into_the_matrix(tmp_path: Path) -> None:
    folders = [tmp_path / "mine" / part / name for part in ("train", "test") for name in ("cat", "dog")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"one")
    matrix = factories.matrix(dataset="image_folder:mine")
    first = submit.with_digest(matrix, tmp_path, must_exist=True)
    (folders[0] / "a.png").write_bytes(b"two")
    second = submit.with_digest(matrix, tmp_path, must_exist=True)
    assert first.dataset_digest != second.dataset_digest
    assert first.key != second.key


def test_a_folder_that_only_the_workers_have_is_left_to_them(tmp_path: Path) -> None:
    matrix = factories.matrix(dataset="image_folder:mine")
    assert submit.with_digest(matrix, tmp_path, must_exist=False) == matrix
    with pytest.raises(BadInput, match="mine"):
        submit.with_digest(matrix, tmp_path, must_exist=True)


@pytest.mark.parametrize("images", [(), ("train/cat/a.png",), ("train/cat/a.png", "train/dog/a.png")])
def test_images_that_cannot_be_trained_on_or_tested_with_are_refused_at_once(
    tmp_path: Path, images: tuple[str, ...]
) -> None:
    (tmp_path / "mine/train").mkdir(parents=True)
    for image in images:
        path = tmp_path / "mine" / image
        path.parent.mkdir(parents=True)
        path.write_bytes(b"one")
    with pytest.raises(BadInput, match="images of at least two classes"):
        submit.with_digest(factories.matrix(dataset="image_folder:mine"), tmp_path, must_exist=False)


def test_a_name_that_no_file_system_takes_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="too long"):
        submit.check_writable(tmp_path / "new" / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_and_a_directory_in_the_csvs_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="link cannot be written"):
        submit.check_writable(tmp_path / "link")
    for name in ("benchmark_results.csv", "benchmark_results_detailed.csv", "report.html"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(BadInput, match=rf"{re.escape(name)} there is a directory"):
            submit.check_writable(tmp_path / name)


def test_a_folder_with_val_alone_is_enough_where_weights_are_given(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "mine/val" / name).mkdir(parents=True)
        (tmp_path / "mine/val" / name / "a.png").write_bytes(b"one")
    given = factories.matrix(dataset="image_folder:mine", weights=f"sha256:{'a' * 64}")
    assert submit.with_digest(given, tmp_path, must_exist=True).dataset_digest is not None
    with pytest.raises(BadInput, match="weights that are given"):
        submit.with_digest(factories.matrix(dataset="image_folder:mine"), tmp_path, must_exist=True)


def test_a_queue_whose_only_worker_is_quarantined_says_why_and_what_to_start() -> None:
    gpu = factories.worker("gpu@alpha", queues=("gpu",), quarantined="error: CUDA error: unknown error")
    [sentence] = submit.unserved(factories.matrix(devices=("cuda",)), [gpu])
    assert "gpu@alpha is quarantined: error: CUDA error: unknown error" in sentence
    assert "python -m workers --device cuda" in sentence
    assert submit.unserved(factories.matrix(devices=("cuda",)), [gpu, factories.worker(queues=("gpu",))]) == []


def gpu_worker(name: str, packages: dict[str, str], **fields: Any) -> WorkerInfo:
    where = factories.environment(device_kind="cuda", packages=packages, gpu={"compute_capability": 9.0})
    return factories.worker(name, queues=("gpu",), environment=where, **fields)


def test_what_no_living_worker_has_is_named_with_the_recipes_that_ask_for_it() -> None:
    matrix = factories.matrix(
        optimizations=("baseline", "tensorrt", "fp16+tensorrt"), devices=("cuda",), repeats=3
    )
    plain = gpu_worker("gpu@alpha", {"torch": "2"})
    [said] = submit.unable(matrix, [plain])
    assert "Queue gpu (6 jobs: tensorrt, fp16+tensorrt): no living worker has onnx, onnxscript, tensorrt" in said
    assert "`unsupported`" in said
    able = gpu_worker("gpu@beta", {"torch": "2", "onnx": "1", "onnxscript": "1", "tensorrt": "10"})
    assert submit.unable(matrix, [plain, able]) == []


def test_a_queue_that_nobody_serves_is_not_said_to_lack_anything_too() -> None:
    matrix = factories.matrix(optimizations=("tensorrt",), devices=("cuda",), threads=8)
    assert submit.unable(matrix, [factories.worker()]) == []
    # of its threads `unserved` tells
    assert submit.unable(matrix, [gpu_worker("gpu@alpha", {"torch": "2"})]) == []
    assert len(submit.unserved(matrix, [gpu_worker("gpu@alpha", {"torch": "2"})])) == 1
