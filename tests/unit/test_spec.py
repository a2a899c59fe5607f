"""Values: JSON round-trip, stable keys, the order of jobs, and errors for people."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import BadInput
from farm.spec import PRESETS, Cell, JobSpec, Matrix, Protocol, changed, completed, job, preset, stored, validated

RECIPES = ["baseline", "channels_last", "amp", "torchscript", "compile", "onnxruntime"]


def matrix(**fields: Any) -> Matrix:
    return validated(Matrix, {"optimizations": RECIPES, "protocol": "quick", **fields})


@given(
    recipe=st.sampled_from([*RECIPES, "amp+channels_last", "compile+amp+channels_last"]),
    batch_size=st.integers(1, 65536),
    threads=st.none() | st.integers(1, 64),
    protocol=st.sampled_from(sorted(PRESETS)),
)
def test_a_job_survives_json_with_its_key(
    recipe: str, batch_size: int, threads: int | None, protocol: str
) -> None:
    spec = job(recipe=recipe, batch_size=batch_size, threads=threads, protocol=protocol)
    again = JobSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.key == spec.key


def test_the_key_does_not_depend_on_how_a_recipe_is_written() -> None:
    assert job(recipe="amp+channels_last").key == job(recipe="channels_last+amp").key
    assert job(recipe="amp").key != job(recipe="baseline").key


def test_the_key_is_the_sha256_of_the_canonical_json() -> None:
    spec = job(recipe="amp", batch_size=8)
    text = json.dumps(json.loads(spec.model_dump_json()), sort_keys=True, separators=(",", ":"))
    assert spec.key == hashlib.sha256(text.encode()).hexdigest()


def test_percentiles_are_named_by_number_in_order_and_each_once() -> None:
    protocol, _ = preset("quick")
    assert changed(protocol, ["percentiles=99+50+99"]).percentiles == (50, 99)
    with pytest.raises(BadInput, match=r"Unknown percentile '42'.*50, 90, 95, 99"):
        changed(protocol, ["percentiles=50+42"])
    with pytest.raises(BadInput, match="Unknown percentile 'fast'"):
        changed(protocol, ["percentiles=fast"])


def test_what_a_spec_does_not_have_is_not_in_its_key() -> None:
    for value in (job(), job(recipe="amp+compile", batch_size=8, threads=2).cell, matrix(optimizations=["amp"])):
        unsaid = {"weights", "model_digest", "model_digests", "min_vram_mb"}
        assert not unsaid & set(json.loads(value.canonical()))


@pytest.mark.parametrize("weights", ["pretrained", f"sha256:{'a' * 64}"])
def test_weights_are_part_of_the_key_and_survive_json(weights: str) -> None:
    spec = job(weights=weights)
    assert spec.key != job().key
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    [cell] = matrix(weights=weights, optimizations=["amp"], batch_sizes=[1]).cells()
    assert cell.weights == weights
    assert spec.cell.weights == weights


def test_repeats_share_a_cell_and_have_keys_of_their_own() -> None:
    jobs = matrix(repeats=3).jobs()
    assert len({spec.key for spec in jobs}) == 3 * 6 * 3
    assert len({spec.cell.key for spec in jobs}) == 6 * 3


def test_repeats_are_outermost_and_cells_are_shuffled_from_the_seed() -> None:
    jobs = matrix(repeats=2).jobs()
    assert [spec.repeat for spec in jobs] == [0] * 18 + [1] * 18
    first, second = ([spec.cell.key for spec in jobs[i : i + 18]] for i in (0, 18))
    assert first != second
    assert sorted(first) == sorted(second)
    assert jobs == matrix(repeats=2).jobs()
    assert jobs != matrix(repeats=2, seed=1).jobs()


UNPAIRED = Protocol(paired=False, control_every=4)


def test_a_control_comes_first_after_every_so_many_jobs_and_last() -> None:
    three = ("baseline", "amp", "compile")
    planned = matrix(repeats=1, optimizations=three, batch_sizes=(1, 2, 4), protocol=UNPAIRED)
    jobs = planned.jobs()
    [control] = planned.controls()
    marks = ["C" if spec.cell == control else "j" for spec in planned.plan()]
    assert "".join(marks) == "CjjjjCjjjjCjC"
    assert [spec.repeat for spec in planned.plan() if spec.cell == control] == [1, 2, 3, 4]
    assert [spec for spec in planned.plan() if spec.cell != control] == jobs
    even = matrix(repeats=2, batch_sizes=(1, 2), optimizations=("baseline", "amp"), protocol=UNPAIRED).plan()
    assert "".join("C" if spec.protocol.name == "control" else "j" for spec in even) == "CjjjjCjjjjC"


def test_each_device_has_a_control_of_its_own_with_the_baseline_of_the_first_model_and_batch_size() -> None:
    planned = matrix(
        devices=("cpu", "cuda"),
        batch_sizes=(8, 1),
        optimizations=("amp",),
        repeats=3,
        threads=2,
        protocol=UNPAIRED,
    )
    cpu, cuda = planned.controls()
    assert [str(cell.recipe) for cell in (cpu, cuda)] == ["baseline"] * 2
    assert (cpu.device, cuda.device, cpu.batch_size, cpu.threads) == ("cpu", "cuda", 8, 2)
    for control in (cpu, cuda):
        ours = [spec for spec in planned.plan() if spec.device == control.device]
        assert "".join("C" if spec.cell == control else "j" for spec in ours) == "CjjjjCjjC"


def test_a_control_is_not_measured_again_and_never_taken_for_a_cell_of_the_matrix() -> None:
    planned = matrix(optimizations=("baseline",), batch_sizes=(1,), repeats=9, protocol=UNPAIRED)
    [control], [cell] = planned.controls(), planned.cells()
    assert control.protocol.remeasure == 0
    assert control.key != cell.key
    assert control.protocol.model_copy(update={"name": cell.protocol.name, "remeasure": 2}) == cell.protocol


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol": Protocol(paired=True)},
        {"protocol": Protocol(paired=False, control_every=None)},
        {"protocol": UNPAIRED, "repeats": 4},
    ],
)
def test_there_are_no_controls_beside_live_ones_where_none_are_wanted_or_for_few_jobs(
    fields: dict[str, Any],
) -> None:
    planned = matrix(**{"optimizations": ("amp",), "batch_sizes": (1,), "repeats": 40, **fields})
    assert planned.controls() == []
    assert planned.plan() == planned.jobs()


def test_a_recipe_named_twice_is_one_cell() -> None:
    assert len(matrix(optimizations=["amp+channels_last", "channels_last+amp"]).cells()) == 3


def test_repeats_and_image_size_follow_protocol_and_dataset() -> None:
    assert matrix(protocol="standard").repeats == 10
    assert matrix(protocol="thorough").repeats == 30
    assert matrix().image_size == 64
    assert matrix(dataset="synthetic").image_size == 224


def test_a_special_gpu_has_a_queue_of_its_own() -> None:
    assert matrix(devices=["cuda.h200"]).cells()[0].queue == "gpu.h200"
    assert matrix(devices=["gpu"]).cells()[0].queue == "gpu"
    assert matrix(devices=["cpu"]).cells()[0].queue == "cpu"


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"batch_sizes": [0]}, "greater than or equal to 1"),
        ({"batch_sizes": [-1]}, "greater than or equal to 1"),
        ({"batch_sizes": [10**9]}, "less than or equal to 65536"),
        ({"batch_sizes": ["abc"]}, "given: 'abc'"),
        ({"batch_sizes": []}, "batch_sizes names nothing"),
        ({"optimizations": []}, "optimizations names nothing"),
        ({"models": ["densenet12"]}, "Did you mean 'densenet121'"),
        ({"devices": ["gpu0"]}, "Unknown device 'gpu0'"),
        ({"devices": ["tpu"]}, "Unknown device 'tpu'"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"dataset": "image_folder:../../etc"}, "inside FARM_DATASETS_DIR"),
        ({"dataset": "image_folder:/etc"}, "inside FARM_DATASETS_DIR"),
        ({"dataset": "image_folder"}, "image_folder:FOLDER"),
        ({"dataset": "digits:x"}, "takes no folder"),
        ({"protocol": "quik"}, "Did you mean 'quick'"),
        ({"batchsizes": [1]}, "Did you mean 'batch_sizes'"),
        ({"image_size": 8}, "greater than or equal to 32"),
        ({"weights": "/etc/passwd"}, "Possible: pretrained, or sha256:"),
        ({"weights": "sha256:abc"}, "64 hexadecimal digits"),
        ({"weights": f"sha256:{'a' * 64}", "models": ["resnet18", "resnet34"]}, "belongs to one model"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"batch_sizes": list(range(1, 60_000)), "repeats": 1000}, "at most 1,000,000"),
    ],
)
def test_bad_input_is_refused_with_what_is_possible(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(BadInput) as refused:
        matrix(**fields)
    assert part in str(refused.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        matrix(batch_sizes=[0], models=["nope"])
    assert "batch_sizes" in str(refused.value)
    assert "Unknown model" in str(refused.value)


def test_unknown_fields_in_a_stored_spec_are_refused() -> None:
    with pytest.raises(BadInput):
        validated(JobSpec, {**job().model_dump(mode="json"), "command": "rm -rf /"})


def test_a_protocol_that_is_changed_says_so_in_its_name() -> None:
    quick, _ = preset("quick")
    made = changed(quick, ["min-calls=100", "accuracy_samples = none", "max_s=3", "max_s=4"])
    assert made == quick.model_copy(
        update={"name": "quick+", "min_calls": 100, "accuracy_samples": None, "max_s": 4.0}
    )
    assert changed(quick, [f"min_calls={quick.min_calls}"]) == quick
    assert JobSpec.model_validate_json(job(protocol=made).model_dump_json()).protocol == made


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("min_cals=3", "'min_calls'"),
        ("min_calls", "--set min_calls: a field and its value"),
        ("min_calls=0", "--set min_calls: Input should be greater"),
        ("min_calls=many", "--set min_calls: This must be a whole number (given: 'many')"),
        ("max_s=inf", "finite"),
        ("min_s=nan", "--set min_s"),
        ("min_s=5", "Set max_s as well"),
        ("warmup_min_s=5", "Set warmup_max_s as well"),
        ("measure_deadline_s=2", "Set measure_deadline_s as well"),
        ("name=mine", "the name cannot be set"),
    ],
)
def test_what_cannot_be_set_is_said_with_the_flag(setting: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        changed(preset("quick")[0], [setting])
    assert said in str(refused.value)
    assert str(refused.value).startswith("--set")


def test_windows_that_no_attempt_has_the_time_for_are_refused() -> None:
    standard, _ = preset("standard")
    with pytest.raises(BadInput, match=r"measure_deadline_s \(900\), and its timed windows alone take 901 s"):
        changed(standard, ["min_s=300", "max_s=400"])
    assert changed(standard, ["min_s=300", "max_s=400", "measure_deadline_s=3600"]).min_s == 300


def test_a_size_that_a_model_cannot_take_is_refused_before_anything_is_queued() -> None:
    with pytest.raises(BadInput, match=r"inception_v3 cannot take images of 64×64 pixels\. Possible"):
        validated(Matrix, {"models": ["resnet18", "inception_v3"], "optimizations": ["baseline"]})


#: A protocol as the first farm that kept results wrote it down.
FIRST = {
    "name": "standard",
    "warmup_min_s": 0.5,
    "warmup_max_s": 10.0,
    "warmup_min_calls": 3,
    "min_s": 2.0,
    "min_calls": 11,
    "target_half_width": 0.01,
    "max_s": 10.0,
    "distinct_inputs": 8,
    "accuracy_samples": None,
    "build_deadline_s": 1800.0,
    "measure_deadline_s": 900.0,
}


def test_a_protocol_that_an_older_farm_wrote_down_is_read_as_what_it_did() -> None:
    written = json.dumps({**job().model_dump(mode="json"), "protocol": FIRST})
    read = stored(JobSpec, written).protocol
    assert (read.paired, read.isolation, read.remeasure, read.telemetry_s) == (False, "spawn", 0, None)
    assert stored(JobSpec, job().canonical()) == job()


def test_every_field_of_a_protocol_says_what_was_before_it() -> None:
    assert set(completed({"protocol": FIRST})["protocol"]) == set(Protocol.model_fields)


def many_kinds() -> Matrix:
    return matrix(
        models=["densenet121", "resnet18"],
        devices=["cpu", "cuda.h200"],
        optimizations=["baseline", "pruning(0.3)+compile"],
        threads=2,
        weights="pretrained",
        repeats=3,
        protocol=UNPAIRED,
    )


def test_cells_are_what_checking_their_values_again_would_make() -> None:
    for cell in (*many_kinds().cells(), *many_kinds().controls()):
        assert Cell.model_validate_json(cell.model_dump_json()) == cell
        assert JobSpec.model_validate_json(cell.repeated(4).model_dump_json()) == cell.repeated(4)


def test_keys_of_jobs_can_be_had_without_the_jobs() -> None:
    for cell in (*many_kinds().cells(), *matrix(dataset='image_folder:a"repeat":0b').cells()):
        key = cell.job_keys()
        assert [key(n) for n in (0, 1, 12, 999)] == [cell.repeated(n).key for n in (0, 1, 12, 999)]
        assert key(3) == JobSpec.model_validate({**cell.model_dump(), "repeat": 3}).key


def test_the_order_of_very_many_jobs_begins_without_the_end() -> None:
    order = matrix(batch_sizes=tuple(range(1, 1001)), optimizations=("baseline",), repeats=1000).order()
    assert next(order) == (1000, 1)  # the control
    place, repeat = next(order)
    assert repeat == 0
    assert 0 <= place < 1000


def test_gpu_memory_is_asked_for_by_gpu_cells_only() -> None:
    found = matrix(optimizations=["amp"], devices=["cpu", "cuda"], batch_sizes=[1], min_vram_mb=40_000)
    assert {cell.device: cell.min_vram_mb for cell in found.cells()} == {"cpu": None, "cuda": 40_000}
    assert Matrix.model_validate_json(found.model_dump_json()) == found
    [cpu] = matrix(optimizations=["amp"], batch_sizes=[1]).cells()
    assert cpu in found.cells()


@pytest.mark.parametrize("asked", [0, -1, "much"])
def test_gpu_memory_that_is_no_number_is_refused(asked: object) -> None:
    with pytest.raises(BadInput, match="min_vram_mb"):
        matrix(devices=["cuda"], min_vram_mb=asked)


def test_gpu_memory_without_a_gpu_is_refused() -> None:
    with pytest.raises(BadInput, match=r"names no GPU: leave it out, or add --devices cuda"):
        matrix(devices=["cpu"], min_vram_mb=40_000)
