"""The profile pass: what each profiler tells, what is kept of it, and that it costs nothing but itself."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from farm import devices, measuring, runtimes
from farm.measurement import Measurement, Operator, Profile
from farm.passes import profile
from tests import factories
from tests.fakes import workloads

ROOT = Path(__file__).resolve().parents[2]
DEVICE = devices.open_device("cpu", 1)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which must be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    # what torch makes when it is first imported in full is torch's own
    assert [path for path in folder.iterdir() if not path.name.startswith("torchinductor_")] == []


@dataclass
class OwnSession:
    """A session with a profiler of its own."""

    found: Profile | Exception = field(default_factory=lambda: a_profile())

    def profile(self, on_device: Any, calls: int) -> Profile:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def a_profile(**fields: Any) -> Profile:
    return Profile.model_validate({"source": "own", "calls": 3, **fields})


def profiled(recipe: str, folder: Path) -> Profile:
    """The profile of the small network, really built, loaded and run."""
    workload = workloads.workload(recipe)
    plugin = runtimes.module(workload.recipe.runtime)
    if runtimes.is_built(workload.recipe):
        plugin.build(workload, folder)
    session = plugin.load(workload, folder)
    found = profile.run(session, DEVICE, session.to_device(workloads.images()), on_gpu=False)
    self_s = [operator.self_s for operator in found.operators]
    assert self_s == sorted(self_s, reverse=True)
    assert min(self_s) >= 0
    assert self_s[0] > 0
    assert {operator.device_self_s for operator in found.operators} == {None}
    assert found.missing == {}
    return found


def by_name(found: Profile) -> dict[str, Operator]:
    return {operator.name: operator for operator in found.operators}


def events(found: Profile) -> list[dict[str, Any]]:
    assert found.trace is not None
    return list(json.loads(found.trace)["traceEvents"])


def total_s(operators: Iterable[Operator]) -> float:
    return sum(operator.host_total_s or 0.0 for operator in operators)


def measured(session: Any, **fields: Any) -> tuple[Profile | None, dict[str, str]]:
    return measuring._profiled(session, DEVICE, None, factories.spec(**fields))


# ---- what each profiler tells


def test_torch_tells_the_operators_of_a_call_and_what_is_in_none_of_them(tmp_path: Path) -> None:
    found = profiled("baseline", tmp_path)
    operators = by_name(found)
    call, convolution = operators[profile.CALL], operators["aten::conv2d"]
    assert (found.source, found.calls) == ("torch.profiler", 3)
    assert (call.calls, convolution.calls) == (3, 6)
    assert total_s([call]) > total_s([convolution]) > convolution.self_s
    assert sum(operator.self_s for operator in found.operators) == pytest.approx(total_s([call]), rel=0.01)
    assert sum(event["name"] == "aten::conv2d" for event in events(found)) == 6


def test_a_runtime_on_torch_without_a_profiler_of_its_own_is_watched_by_torchs(tmp_path: Path) -> None:
    assert by_name(profiled("torchscript", tmp_path))[profile.CALL].calls == 3


def test_onnx_runtime_tells_its_nodes_and_who_took_them(tmp_path: Path) -> None:
    found = profiled("onnxruntime", tmp_path)
    operators = by_name(found)
    assert (found.source, found.calls) == ("onnxruntime", 3)
    assert operators["Gemm"].provider == "CPUExecutionProvider"
    assert operators["Gemm"].calls == 3  # the first call of all is not among them
    nodes = [event for event in events(found) if event.get("args", {}).get("op_name") == "Gemm"]
    assert operators["Gemm"].host_total_s == pytest.approx(sum(event["dur"] for event in nodes[1:]) / 3e6)


def test_openvino_tells_its_layers_and_kernels_and_that_its_trace_is_a_sequence(tmp_path: Path) -> None:
    found = profiled("openvino", tmp_path)
    layers = by_name(found)
    assert (found.source, found.calls) == ("openvino", 3)
    assert layers["Convolution"].calls == 3
    assert layers["Convolution"].provider
    track, *sequence = events(found)
    assert "one after the other" in track["args"]["name"]
    for event, following in itertools.pairwise(sequence):
        assert event["ts"] + event["dur"] == pytest.approx(following["ts"])
    assert sum(event["dur"] for event in sequence) / 1e6 == pytest.approx(total_s(found.operators))


def test_openvinos_mean_is_freed_from_the_first_call() -> None:
    from datetime import timedelta

    from farm.runtimes import openvino

    def counted(microseconds: float, status: str = "EXECUTED") -> Any:
        return SimpleNamespace(
            node_name="conv1",
            node_type="Convolution",
            exec_type="jit",
            status=SimpleNamespace(name=status),
            real_time=timedelta(microseconds=microseconds),
        )

    # 900 µs, then three times 100 µs: 300 µs in the mean
    span = openvino._span(counted(900), counted(300), 3)
    assert span is not None
    assert span.seconds == pytest.approx(100e-6)
    rounded = openvino._span(counted(5), counted(1), 3)
    assert rounded is not None
    assert rounded.seconds == 0
    assert openvino._span(counted(0, "NOT_RUN"), counted(0, "NOT_RUN"), 3) is None


def test_on_a_gpu_kernels_have_the_time_and_operators_what_they_started() -> None:
    def average(key: str, where: str, **times: Any) -> Any:
        none = dict.fromkeys(
            ("cpu_time_total", "self_cpu_time_total", "device_time_total", "self_device_time_total"), 0.0
        )
        found = {**none, "count": 3, "is_user_annotation": key == profile.CALL, **times}
        return SimpleNamespace(key=key, device_type=SimpleNamespace(name=where), **found)

    averages = [
        average(profile.CALL, "CPU", cpu_time_total=900.0, self_cpu_time_total=300.0, device_time_total=1800.0),
        average(profile.CALL, "CUDA", device_time_total=2000.0, self_device_time_total=2000.0),
        average(
            "aten::conv2d",
            "CPU",
            cpu_time_total=600.0,
            self_cpu_time_total=600.0,
            device_time_total=1800.0,
            self_device_time_total=1800.0,
        ),
        average("sm90_conv", "CUDA", device_time_total=1800.0, self_device_time_total=1800.0),
    ]
    found = list(profile._torch_operators(averages, 3, on_gpu=True))
    assert [operator.name for operator in found] == [profile.CALL, "aten::conv2d", "sm90_conv"]
    _, convolution, kernel = found
    assert [convolution.host_self_s, convolution.device_total_s] == pytest.approx([200e-6, 600e-6])
    assert (convolution.device_self_s, kernel.host_self_s) == (0, None)
    assert [kernel.device_total_s, kernel.device_self_s] == pytest.approx([600e-6, 600e-6])
    assert sum(operator.self_s for operator in found) == pytest.approx(600e-6)
    [on_cpu] = profile._torch_operators(averages[2:3], 3, on_gpu=False)
    assert on_cpu.device_total_s is None
    assert on_cpu.self_s == pytest.approx(200e-6)


# ---- what is kept


def test_the_least_of_many_operators_are_left_out_and_it_is_said() -> None:
    many = [Operator(name=str(number), calls=1, host_self_s=number) for number in range(510)]
    found = profile.run(OwnSession(a_profile(operators=many)), DEVICE, None, on_gpu=False)  # type: ignore[arg-type]
    assert [operator.name for operator in found.operators] == [str(number) for number in range(509, 9, -1)]
    assert found.missing == {"operators": "10 of 510, those with the least time"}


def test_a_trace_that_is_too_large_is_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, kept in ((profile.MAX_TRACE_CHARS, True), (profile.MAX_TRACE_CHARS + 1, False)):
        own = OwnSession(a_profile(trace="x" * length, missing={"device_self_s": "not told"}))
        found = profile.run(own, DEVICE, None, on_gpu=False)  # type: ignore[arg-type]
        assert (found.trace is not None, "trace" in found.missing) == (kept, not kept)
        assert found.missing["device_self_s"] == "not told"
    assert found.missing["trace"] == "7.0 MiB are more than the 7 that are kept"


def test_the_largest_profile_fits_through_the_pipe_for_results() -> None:
    from workers import watching

    names = [Operator(name=f"{number}" * 1000, calls=1) for number in range(profile.MAX_OPERATORS)]
    worst = a_profile(operators=names, trace='"' * profile.MAX_TRACE_CHARS)
    assert len(json.dumps(worst.model_dump(mode="json"))) < watching.MAX_RESULT_BYTES - (1 << 20)


def test_names_that_nothing_could_store_are_made_storable() -> None:
    operator = Operator(name=f"a\0b\ud800{'x' * 2000}", provider="c\0", calls=1)
    assert operator.name.startswith("a\N{REPLACEMENT CHARACTER}b?xx")
    assert (len(operator.name), operator.provider) == (1000, "c\N{REPLACEMENT CHARACTER}")
    assert a_profile(trace='{"traceEvents": ["\ud800"]}').trace == '{"traceEvents": ["?"]}'


# ---- what it costs


def test_a_profiler_that_fails_costs_the_profile_and_nothing_else() -> None:
    found, why = measured(OwnSession(RuntimeError(f"CUPTI\n is busy {'!' * 1000}")))
    assert found is None
    assert why["profile"].startswith("RuntimeError: CUPTI is busy !!")
    assert len(why["profile"]) == 500
    assert measured(OwnSession(MemoryError()))[1] == {"profile": "MemoryError:"}


def test_only_the_first_repeat_is_profiled_and_only_where_the_protocol_wants_it() -> None:
    broken = OwnSession(RuntimeError("it was asked"))
    unwanted = factories.PROTOCOL.model_copy(update={"profile": False})
    assert measured(OwnSession(), repeat=0) == (a_profile(), {})
    assert measured(broken, repeat=1) == (None, {})
    assert measured(broken, protocol=unwanted) == (None, {})


def test_a_measurement_of_before_there_were_profiles_can_be_read() -> None:
    fields = factories.measurement().model_dump(mode="json")
    del fields["profile"]
    assert Measurement.model_validate(fields).profile is None


def test_measuring_does_not_import_a_profiler_before_it_is_wanted() -> None:
    code = (
        "import sys, farm.measuring; print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_profiler_says_nothing_to_people() -> None:
    code = "import farm, torch\nwith torch.profiler.profile(): torch.ones(1) + 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_profiling_does_not_change_what_the_session_answers(tmp_path: Path) -> None:
    workload = workloads.workload("baseline")
    session = runtimes.module("eager").load(workload, None)
    images = session.to_device(workloads.images())
    before = session.to_host(session.run(images))
    profile.run(session, DEVICE, images, on_gpu=False)
    assert np.array_equal(session.to_host(session.run(images)), before)
    assert not torch.autograd._profiler_enabled()
