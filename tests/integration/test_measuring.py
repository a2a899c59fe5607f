"""Measuring for real, on the smallest model: what is stored is what happened, and no evidence is a constant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farm import allocator, building, datasets, locks, measuring, onnx_graph, runtimes
from farm.environment import has_bf16
from farm.errors import CorruptArtifact, OutOfMemory, Unsupported, memory_errors
from farm.measurement import Measurement
from farm.passes import profile
from farm.precision import PRECISIONS
from farm.recipe import Choice
from farm.runtimes import compile as compile_runtime
from farm.runtimes import onnxruntime as onnx_runtime
from farm.runtimes import openvino as openvino_runtime
from farm.settings import Settings
from farm.spec import JobSpec, Protocol, job
from farm.verdict import Level, judge

#: Runtimes that make an artifact.
BUILT = ("torchscript", "onnx", "openvino", "compile", "pruning", "distillation", "qat")

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = Protocol(
    name="test",
    warmup_min_s=0.0,
    warmup_max_s=0.1,
    min_s=0.05,
    max_s=0.1,
    target_half_width=5,
    paired=False,
    accuracy_samples=96,
)

WRONG = '''
"""A runtime whose answers are wrong."""

from farm.runtimes import Support

SUPPORT = Support(summary="wrong answers")


def load(workload, folder):
    from farm import torch_session

    model = torch_session.prepared(workload)
    return torch_session.TorchSession(workload, lambda images: -model(images))
'''


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def measure(settings: Settings) -> Any:
    def _measure(recipe: str = "baseline", **fields: Any) -> Measurement:
        spec = small(recipe, **fields)
        building.build(spec, settings)
        return measuring.measure_here(spec, settings)

    return _measure


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of runtimes outside the project."""
    folder = tmp_path / "plugins/farm/runtimes"
    folder.mkdir(parents=True)
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(folder)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("farm.runtimes.") and "wrong" in name]:
        del sys.modules[name]


def small(recipe: str = "baseline", **fields: Any) -> JobSpec:
    given = {"model": "resnet18", "image_size": 32, "batch_size": 4, "protocol": PROTOCOL, **fields}
    return job(recipe=recipe, **given)


@pytest.mark.parametrize(
    "recipe",
    [
        "baseline",
        "channels_last",
        "amp",
        "channels_last+amp",
        "torchscript",
        "channels_last+amp+torchscript",
        "onnxruntime",
        "channels_last+onnxruntime",
        "compile",
        "system_malloc",
        "bf16",
        "channels_last+fp16",
        "bf16+torchscript",
        "openvino",
        "int8_static+openvino",
        "int8_static+onnxruntime",
        "channels_last+int8_dynamic+onnxruntime",
        "int8_dynamic",
        "int8_static+compile",
        "compile(max-autotune)",
        "pruning",
        "pruning(0.5)+channels_last+int8_static+onnxruntime",
        "distillation+torchscript",
        # NNCF leaves the pool open in which it compiles its extension.
        pytest.param("qat+int8_static+openvino", marks=pytest.mark.filterwarnings("ignore:.*Pool.__del__")),
        pytest.param("bf16+openvino", marks=pytest.mark.skipif(not has_bf16(), reason="no bfloat16 in hardware")),
    ],
)
def test_every_recipe_runs_agrees_with_fp32_and_proves_it(recipe: str, measure: Any) -> None:
    found = measure(recipe)
    assert [r for r in judge(found).reasons if r.code == "fallback"] == []
    assert found.accuracy.agreeing / found.accuracy.samples > (0.85 if found.spec.recipe.share else 0.95)
    assert found.accuracy.top1_correct / found.accuracy.samples > 0.8
    assert found.evidence["dtype"] == found.evidence["dtype_asked"]
    assert found.evidence["dtype"] == PRECISIONS[found.spec.recipe.precision].dtypes["cpu"]
    assert found.evidence.get("channels_last", False) == ("channels_last" in recipe)
    assert found.profile is not None, found.missing
    assert found.profile.operators[0].self_s > 0
    assert json.loads(found.profile.trace)["traceEvents"]
    assert (found.build_s is not None) == any(name in recipe for name in BUILT)
    in_8_bits = found.evidence.get("int8_convolutions", 0) + found.evidence.get("int8_products", 0)
    assert ("int8" in recipe) == (in_8_bits > 0)


def test_pruning_removes_the_asked_share_of_channels_and_what_runs_is_smaller(measure: Any) -> None:
    found, whole = measure("pruning(0.5)+channels_last+int8_static+onnxruntime"), measure("baseline")
    done = found.evidence["compression"]
    assert 0.45 < done["removed_channels"] / done["channels_before"] < 0.55
    assert (found.parameters, found.macs) == (done["parameters"], done["macs"])
    assert (whole.parameters, whole.macs) == (done["parameters_before"], done["macs_before"])
    assert found.parameters < 0.35 * whole.parameters
    assert done["fine_tuned"]["steps"] > 0


