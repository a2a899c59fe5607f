"""Rows and the CSV: which there are, what they say, and what they leave empty."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from farm.errors import BadInput
from farm.measurement import Accuracy, Hardware, Memory, Outcome, Samples, Usage
from farm.verdict import Level
from results_store.__main__ import app
from results_store.collate import Answer, Row, collate, export, speedup
from results_store.exporters.csv import COLUMNS
from results_store.exporters.csv import write as write_csv
from results_store.store import Ending, Store
from tests import factories

FIRST = (
    "model_variant,batch_size,device,ram_usage_mb,vram_usage_mb,cpu_utilization_pct,gpu_utilization_pct,latency_ms,"
    "throughput_samples_sec,accuracy_top1,accuracy_top5,model_size_mb,optimization_technique"
)
OTHER = factories.environment(device_model="Other CPU")


def end(store: Store, outcome: Outcome, reason: str = "", worker_id: str = "cpu@alpha") -> None:
    claim = store.claim(worker_id)
    assert claim is not None
    assert store.finish(claim, Ending(outcome=outcome, reason=reason))


def measure(store: Store, worker_id: str = "cpu@alpha", **fields: Any) -> None:
    claim = store.claim(worker_id)
    assert claim is not None
    assert store.finish(claim, factories.ok(claim, **fields))


def table(store: Store, run_id: str, folder: Path) -> list[dict[str, str]]:
    with export(collate(store, run_id), folder).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_says_when_the_first_repeat_began_and_the_last_one(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2, batch_sizes=(1,))
    for hours in (1, 5):
        measure(store, started_at=3600.0 * hours)
    assert "Measured 1970-01-01 01:00 UTC to 1970-01-01 05:00 UTC." in " ".join(
        export(collate(store, run), tmp_path, "report").read_text().split()
    )


def test_the_first_thirteen_columns_are_the_contract() -> None:
    assert ",".join(itertools.islice(COLUMNS, 13)) == FIRST


def test_a_measured_row_has_its_figures_in_the_units_of_their_names(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, optimizations=("channels_last+amp",), batch_sizes=(8,))
    device = tuple([10_000_000] * 100 + [12_000_000] * 99)
    measure(
        store,
        samples=Samples(device_ns=device, end_to_end_ns=(20_000_000,) * 200),
        usage=Usage(wall_s=2.0, cpu_s=3.0, faults_per_call=7.5, faults_by_half=(7.5, 7.5)),
        memory=Memory(floor_bytes=200 << 20, peak_bytes=(300 << 20) + (1 << 19)),
        first_call_s=0.0525,
        build_s=33.0,
        build_spent_s=31.5,
    )
    [row] = table(store, run, tmp_path)
    assert row["model_variant"] == "densenet121_channels_last+amp"
    assert row["optimization_technique"] == "channels_last+amp"
    assert (row["batch_size"], row["device"], row["outcome"]) == ("8", "cpu", "ok")
    assert row["latency_ms"] == row["latency_p50_ms"] == "10"
    assert row["end_to_end_p50_ms"] == "20"
    assert float(row["throughput_samples_sec"]) == pytest.approx(8 * 199 / 2.188, rel=1e-5)
    assert (row["ram_usage_mb"], row["model_size_mb"]) == ("100.5", "32")
    assert (row["vram_usage_mb"], row["gpu_utilization_pct"]) == ("", "")
    assert row["cpu_utilization_pct"] == "75"
    assert float(row["accuracy_top1"]) == pytest.approx(100 * 850 / 900, rel=1e-5)
    assert float(row["accuracy_top1_low"]) < 94.4 < float(row["accuracy_top1_high"])
    assert float(row["agreement_top1_pct"]) == pytest.approx(100 * 899 / 900, rel=1e-5)
    assert (row["first_call_ms"], row["build_time_s"], row["build_spent_s"]) == ("52.5", "33", "31.5")
    assert (row["parameters"], row["page_faults_per_call"]) == ("7978856", "7.5")
    assert (row["torch_version"], row["onnxruntime_version"]) == ("2.14.1", "1.31.1")
    assert (row["run_id"], row["job_id"]) == (run, f"{run}.000000")
    assert row["measured_at"] == "1970-01-01T00:16:40+00:00"
    assert row["latency_p99_ms"] == ""


def test_latency_and_throughput_are_medians_over_repeats(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=3)
    for milliseconds in (10.0, 90.0, 11.0):
        measure(store, samples=factories.samples(milliseconds, milliseconds + 1))
    [row] = table(store, run, tmp_path)
    assert float(row["latency_ms"]) == pytest.approx(11.0, rel=0.01)
    assert float(row["throughput_samples_sec"]) == pytest.approx(1000 / 11.0, rel=0.01)
    assert float(row["latency_p50_high_ms"]) > 80
    assert (row["repeats_wanted"], row["repeats_measured"], row["attempts"]) == ("3", "3", "3")


def test_throughput_and_percentiles_have_intervals_also_of_a_single_repeat(store: Store) -> None:
    alone, several = (factories.submitted(store, repeats=n, batch_sizes=(8,)) for n in (1, 3))
    for milliseconds in (10.0, 11.0, 12.0):  # the first is of both runs
        measure(store, samples=factories.samples(milliseconds, calls=700))
    for run, low, high in ((alone, 799.5, 800.5), (several, 666.0, 801.0)):
        [row] = collate(store, run).rows
        assert row.figures is not None
        middle = row.figures.throughput or 0.0
        assert low < (row.figures.throughput_low or 0.0) < middle < (row.figures.throughput_high or 0.0) < high
        device = row.figures.device
        assert (device.p99_low or 0.0) < (device.p99 or 0.0) < (device.p99_high or 0.0)
        assert (device.p90_low or 0.0) < (device.p90 or 0.0) < (device.p90_high or 0.0)


def test_energy_and_a_gpus_utilization_have_columns(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    measure(store, energy=factories.energy(), telemetry=factories.telemetry(gpu_utilization=0.97))
    [row] = table(store, run, tmp_path)
    assert (row["gpu_utilization_pct"], row["energy_per_sample_j"], row["power_mean_w"]) == ("97", "0.5", "200")


def test_what_bounds_a_gpu_and_how_near_a_row_comes_to_it_have_columns(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    facts = {"compute_capability": 9.0, "memory_bytes": 141 << 30, "power_limit_w": 700}
    # 66.9e9 operations in 10 ms are a tenth of what 16896 cores do at 1.98 GHz; 32.0e6 bytes are 0.065 %
    measure(
        store,
        environment=factories.environment(device_kind="cuda", gpu=facts),
        hardware=Hardware(gpu_cores=16896, sm_highest_hz=1.98e9, memory_highest_hz=3.201e9, memory_bus_bits=6144),
        telemetry=factories.telemetry(gpu_sm_clock_hz=1.755e9),
        macs=33_454_080_000,
    )
    [row] = table(store, run, tmp_path)
    assert (row["compute_capability"], row["gpu_memory_mb"], row["power_limit_w"]) == ("9.0", "144384", "700")
    assert row["gpu_clock_mhz"] == "1755"
    assert float(row["arithmetic_limit_pct"]) == pytest.approx(10, rel=0.01)
    assert float(row["bandwidth_limit_pct"]) == pytest.approx(0.0650, rel=0.01)


def test_where_no_limit_is_known_its_columns_are_empty(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    measure(store, macs=1_000_000)
    [row] = table(store, run, tmp_path)
    names = ("arithmetic_limit_pct", "bandwidth_limit_pct", "power_limit_w", "gpu_clock_mhz", "compute_capability")
    assert {row[name] for name in names} == {""}


def why_empty(row: dict[str, str]) -> dict[str, str]:
    """The reasons in a row, by the metric's name."""
    pairs = (part.partition(": ") for part in row["missing"].split("; ") if part)
    return {name: why for name, _, why in pairs}


