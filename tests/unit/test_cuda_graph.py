"""The CUDA graph's runtime, with a stand-in for torch.cuda: what is captured is what a call replays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from farm.errors import OutOfMemory, Unsupported, memory_errors
from farm.runtimes import cuda_graph
from tests.fakes import cuda, workloads


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> cuda.Cuda:
    return cuda.Cuda(monkeypatch)


def answers(session: Any, batch: np.ndarray) -> np.ndarray:
    logits: np.ndarray = session.to_host(session.run(session.to_device(batch)))
    return logits


@pytest.mark.parametrize("recipe", ["cuda_graph", "channels_last+cuda_graph"])
def test_each_call_answers_for_its_own_images(recipe: str, driver: cuda.Cuda) -> None:
    session = cuda_graph.load(workloads.workload(recipe), None)
    for seed in (1, 3, 1):
        batch = workloads.images(seed)
        np.testing.assert_allclose(answers(session, batch), workloads.expected(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("cuda_graph", "float32"),
        ("amp+cuda_graph", "bfloat16"),
        ("bf16+cuda_graph", "bfloat16"),
        ("fp16+cuda_graph", "float16"),
        ("channels_last+fp16+cuda_graph", "float16"),
    ],
)
def test_the_evidence_tells_dtypes_of_the_capture_and_that_a_call_replays_it(
    recipe: str, dtype: str, driver: cuda.Cuda
) -> None:
    session = cuda_graph.load(workloads.workload(recipe), None)
    found = session.evidence(session.to_device(workloads.images()))
    assert (found["dtype"], found["dtype_asked"]) == (dtype, dtype)
    assert found["convolutions"] == {dtype: 2}
    assert found["compiled"] is True
    assert found["operators_per_call"] == 1  # the copy into the graph's input
    assert found["channels_last"] == ("channels_last" in recipe)


def test_it_is_warmed_up_on_a_side_stream_that_the_others_wait_for(
    driver: cuda.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, bool]] = []

    class Network(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            calls.append((driver.current, driver.is_capturing))
            return batch.mean(dim=(2, 3))

    cuda_graph.load(workloads.workload("cuda_graph", model=lambda: Network().eval()), None)
    *warm_up, captured = calls
    assert captured[1]
    assert len(warm_up) == cuda_graph.WARM_UP_CALLS
    assert {capturing for _, capturing in warm_up} == {False}
    (side,) = {stream for stream, _ in warm_up}
    assert side is not driver.default
    assert side.waited_for == [driver.default]
    assert driver.default.waited_for == [side]


def test_a_capture_that_did_not_happen_is_not_called_compiled(
    driver: cuda.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    session = cuda_graph.load(workloads.workload("cuda_graph"), None)
    assert session.evidence(session.to_device(workloads.images()))["compiled"] is False


def test_a_replay_that_writes_nothing_is_not_called_compiled(
    driver: cuda.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = cuda_graph.load(workloads.workload("cuda_graph"), None)
    monkeypatch.setattr(cuda.CUDAGraph, "replay", lambda self: None)
    assert session.evidence(session.to_device(workloads.images()))["compiled"] is False


def test_a_call_that_ran_eagerly_is_not_called_compiled(driver: cuda.Cuda) -> None:
    session = cuda_graph.load(workloads.workload("cuda_graph"), None)
    session.run = torch.inference_mode()(workloads.network())  # type: ignore[method-assign]
    assert session.evidence(session.to_device(workloads.images()))["compiled"] is False


def test_a_model_that_cannot_be_captured_is_unsupported_with_the_drivers_words(driver: cuda.Cuda) -> None:
    driver.refusal = "CUDA error: operation not permitted when stream is capturing\nmore of it"
    with pytest.raises(Unsupported, match="cannot be captured in a CUDA graph: CUDA error: operation not perm"):
        cuda_graph.load(workloads.workload("cuda_graph"), None)


def test_memory_that_ran_out_while_capturing_is_told_as_such(driver: cuda.Cuda) -> None:
    driver.refusal = "CUDA out of memory. Tried to allocate 20.00 MiB"
    with pytest.raises(OutOfMemory), memory_errors():
        cuda_graph.load(workloads.workload("cuda_graph"), None)