def test_a_student_has_at_most_the_share_of_parameters_that_was_asked_for(measure: Any) -> None:
    student = measure("distillation(0.25)")
    assert 0.15 < student.parameters / measure("baseline").parameters <= 0.25


def test_without_labels_pruning_is_not_fine_tuned_and_qat_is_unsupported(measure: Any) -> None:
    found = measure("pruning(0.5)", dataset="synthetic")
    assert found.evidence["compression"]["fine_tuned"] == "no: there are no real labels"
    assert [r.level for r in judge(found).reasons if r.code == "accuracy_lost"] == [Level.SUSPECT]
    with pytest.raises(Unsupported, match="this dataset has none"):
        measure("qat+int8_static+onnxruntime", dataset="synthetic")


def test_dynamic_int8_says_why_nothing_shrank(measure: Any) -> None:
    note = measure("int8_dynamic").evidence["note"]
    assert note.startswith("1 of 21 layers run in 8 bits, for torch quantizes Linear layers only")


def test_repeats_share_what_was_compressed_and_another_share_does_not(settings: Settings, measure: Any) -> None:
    first, again, other = measure("pruning"), measure("pruning+torchscript"), measure("pruning(0.5)")
    assert first.evidence["compression"] == again.evidence["compression"] != other.evidence["compression"]


def test_a_compilation_in_the_measuring_process_says_what_the_compiler_was_given(settings: Settings) -> None:
    # The mode is for GPUs; the way to it is the same on a CPU, only without the graphs.
    choice = Choice(axis="runtime", name="compile", parameter="reduce-overhead")
    spec = small("channels_last+bf16")
    building.build(spec, settings)
    here = building.environment_of(spec, settings)
    workload = building.materials(spec, settings, here).workload
    workload = replace(workload, recipe=workload.recipe.having(choice))
    session = compile_runtime.load(workload, None)
    images = session.to_device(np.zeros(workload.shape, dtype=np.float32))
    assert session.evidence(images)["compiled"] is False
    session.run(images)
    evidence = session.evidence(images)
    assert (evidence["compiled"], evidence["graph_breaks"]) == (True, 0)
    assert evidence["convolutions"] == {"bfloat16": 20}


@pytest.mark.parametrize(
    ("recipe", "dtypes"),
    [
        ("baseline", ["float32"]),
        ("amp", ["float32"]),
        ("bf16", ["bfloat16"]),
        ("bf16+torchscript", ["bfloat16"]),
        ("int8_dynamic", ["float32", "int8"]),
        ("onnxruntime", ["float32"]),
        ("int8_static+onnxruntime", ["int8"]),
        ("openvino", ["float32"]),
        ("int8_static+openvino", ["int8"]),
    ],
)
def test_the_dtypes_that_weights_are_stored_in_are_evidence(recipe: str, dtypes: list[str], measure: Any) -> None:
    found = measure(recipe).evidence["weight_dtypes"]
    # Shapes and scales are values, too.
    assert list(found)[: len(dtypes)] == dtypes
    assert found[dtypes[0]] > 11_000_000


@pytest.mark.parametrize("recipe", ["int8_static+openvino", "int8_static+onnxruntime"])
def test_libraries_tell_their_makers_nothing(recipe: str, tmp_path: Path) -> None:
    spec = small(recipe, dataset="synthetic").model_dump_json()
    program = f"""
import json
from pathlib import Path
from farm import building
from farm.settings import Settings
from farm.spec import JobSpec
building.build(JobSpec.model_validate(json.loads({spec!r})), Settings(data_dir=Path({str(tmp_path / "data")!r})))
"""
    without = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**without, "HOME": str(tmp_path), "CI": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {path.name for path in tmp_path.rglob("*")}
    assert not {"intel", "Microsoft"} & left, left