def told(row: dict[str, str]) -> dict[str, str]:
    """Those that the measurements told themselves."""
    derived = ("latency_", "end_to_end_", "speedup")
    return {name: why for name, why in why_empty(row).items() if not name.startswith(derived)}


def test_percentiles_and_speed_ups_that_are_empty_have_their_reasons_and_others_have_none(
    store: Store, tmp_path: Path
) -> None:
    run = factories.submitted(store)
    samples = Samples(device_ns=factories.samples(calls=700).device_ns, end_to_end_ns=(11_000_000,) * 100)
    measure(store, samples=samples)
    [row] = table(store, run, tmp_path)
    assert why_empty(row) == {
        "end_to_end_p95_ms": "stated from 130 calls in a repeat on",
        "end_to_end_p99_ms": "stated from 662 calls in a repeat on",
        "speedup": "the protocol has no live control",
    }
    assert row["end_to_end_p95_ms"] == row["end_to_end_p99_ms"] == row["speedup"] == ""
    assert "" not in (row["end_to_end_p90_ms"], row["latency_p99_ms"])
    cases: list[tuple[int, dict[str, Any], str | None]] = [
        (4, {}, None),
        (2, {"evidence": {"compiled": False}}, "every repeat is INVALID"),
    ]
    for batch_size, spoilt, why in cases:
        run = factories.submitted(store, batch_sizes=(batch_size,))
        measure(store, control=factories.baseline_beside(), **spoilt)
        assert why_empty(table(store, run, tmp_path)[0]).get("speedup") == why
    run = factories.submitted(store, batch_sizes=(8,))
    measure(store, missing={"control": "too little memory for both"})
    assert "speedup" not in why_empty(table(store, run, tmp_path)[0])


def test_what_only_the_first_repeat_tells_is_not_missing_where_it_told(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    later = {"energy": "told by a cell's first repeat"}
    measure(store, energy=factories.energy(), missing={"vram_usage": "measured on a CPU"})
    measure(store, missing={"vram_usage": "measured on a CPU", **later})
    [row] = table(store, run, tmp_path)
    assert told(row) == {"vram_usage": "measured on a CPU"}
    run = factories.submitted(store, repeats=2, batch_sizes=(2,))
    measure(store, missing={"energy": "no RAPL", "contention": "told by the second one only"})
    measure(store, missing=later)
    [row] = table(store, run, tmp_path)
    assert told(row) == {"energy": "no RAPL"}


def test_every_cell_has_a_row_whatever_became_of_it(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, batch_sizes=(1, 2, 3, 4, 5, 6))
    order = [store.claim("cpu@alpha") for _ in range(5)]
    endings = [
        Ending(outcome=Outcome.UNSUPPORTED, reason="needs openvino"),
        Ending(outcome=Outcome.OUT_OF_MEMORY),
        Ending(outcome=Outcome.ERROR, reason="KeyError: 'x'"),
        Ending(outcome=Outcome.CRASHED),
    ]
    expected: dict[str, tuple[str, str]] = {}
    for claim, ending in zip(order, endings, strict=False):
        assert claim is not None
        store.finish(claim, ending)
        shown = "pending" if ending.outcome is Outcome.CRASHED else str(ending.outcome)
        expected[str(claim.spec.batch_size)] = (shown, ending.reason)
    rows = table(store, run, tmp_path)
    assert [row["batch_size"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    for row in rows:
        assert (row["outcome"], row["reason"]) == expected.get(row["batch_size"], ("pending", ""))
        assert (row["latency_ms"], row["verdict"], row["ram_usage_mb"]) == ("", "", "")
    store.cancel(run)
    assert [row["outcome"] for row in table(store, run, tmp_path)].count("cancelled") == 2


def test_repeats_that_failed_are_missing_from_their_row_and_said(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    measure(store)
    end(store, Outcome.ERROR, "KeyError: 'x'")
    [row] = table(store, run, tmp_path)
    assert (row["outcome"], row["reason"]) == ("ok", "KeyError: 'x'")
    assert (row["repeats_wanted"], row["repeats_measured"]) == ("2", "1")


def test_results_of_different_classes_are_never_pooled(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=3)
    measure(store, samples=factories.samples(10.0))
    store.deregister("cpu@alpha")
    store.register(factories.worker("cpu@beta", environment=OTHER))
    measure(store, "cpu@beta", samples=factories.samples(50.0), environment=OTHER)
    first, second = table(store, run, tmp_path)
    assert (first["environment_key"], second["environment_key"]) == (factories.environment().key, OTHER.key)
    assert float(first["latency_ms"]) == pytest.approx(10.0, rel=0.01)
    assert float(second["latency_ms"]) == pytest.approx(50.0, rel=0.01)
    assert {first["repeats_measured"], second["repeats_measured"]} == {"1"}


def test_measurements_of_one_worker_in_different_classes_are_not_pooled_either(
    store: Store, tmp_path: Path
) -> None:
    run = factories.submitted(store, repeats=2)
    measure(store)
    measure(store, environment=OTHER)
    assert len(table(store, run, tmp_path)) == 2


def test_a_speed_up_is_the_ratio_to_the_baseline_with_the_same_batch_and_allocator(
    store: Store, tmp_path: Path
) -> None:
    recipes = ("baseline", "channels_last", "system_malloc", "channels_last+system_malloc")
    run = factories.submitted(store, optimizations=recipes, batch_sizes=(1, 8))
    latency = {"baseline": 30.0, "channels_last": 10.0, "system_malloc": 40.0, "channels_last+system_malloc": 20.0}
    while (claim := store.claim("cpu@alpha")) is not None:
        milliseconds = latency[str(claim.spec.recipe)] * claim.spec.batch_size
        store.finish(claim, factories.ok(claim, samples=factories.samples(milliseconds)))
    shown = {
        (row["optimization_technique"], row["batch_size"]): float(row["speedup_unpaired"])
        for row in table(store, run, tmp_path)
    }
    assert shown == {
        (recipe, batch): pytest.approx(ratio, rel=1e-4)
        for recipe, ratio in zip(recipes, (1, 3, 1, 2), strict=True)
        for batch in ("1", "8")
    }


def test_a_paired_speed_up_has_its_interval_over_repeats_and_names_its_control(
    store: Store, tmp_path: Path
) -> None:
    run = factories.submitted(store, repeats=3)
    for control_ms in (19.0, 20.0, 21.0):
        measure(store, control=factories.baseline_beside(control_ms))
    [row] = table(store, run, tmp_path)
    assert float(row["speedup"]) == pytest.approx(2.0, rel=0.002)
    assert float(row["speedup_low"]) < 1.9
    assert float(row["speedup_high"]) > 2.1
    assert row["control"] == "baseline"
    assert row["speedup_unpaired"] == "1"


@pytest.mark.parametrize(
    ("comparisons", "bias", "answer"),
    [
        (1, 0.0, Answer.FASTER),
        (100, 0.0, Answer.SAME),
        (1, 0.06, Answer.SAME),
        (1, 0.01, Answer.FASTER),
    ],
)
def test_an_answer_is_corrected_for_how_many_are_given_and_goes_beyond_the_bias(
    comparisons: int, bias: float, answer: Answer
) -> None:
    found = speedup([[1.03], [1.05], [1.07], [1.05]])
    assert found is not None
    assert found.low > 1
    assert found.answered(comparisons, bias).answer is answer


def test_two_repeats_claim_nothing() -> None:
    found = speedup([[2.0], [2.0]])
    assert found is not None
    assert found.answered().answer is Answer.UNKNOWN


def test_a_cell_that_is_its_own_control_tells_the_bias_of_the_others(store: Store, tmp_path: Path) -> None:
    answers = _answers(store, tmp_path, {"baseline": (10.5,), "amp": (10.5,), "channels_last": (20.0,)})
    assert answers == {"baseline": "no difference found", "amp": "no difference found", "channels_last": "faster"}


def test_the_bias_counts_though_it_may_be_chance(store: Store, tmp_path: Path) -> None:
    # The baseline's own ratios spread around 1.03; those of amp are all a little less than that.
    took_ms = {"baseline": (9.5, 10.3, 11.2), "amp": (10.2,), "channels_last": (10.6,)}
    answers = _answers(store, tmp_path, took_ms)
    assert answers == {"baseline": "no difference found", "amp": "no difference found", "channels_last": "faster"}


def _answers(store: Store, folder: Path, took_ms: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """What rows say whose controls took so long, of three repeats each; they themselves take 10 ms."""
    run = factories.submitted(store, repeats=3, optimizations=tuple(took_ms))
    for _ in range(3 * len(took_ms)):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        controls = took_ms[str(claim.spec.recipe)]
        beside = factories.baseline_beside(controls[claim.spec.repeat % len(controls)])
        assert store.finish(claim, factories.ok(claim, control=beside))
    return {row["optimization_technique"]: row["speedup_answer"] for row in table(store, run, folder)}


def test_a_repeat_that_is_invalid_enters_no_paired_speed_up(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=3)
    for _ in range(2):
        measure(store, control=factories.baseline_beside(20.0))
    measure(store, control=factories.baseline_beside(90.0), contention=factories.contention(others_s=4.0))
    [row] = table(store, run, tmp_path)
    assert row["verdict"] == "INVALID"
    assert float(row["speedup"]) == float(row["speedup_high"]) == pytest.approx(2.0, rel=1e-4)


def test_without_a_live_control_the_paired_columns_are_empty(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    measure(store)
    [row] = table(store, run, tmp_path)
    assert {row[name] for name in ("speedup", "speedup_low", "speedup_high", "control")} == {""}


def answers_of_eight(**fields: Any) -> Accuracy:
    """All right, for the inputs that were timed."""
    right = dict.fromkeys(("samples", "top1_correct", "top5_correct", "baseline_top1_correct", "agreeing"), 8)
    return factories.accuracy(**{**right, **fields})


def test_accuracy_is_of_the_repeats_that_answered_for_the_most_samples(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=3)
    few = answers_of_eight(top1_correct=1, logits_relative_error=0.2)
    measure(store)
    measure(store, accuracy=few)
    measure(store, accuracy=few)
    [row] = table(store, run, tmp_path)
    assert float(row["accuracy_top1"]) == pytest.approx(100 * 850 / 900, rel=1e-5)
    assert (row["accuracy_samples"], row["logits_relative_error"]) == ("900", "0.001")
    assert told(row) == {}


def test_accuracy_of_few_samples_says_that_the_first_repeat_was_not_measured(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    end(store, Outcome.ERROR)
    measure(store, accuracy=answers_of_eight())
    [row] = table(store, run, tmp_path)
    assert row["accuracy_samples"] == "8"
    assert "the first repeat" in row["missing"]


def test_rows_share_what_they_say_alike(store: Store) -> None:
    run = factories.submitted(store, batch_sizes=(1, 8))
    while (claim := store.claim("cpu@alpha")) is not None:
        built = {"kernels": ["conv", "relu"], "of": f"batch {claim.spec.batch_size}"}
        store.finish(claim, factories.ok(claim, evidence={"dtype": "float32", "build": built}, missing={"a": "b"}))
    one, other = (row.figures for row in collate(store, run).rows)
    assert one is not None
    assert other is not None
    assert one.environment is other.environment
    assert one.missing is other.missing
    assert one.evidence["build"] == {"kernels": ["conv", "relu"], "of": "batch 1"}
    assert other.evidence["build"]["of"] == "batch 8"
    assert one.evidence["build"]["kernels"] is other.evidence["build"]["kernels"]


def test_what_lies_between_controls_that_differ_is_suspect_and_controls_are_no_rows(
    store: Store, tmp_path: Path
) -> None:
    protocol = factories.PROTOCOL.model_copy(update={"paired": False, "control_every": 3})
    run = factories.submitted(store, protocol=protocol, repeats=2, batch_sizes=(1, 2, 4))
    for at in range(9):  # a control, three jobs, a control, three jobs, a control that takes longer
        measure(store, timed_from=1000.0 + at, samples=factories.samples(20.0 if at == 8 else 10.0))
    rows = table(store, run, tmp_path)
    assert [row["batch_size"] for row in rows] == ["1", "2", "4"]
    assert {row["repeats_measured"] for row in rows} == {"2"}
    drifted = "unstable: the control drifted by +100.0% while this was measured (1 of 2 repeats)"
    assert {(row["verdict"], row["verdict_reasons"]) for row in rows} == {("SUSPECT", drifted)}


def verdicts_by_batch(store: Store, folder: Path, took_ms: dict[int, float], **fields: Any) -> dict[str, str]:
    """Reasons of the rows of one recipe that took so long at these batch sizes."""
    run = factories.submitted(store, batch_sizes=tuple(took_ms))
    while (claim := store.claim("cpu@alpha")) is not None:
        samples = factories.samples(took_ms[claim.spec.batch_size])
        spoilt = fields if claim.spec.batch_size == min(took_ms) else {}
        assert store.finish(claim, factories.ok(claim, samples=samples, **spoilt))
    return {row["batch_size"]: row["verdict_reasons"] for row in table(store, run, folder)}


def test_a_larger_batch_that_takes_less_time_than_a_smaller_one_is_in_doubt(store: Store, tmp_path: Path) -> None:
    found = verdicts_by_batch(store, tmp_path, {1: 10.0, 8: 30.0, 16: 12.5})
    assert found == {"1": "", "8": "", "16": "implausible: batch 16 took 12.5 ms in total, batch 8 took 30 ms"}


def test_a_larger_batch_that_takes_less_time_within_noise_is_not_in_doubt(store: Store, tmp_path: Path) -> None:
    assert verdicts_by_batch(store, tmp_path, {1: 10.0, 2: 9.99}) == {"1": "", "2": ""}


def test_a_batch_whose_figure_is_invalid_puts_no_larger_one_in_doubt(store: Store, tmp_path: Path) -> None:
    found = verdicts_by_batch(store, tmp_path, {1: 90.0, 8: 30.0}, evidence={"compiled": False})
    assert found == {"1": "fallback: the graph was not compiled", "8": ""}


def test_batches_of_different_recipes_are_not_compared(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, optimizations=("baseline", "amp"), batch_sizes=(1, 8))
    took_ms = {("baseline", 1): 10.0, ("baseline", 8): 60.0, ("amp", 1): 2.0, ("amp", 8): 9.0}
    while (claim := store.claim("cpu@alpha")) is not None:
        samples = factories.samples(took_ms[str(claim.spec.recipe), claim.spec.batch_size])
        assert store.finish(claim, factories.ok(claim, samples=samples))
    assert {row["verdict"] for row in table(store, run, tmp_path)} == {"VALID"}


def test_an_invalid_row_keeps_its_figures_and_enters_no_ratio(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, optimizations=("baseline", "channels_last"))
    while (claim := store.claim("cpu@alpha")) is not None:
        evidence = {"compiled": str(claim.spec.recipe) == "baseline"}
        store.finish(claim, factories.ok(claim, evidence=evidence))
    baseline, wrong = table(store, run, tmp_path)
    assert (baseline["verdict"], baseline["verdict_reasons"]) == ("VALID", "")
    assert (wrong["verdict"], wrong["verdict_reasons"]) == ("INVALID", "fallback: the graph was not compiled")
    assert wrong["latency_ms"] == baseline["latency_ms"] != ""
    assert (baseline["speedup_unpaired"], wrong["speedup_unpaired"]) == ("1", "")


def test_without_real_labels_the_accuracy_is_empty(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    nobody_knows = factories.accuracy(top1_correct=None, top5_correct=None)
    measure(store, accuracy=nobody_knows, missing={"accuracy_top1": "no real labels"})
    [row] = table(store, run, tmp_path)
    assert (row["accuracy_top1"], row["accuracy_top5"], row["accuracy_top1_low"]) == ("", "", "")
    assert row["agreement_top1_pct"] != ""
    assert told(row) == {"accuracy_top1": "no real labels"}


def test_a_measurement_without_a_single_call_makes_an_invalid_row_and_no_error(
    store: Store, tmp_path: Path
) -> None:
    run = factories.submitted(store)
    still = Usage(wall_s=0.0, cpu_s=0.0, faults_per_call=0.0, faults_by_half=(0.0, 0.0))
    measure(store, samples=Samples(), usage=still)
    [row] = table(store, run, tmp_path)
    assert (row["verdict"], row["latency_ms"], row["throughput_samples_sec"]) == ("INVALID", "", "")
    assert row["cpu_utilization_pct"] == ""


def test_adopted_results_are_shown_as_such_and_their_build_is_not_charged_again(
    store: Store, tmp_path: Path
) -> None:
    factories.submitted(store, batch_sizes=(1,))
    measure(store, build_s=33.0, build_spent_s=33.0)
    run = factories.submitted(store, batch_sizes=(1, 8))
    known = next(result.job_id for result in store.results(run) if result.spec.batch_size == 1)
    assert store.claim("cpu@alpha", known) is not None
    adopted, pending = table(store, run, tmp_path)
    assert (adopted["repeats_adopted"], adopted["attempts"]) == ("1", "0")
    assert (adopted["build_time_s"], adopted["build_spent_s"]) == ("33", "0")
    assert adopted["run_id"] == run
    assert pending["outcome"] == "pending"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        *[(f"{start}cmd|' /C calc'!A0", f"'{start}cmd|' /C calc'!A0") for start in "=+-@"],
        ("\t=1+1", "'=1+1"),
        ("\r\n@SUM(1)", "'@SUM(1)"),
        ("two\r\nlines = one", "two lines = one"),
    ],
)
def test_text_cannot_start_a_formula_but_numbers_stay_numbers(
    store: Store, tmp_path: Path, given: str, shown: str
) -> None:
    run = factories.submitted(store)
    end(store, Outcome.ERROR, given)
    [row] = table(store, run, tmp_path)
    assert row["reason"] == shown
    collated = collate(store, run)
    negative = replace(collated, rows=tuple(replace(row, attempts=-1) for row in collated.rows))
    write_csv(negative, tmp_path / "negative.csv")
    with (tmp_path / "negative.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["attempts"] == "-1"


def test_large_and_small_numbers_are_written_without_exponents(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    measure(store, accuracy=factories.accuracy(logits_relative_error=1.23456789e-7), load_s=1234567.0)
    [row] = table(store, run, tmp_path)
    assert (row["logits_relative_error"], row["load_s"]) == ("0.000000123457", "1234570")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(store: Store, tmp_path: Path) -> None:
    collated = collate(store, factories.submitted(store))
    folder = tmp_path / "results"
    path = export(collated, folder)
    before = path.read_bytes()

    def breaks() -> Iterator[Row]:
        yield collated.rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(replace(collated, rows=breaks()), path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(folder.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_written_is_bad_input(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="--output-dir"):
        export(collate(store, factories.submitted(store)), tmp_path / "file" / "results")
    with pytest.raises(
        BadInput,
        match="Possible: csv, detailed, jobs, json, markdown, model_info, profiles, report, samples, tensorboard",
    ):
        export(collate(store, "latest"), tmp_path, "xlsx")


def test_the_measured_jobs_can_be_read_again_with_their_samples(store: Store) -> None:
    run = factories.submitted(store, repeats=2, batch_sizes=(1, 8))
    for _ in range(3):
        measure(store)
    collated = collate(store, run)
    assert collated.run_id == run
    for _ in range(2):
        found = list(collated.measured())
        assert len(found) == 3
        assert {len(r.measurement.samples.device_ns) for r in found if r.measurement} == {200}
        assert [r.cell_ordinal for r in found] == sorted(r.cell_ordinal for r in found)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    return CliRunner()


def test_runs_of_an_empty_store_say_how_the_first_one_is_made(store: Store, command: CliRunner) -> None:
    assert "No runs yet" in command.invoke(app, ["runs"]).stderr


def test_the_command_collates_the_latest_run_into_a_folder_of_its_name(store: Store, command: CliRunner) -> None:
    run = factories.submitted(store)
    written = ("benchmark_results.csv", "benchmark_results_detailed.csv", "profiles", "report.html")
    assert command.invoke(app, ["collate"]).output == "".join(f"results/{run}/{name}\n" for name in written)
    assert sorted(path.name for path in Path(f"results/{run}").iterdir()) == sorted(written)
    assert Path(f"results/{run}/benchmark_results.csv").read_text().startswith(FIRST)
    assert command.invoke(app, ["collate", run[:-2], "--output-dir", "here"]).exit_code == 0
    assert Path("here/benchmark_results.csv").exists()
    assert command.invoke(app, ["runs"]).output.startswith(run)
    assert command.invoke(app, ["migrate"]).exit_code == 0


def test_the_command_writes_every_format_it_is_asked_for_once(store: Store, command: CliRunner) -> None:
    run = factories.submitted(store)
    done = command.invoke(app, ["collate", "--format", "csv, tensorboard,csv", "--output-dir", "here"])
    assert done.output == "here/benchmark_results.csv\nhere/tensorboard\n"
    assert list(Path("here/tensorboard").rglob("*tfevents*"))
    assert not Path(f"results/{run}").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--format", "csv,tensorbord"], "Did you mean 'tensorboard'?"),
        (
            ["--format", ""],
            "Possible: csv, detailed, jobs, json, markdown, model_info, profiles, report, samples, tensorboard",
        ),
        (["latest", "--watch"], "exclude each other"),
        (["--metrics-port", "9108"], "--metrics-port belongs to --watch"),
        (["--every", "1"], "--every belongs to --watch"),
        (["--watch", "--every", "inf"], "--every inf: a number of seconds is needed"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_is_done(
    store: Store, command: CliRunner, arguments: list[str], hint: str
) -> None:
    factories.submitted(store)
    done = command.invoke(app, ["collate", *arguments])
    assert (done.exit_code, hint in done.stderr) == (2, True)
    assert not Path("results").exists()


def test_the_commands_errors_have_their_exit_codes(
    store: Store, command: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.invoke(app, ["collate"]).exit_code == 2
    factories.submitted(store)
    unknown = command.invoke(app, ["collate", "nonsense"])
    assert (unknown.exit_code, "Unknown run 'nonsense'" in unknown.stderr) == (2, True)
    monkeypatch.setenv("FARM_DATABASE_URL", "postgresql://farm:geheim@127.0.0.1:9/farm")
    away = command.invoke(app, ["runs"])
    assert (away.exit_code, "geheim" in away.output) == (3, False)


def test_what_is_to_be_measured_again_keeps_its_row_meanwhile(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    measure(store)
    assert store.retry(run, remeasure=Level.VALID).measured == 1
    end(store, Outcome.CRASHED, "signal 11")
    [row] = table(store, run, tmp_path)
    assert (row["outcome"], row["repeats_measured"], row["attempts"]) == ("ok", "1", "2")