def unquantized(model: Any) -> tuple[Any, dict[str, Any]]:
    return model, {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_8_bit_recipe_whose_convolutions_stayed_fp32_is_invalid(
    runtime: str, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_quantize", lambda workload, file, scheme: {})
    monkeypatch.setattr(openvino_runtime, "_quantized", lambda workload, model: unquantized(model))
    # Another batch size, so that the artifact of an honest build is not found.
    verdict = judge(measure(f"int8_static+{runtime}", batch_size=3))
    assert "fallback: asked for dtype int8, ran with float32" in [str(reason) for reason in verdict.reasons]
    assert verdict.level is Level.INVALID


def test_a_quantization_sees_training_images_only(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = datasets.load

    def load(dataset: str, part: str, image_size: int, root: Path) -> Any:
        asked.append(part)
        return real(dataset, part, image_size, root)

    spec = small("int8_static+onnxruntime")
    here = building.environment_of(spec, settings)
    workload = building._Plan(spec, settings, here).workload()
    monkeypatch.setattr(datasets, "load", load)
    images = workload.calibration()
    assert asked == ["train"]
    assert images.shape == (128, 3, 32, 32)
    assert images.dtype == np.float32


def test_device_and_end_to_end_are_sampled_apart(measure: Any) -> None:
    found = measure()
    assert len(found.samples.device_ns) >= 11
    assert len(found.samples.end_to_end_ns) >= 11
    assert found.samples.device_ns != found.samples.end_to_end_ns
    assert found.first_call_s > 0
    assert found.memory.peak_bytes > found.memory.floor_bytes
    assert found.started_at < found.ended_at


def test_a_measurement_survives_json(measure: Any) -> None:
    found = measure()
    assert Measurement.model_validate_json(found.model_dump_json()) == found


def test_amp_says_whether_the_processor_has_bfloat16(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.devices.cpu.has_bf16", lambda: False)
    assert measure("amp").evidence["amp"] == "emulated"


def test_a_runtime_with_wrong_answers_shows_a_low_top_1(measure: Any, plugins: Path) -> None:
    (plugins / "wrong.py").write_text(WRONG)
    found = measure("wrong")
    assert found.accuracy.top1_correct / found.accuracy.samples < 0.1
    assert found.accuracy.agreeing / found.accuracy.samples < 0.1


def test_a_compile_that_silently_ran_eager_is_invalid(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from farm.torch_session import prepared

    real = compile_runtime.load

    def load(workload: Any, folder: Path | None) -> Any:
        session = real(workload, folder)
        session.run = torch.inference_mode()(prepared(workload))  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(compile_runtime, "load", load)
    verdict = judge(measure("compile"))
    assert verdict.level == "INVALID"
    assert any(reason.code == "fallback" and "compil" in str(reason) for reason in verdict.reasons)


def test_a_provider_that_fell_back_to_the_cpu_is_invalid(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "PROVIDERS", {"cpu": "CUDAExecutionProvider"})
    verdict = judge(measure("onnxruntime"))
    assert verdict.level == "INVALID"
    assert any(reason.code == "fallback" and "CUDAExecutionProvider" in str(reason) for reason in verdict.reasons)


def test_autocast_that_did_not_happen_is_invalid(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.torch_session.Autocast.forward", lambda self, images: self.model(images))
    verdict = judge(measure("amp"))
    assert verdict.level == "INVALID"
    assert any(reason.code == "fallback" and "bfloat16" in str(reason) for reason in verdict.reasons)


def test_synthetic_states_agreement_and_no_accuracy(measure: Any) -> None:
    found = measure("channels_last", dataset="synthetic", image_size=32)
    assert found.accuracy.top1_correct is None
    assert found.accuracy.agreeing > 0
    assert "no real labels" in found.missing["accuracy_top1"]


def test_corrupt_weights_are_noticed_and_made_anew(settings: Settings, measure: Any) -> None:
    measure()
    here = building.environment_of(small(), settings)
    assert not building.needs_build(small(), settings, here)
    weights = building.materials(small(), settings, here).workload.weights
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert building.needs_build(small(), settings, here)
    with pytest.raises(CorruptArtifact, match="corrupt"):
        building.materials(small(), settings, here)
    assert "corrupt" in measure().evidence["rebuilt_because"]


def test_a_gpu_recipe_without_a_gpu_is_unsupported_or_refused(measure: Any, plugins: Path) -> None:
    text = WRONG.replace('summary="wrong answers"', 'summary="x", devices=("cuda",)')
    (plugins / "wrong_cuda.py").write_text(text)
    with pytest.raises(Unsupported, match="runs on cuda, not on cpu"):
        measure("wrong_cuda")


@pytest.mark.parametrize(
    "error",
    [MemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("bad_alloc")],
)
def test_memory_that_ran_out_is_told_apart(error: Exception) -> None:
    with pytest.raises(OutOfMemory), memory_errors():
        raise error


def test_inputs_are_distinct_and_of_the_batch_size(settings: Settings) -> None:
    spec = small(batch_size=40)
    inputs = measuring.distinct_inputs(building.test_part(spec, settings), spec)
    assert {array.shape for array in inputs} == {(40, 3, 32, 32)}
    assert len({array.tobytes() for array in inputs}) == len(inputs) == 8
    assert all(array.dtype == np.float32 for array in inputs)


def _farm(*arguments: str, plugins: Path | None = None, data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FARM_DATA_DIR": str(data)}
    if plugins is not None:
        environment["PYTHONPATH"] = str(plugins)
    command = [sys.executable, "-m", "farm", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_runtime_of_the_documentation_works_as_printed(settings: Settings, tmp_path: Path) -> None:
    page = (ROOT / "docs/adding-a-runtime.md").read_text()
    match = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert match is not None
    folder = tmp_path / "farm/runtimes"
    folder.mkdir(parents=True)
    (folder / "folded.py").write_text(match[1])
    arguments = ["measure", "--model", "resnet18", "--image-size", "32", "--recipe", "folded+channels_last"]
    done = _farm(*arguments, plugins=tmp_path, data=settings.data_dir)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["model_variant"] == "resnet18_channels_last+folded"
    assert summary["evidence"]["batch_norms"] == 0
    assert summary["accuracy"]["agreement_top1"] > 0.99


def test_the_command_prints_a_table_and_one_json_object_on_the_last_line(settings: Settings) -> None:
    done = _farm(
        "measure", "--model", "resnet18", "--image-size", "32", "--batch-size", "2", data=settings.data_dir
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    for figure in ("device", "end_to_end"):
        assert list(summary["latency_s"][figure]) == ["mean", "std", "min", "p50", "p90", "p95", "p99"]
    assert "resnet18_baseline, batch 2" in done.stdout


def test_the_command_waits_for_whoever_measures_on_its_processors_and_says_so(
    settings: Settings, tmp_path: Path
) -> None:
    environment = {**os.environ, "FARM_DATA_DIR": str(settings.data_dir), "FARM_LOCK_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "farm", "measure", "--model", "resnet18", "--image-size", "32"]
    with locks.hold(tmp_path, len(locks.processors())):
        waiting = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert waiting.stderr is not None
        told = next(line for line in waiting.stderr if "waiting" in line or "measuring" in line)
        assert "another farm or command of this host measures on these processors" in told
    out, err = waiting.communicate()
    assert (waiting.returncode, err.count("measuring resnet18_baseline, batch 1, on cpu")) == (0, 1)
    assert json.loads(out.splitlines()[-1])["model_variant"] == "resnet18_baseline"


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ("cuda_graph", "cuda_graph runs on cuda, not on cpu"),
        ("fp16+tensorrt", "tensorrt runs on cuda, not on cpu"),
        ("int8_static+onnxruntime(tensorrt)", "onnxruntime(tensorrt) runs on cuda, not on cpu"),
        ("fp16+onnxruntime", "fp16 on onnxruntime runs on cuda, not on cpu"),
    ],
)
def test_what_only_a_gpu_runs_is_an_unsupported_result_on_a_cpu(recipe: str, why: str, tmp_path: Path) -> None:
    done = _farm("measure", "--recipe", recipe, data=tmp_path / "data")
    assert done.returncode == 0
    ended = json.loads(done.stdout.splitlines()[-1])
    assert (ended["outcome"], ended["reason"]) == ("unsupported", why)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--recipe", "chanels_last"], "Did you mean 'channels_last'"),
        (["--batch-size", "abc"], "given: 'abc'"),
        (["--model", "densenet12"], "Did you mean 'densenet121'"),
        (["--dataset", "digit"], "Did you mean 'digits'"),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--protocol", "quik"], "quick"),
    ],
)
def test_bad_input_ends_with_2_and_no_traceback(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = _farm("measure", *arguments, data=tmp_path / "data")
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_build_that_cannot_be_is_the_result_and_not_a_riddle(settings: Settings, tmp_path: Path) -> None:
    arguments = [
        "measure",
        "--model",
        "resnet18",
        "--image-size",
        "32",
        "--recipe",
        "compile",
        "--batch-size",
        "3",
    ]
    environment = {**os.environ, "FARM_DATA_DIR": str(settings.data_dir), "CXX": "no-such-compiler"}
    command = [sys.executable, "-m", "farm", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    ended = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert (ended["outcome"], ended["reason"]) == (
        "unsupported",
        "compile needs a C++ compiler: apt-get install g++",
    )


def test_the_profile_pass_comes_after_everything_that_is_timed(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled_at, run = [], profile.run

    def noted(*arguments: Any, **how: Any) -> Any:
        profiled_at.append(time.time())
        return run(*arguments, **how)

    monkeypatch.setattr(profile, "run", noted)
    assert profiled_at == []
    assert measure().timed_until < profiled_at[0]


def test_two_measurements_of_a_job_do_not_share_the_layout_of_their_memory(measure: Any) -> None:
    seeds = [measure().evidence["layout_seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_each_window_beside_a_control_has_a_layout_of_its_own(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, draw = [], allocator.Layout.draw

    def noted(layout: allocator.Layout) -> None:
        draws.append(layout)
        draw(layout)

    monkeypatch.setattr(allocator.Layout, "draw", noted)
    found = measure(protocol=PROTOCOL.model_copy(update={"paired": True}))
    assert len(draws) == 1 + len(found.control.cell_first)
