"""Each rule of the verdict: a measurement that trips it, and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from farm.measurement import Contention, Control, Grown, Hardware, Measurement, Samples, Usage
from farm.verdict import RULES, Level, Reason, Verdict, judge, mendable, over_repeats
from tests import factories


def with_faults(first: float, second: float) -> Usage:
    return Usage(wall_s=1, cpu_s=1, faults_per_call=(first + second) / 2, faults_by_half=(first, second))


def noisy(spread: float, calls: int = 40) -> Samples:
    """Two values in turn: the median lies somewhere between."""
    values = tuple(int(1e7 * (1 + spread * (n % 2))) for n in range(calls))
    return Samples(device_ns=values, end_to_end_ns=values)


def with_one_call_of(milliseconds: float) -> Samples:
    """200 calls of about 10 ms, one of them longer."""
    clean = factories.samples()
    device = (*clean.device_ns[:100], int(milliseconds * 1e6), *clean.device_ns[101:])
    return Samples(device_ns=device, end_to_end_ns=clean.end_to_end_ns)


def stepped(by: float) -> Samples:
    """Quiet halves, the second one slower."""
    first = factories.samples(calls=200)
    second = factories.samples(10 * (1 + by), 11 * (1 + by), calls=200)
    return Samples(
        device_ns=first.device_ns + second.device_ns, end_to_end_ns=first.end_to_end_ns + second.end_to_end_ns
    )


def compressed(**fields: int) -> dict[str, Any]:
    """The evidence of a compression that left 3 of 7 million parameters."""
    given = {"parameters": 3_000_000, "parameters_before": 7_000_000, "removed_channels": 300}
    return {"evidence": {"compression": {**given, **fields}}}


def on_gpu(
    flags: dict[str, int] | None = None, before: float = 0, clock_hz: float = 1.9e9, **fields: Any
) -> dict[str, Any]:
    """A measurement on a GPU of 1.98 GHz that nobody else used."""
    gauges = {"gpu_processes": before + 1, "gpu_sm_clock_hz": clock_hz}
    given = {
        "spec": factories.spec(device="cuda"),
        "environment": factories.environment(device_kind="cuda", device_uuid="GPU-1"),
        "hardware": Hardware(gpu_cores=16896, sm_highest_hz=1.98e9),
        "timed_from": 1001.0,
        "telemetry": factories.telemetry(flags, {"gpu_processes": before}, **gauges),
    }
    return {**given, **fields}


def at_clock(hertz: float, used: float = 1.9, **hardware: float) -> dict[str, Any]:
    """A CPU that ran at this clock, with so many processors busy."""
    seen = factories.telemetry(frequency_hz=hertz)
    rate = Grown(total=4 * used, rate=used, rate_min=used, rate_max=used)
    telemetry = seen.model_copy(update={"counters": {"cpu_s": rate}})
    return {"telemetry": telemetry, "hardware": Hardware(**hardware), "timed_from": 1001.0}


def held_back(seconds: float, others_s: float = 0.04) -> Contention:
    """4 s on two processors, of which a container's limit took so many seconds."""
    return factories.contention(others_s=others_s).model_copy(update={"held_back_s": seconds})


def counting(processes: float, before: float = 0) -> dict[str, Any]:
    """A GPU measurement during which the driver showed so many processes."""
    return {"telemetry": factories.telemetry(None, {"gpu_processes": before}, gpu_processes=processes)}


CONTROL = Control(
    recipe="baseline",
    device_ns=(10_000_000,) * 200,
    cell_calls=(100, 100),
    control_calls=(100, 100),
    cell_first=(True, False),
    seed=1,
    cell_idle_share=0.0,
    control_idle_share=0.0,
)

#: DenseNet-121 at 64 × 64.
MACS = 231_286_784

#: 4.9 TB/s.
HBM = Hardware(memory_highest_hz=3.201e9, memory_bus_bits=6144)


TRIPS: dict[str, tuple[dict[str, Any], str, Level]] = {
    "another provider": ({"evidence": {"provider_asked": "CUDA", "provider": "CPU"}}, "fallback", Level.INVALID),
    "another dtype": ({"evidence": {"dtype_asked": "bfloat16", "dtype": "float32"}}, "fallback", Level.INVALID),
    "no dtype seen": ({"evidence": {"dtype_asked": "bfloat16"}}, "fallback", Level.INVALID),
    "not compiled": ({"evidence": {"compiled": False}}, "fallback", Level.INVALID),
    "a provider that got nothing to do": (
        {"evidence": {"provider_asked": "CUDA", "provider": "CUDA", "nodes": {"CPU": 300}}},
        "fallback",
        Level.INVALID,
    ),
    "another allocator": (
        {"evidence": {"allocator_asked": "jemalloc", "allocator": "glibc"}},
        "fallback",
        Level.INVALID,
    ),
    "no 8-bit convolution": (
        {"evidence": {"dtype_asked": "int8", "dtype": "float32"}},
        "fallback",
        Level.INVALID,
    ),
    "few 8-bit convolutions": (
        {"evidence": {"int8_convolutions": 20, "exact_convolutions": 100}},
        "fallback",
        Level.SUSPECT,
    ),
    "graph breaks": ({"evidence": {"graph_breaks": 2}}, "fallback", Level.SUSPECT),
    "nodes elsewhere": ({"evidence": {"nodes_elsewhere": 3}}, "fallback", Level.SUSPECT),
    "nothing pruned": (
        compressed(removed_channels=0, parameters=7_000_000),
        "fallback",
        Level.INVALID,
    ),
    "a student too large": (compressed(parameters_allowed=2_999_999), "fallback", Level.INVALID),
    "nothing rounded": (
        compressed(removed_channels=0, parameters=7_000_000, rounded_tensors=0),
        "fallback",
        Level.INVALID,
    ),
    "under the minimum": ({"samples": factories.samples(calls=10)}, "too_few_samples", Level.INVALID),
    "no samples": ({"samples": Samples()}, "too_few_samples", Level.INVALID),
    "wide interval": ({"samples": noisy(0.2)}, "unstable", Level.SUSPECT),
    "very wide interval": ({"samples": noisy(0.9)}, "unstable", Level.INVALID),
    "drift": ({"samples": stepped(0.08)}, "unstable", Level.SUSPECT),
    "a whole that took less than its part": (
        {"samples": factories.samples(14.0, 11.4)},
        "unstable",
        Level.SUSPECT,
    ),
    "held up": ({"samples": with_one_call_of(200.0)}, "unstable", Level.SUSPECT),
    "heap settles": ({"usage": with_faults(900.0, 10.0)}, "unstable", Level.SUSPECT),
    "others": ({"contention": factories.contention(others_s=0.6)}, "contaminated", Level.SUSPECT),
    "a busy host": ({"contention": factories.contention(others_s=3.0)}, "contaminated", Level.INVALID),
    "steal": ({"contention": factories.contention(steal_s=2.0)}, "contaminated", Level.INVALID),
    "a limit on processor time": ({"contention": held_back(2.0)}, "contaminated", Level.INVALID),
    "the other half of its core": (
        {"contention": factories.contention().model_copy(update={"beside_s": 3.0})},
        "contaminated",
        Level.SUSPECT,
    ),
    "contention unknown": ({"contention": None}, "contaminated", Level.SUSPECT),
    "a busy cell": (factories.control(cell_idle_share=0.2), "contaminated", Level.SUSPECT),
    "a busy control": (factories.control(control_idle_share=0.9), "contaminated", Level.INVALID),
    "a speed-up that wanders": (factories.control([2.0, 2.4] * 10), "unstable", Level.SUSPECT),
    "a speed-up that says nothing": (factories.control([1.0, 3.0] * 10), "unstable", Level.INVALID),
    "a speed-up that drifts": (factories.control([2.0] * 11 + [2.2] * 9), "unstable", Level.SUSPECT),
    "a named percentile without enough calls": (
        {"spec": factories.spec(protocol=factories.PROTOCOL.model_copy(update={"percentiles": (50, 99)}))},
        "too_few_samples",
        Level.SUSPECT,
    ),
    "top-1 lost": (
        {"accuracy": factories.accuracy(top1_correct=845, agreeing=893)},
        "accuracy_lost",
        Level.INVALID,
    ),
    "one of a few lost": (
        {"accuracy": factories.accuracy(samples=8, top1_correct=7, baseline_top1_correct=8, agreeing=8)},
        "accuracy_lost",
        Level.SUSPECT,
    ),
    "no better than chance": (
        {"accuracy": factories.accuracy(classes=10, top1_correct=95, baseline_top1_correct=95)},
        "implausible",
        Level.SUSPECT,
    ),
    "other answers": (
        {"accuracy": factories.accuracy(top1_correct=None, top5_correct=None, agreeing=870)},
        "accuracy_lost",
        Level.SUSPECT,
    ),
    "other logits": ({"accuracy": factories.accuracy(logits_relative_error=0.5)}, "accuracy_lost", Level.SUSPECT),
    "too good": (
        {"accuracy": factories.accuracy(baseline_top1_correct=700, agreeing=899)},
        "implausible",
        Level.SUSPECT,
    ),
    "a CPU far under its base clock": (at_clock(1.4e9, base_hz=2.0e9), "throttled", Level.INVALID),
    "a CPU far under its highest clock": (at_clock(1.9e9, highest_hz=4.0e9), "throttled", Level.INVALID),
    "a GPU short of power": (on_gpu({"software power cap": 3}), "throttled", Level.SUSPECT),
    "a GPU that slows itself": (on_gpu({"idle": 1, "hardware slowdown": 1}), "throttled", Level.SUSPECT),
    "a GPU at a low clock without a reason": (on_gpu(clock_hz=1.2e9), "throttled", Level.SUSPECT),
    "another process came to the GPU": (on_gpu(**counting(2)), "contaminated", Level.INVALID),
    "another process was on the GPU": (on_gpu(before=1), "contaminated", Level.SUSPECT),
    "a driver that shows no processes": (on_gpu(**counting(0)), "contaminated", Level.SUSPECT),
    "a GPU that nobody watched": (on_gpu(telemetry=None), "contaminated", Level.SUSPECT),
    "faster than a CPU can": (
        {"macs": MACS, "samples": factories.samples(0.02, 0.5), "hardware": Hardware(highest_hz=3e9)},
        "implausible",
        Level.INVALID,
    ),
    "faster than a GPU can": (
        on_gpu(macs=MACS, samples=factories.samples(0.0005, 0.5)),
        "implausible",
        Level.INVALID,
    ),
    "faster than a GPU's memory and caches can": (
        on_gpu(samples=factories.samples(0.0002, 0.5), hardware=HBM),
        "implausible",
        Level.INVALID,
    ),
    "NaN": ({"accuracy": factories.accuracy(finite=False)}, "implausible", Level.INVALID),
}

PASSES: dict[str, dict[str, Any]] = {
    "as asked": {
        "evidence": {
            "provider_asked": "CPU",
            "provider": "CPU",
            "dtype_asked": "float32",
            "dtype": "float32",
            "compiled": True,
            "graph_breaks": 0,
            "nodes_elsewhere": 0,
        }
    },
    "nothing said": {"evidence": {}},
    "just enough calls": {"samples": factories.samples(calls=11)},
    "a steady speed-up": factories.control(),
    "a host that drifts under cell and control alike": factories.control(drift=0.08),
    "a short hiccup": {"samples": with_one_call_of(80.0)},
    "small spread": {"samples": noisy(0.05)},
    "a CPU at its base clock": at_clock(2.0e9, base_hz=2.0e9, highest_hz=4.0e9),
    "all processors busy, so not the highest clock": at_clock(2.1e9, highest_hz=4.0e9),
    "a CPU that idled": at_clock(0.8e9, used=0.2, base_hz=2.0e9),
    "a virtual machine that shows one frequency": at_clock(2.6e9, shown_hz=2.6e9),
    "clocks from before it was timed": {**at_clock(0.8e9, base_hz=2.0e9), "timed_from": None},
    "a quiet GPU": on_gpu(),
    "a GPU at the clock it was set to": on_gpu({"application clock setting": 8}, clock_hz=1.2e9),
    "a GPU set to a lower clock": on_gpu(
        clock_hz=1.2e9, hardware=Hardware(gpu_cores=16896, sm_highest_hz=1.98e9, sm_set_hz=1.3e9)
    ),
    "a GPU that waits for its host": on_gpu({"idle": 2}, clock_hz=0.6e9),
    "a GPU with the live control beside": on_gpu(**counting(2), control=CONTROL),
    "fast": {"macs": MACS, "samples": factories.samples(1.5, 1.6), "hardware": Hardware(highest_hz=3e9)},
    "fast, on a GPU of which nothing is known": on_gpu(
        macs=MACS, samples=factories.samples(0.0005, 0.5), hardware=Hardware()
    ),
    # 32 MB of weights ten times as fast as 4.9 TB/s
    "fast, out of a GPU's cache": on_gpu(samples=factories.samples(0.00066, 0.5), hardware=HBM),
    "small drift": {"samples": stepped(0.03)},
    "a whole that took less than its part, each within the target": {"samples": factories.samples(10.0, 9.2)},
    "beside a control, a host that changed between the figures": {
        **factories.control(),
        "samples": factories.samples(14.0, 11.4),
    },
    "pruned": compressed(),
    "a student": compressed(parameters_allowed=3_000_000),
    "rounded": compressed(removed_channels=0, parameters=7_000_000, rounded_tensors=180),
    "a compression may cost more": {
        "spec": factories.spec(recipe="pruning+int8_static+onnxruntime"),
        "accuracy": factories.accuracy(top1_correct=820, agreeing=800, logits_relative_error=0.9),
    },
    "faults that weigh nothing": {"usage": with_faults(40.0, 0.0)},
    "a few faults": {"usage": with_faults(15.0, 0.0)},
    "many but steady faults": {"usage": with_faults(9000.0, 8500.0)},
    "a quiet neighbour": {"contention": factories.contention(others_s=0.3)},
    "other halves that hardly work": {"contention": factories.contention().model_copy(update={"beside_s": 1.0})},
    "one answer lost": {"accuracy": factories.accuracy(top1_correct=849)},
    "no labels": {
        "accuracy": factories.accuracy(top1_correct=None, top5_correct=None, baseline_top1_correct=None)
    },
    "no baseline on record": {"accuracy": factories.accuracy(top1_correct=300, baseline_top1_correct=None)},
    "amp may cost more": {
        "spec": factories.spec(recipe="amp"),
        "accuracy": factories.accuracy(top1_correct=843, agreeing=880, logits_relative_error=0.05),
    },
}


@pytest.mark.parametrize("case", TRIPS)
def test_a_fault_is_found_and_named(case: str) -> None:
    fields, code, level = TRIPS[case]
    verdict = judge(factories.measurement(**fields))
    assert {(reason.code, reason.level) for reason in verdict.reasons} == {(code, level)}
    assert verdict.level is level


@pytest.mark.parametrize("case", PASSES)
def test_a_clean_measurement_is_valid(case: str) -> None:
    verdict = judge(factories.measurement(**PASSES[case]))
    assert (verdict.level, verdict.reasons) == (Level.VALID, ())


def test_a_gpu_that_is_held_far_down_is_invalid_and_says_by_what() -> None:
    verdict = judge(factories.measurement(**on_gpu({"software thermal slowdown": 5}, clock_hz=1.2e9)))
    assert verdict.level is Level.INVALID
    assert [str(reason) for reason in verdict.reasons] == [
        "throttled: the GPU's clocks were held down: software thermal slowdown in 5 of 8 readings",
        "throttled: the clock was 1.20 GHz in the mean, 1.98 GHz are expected",
    ]


@pytest.mark.parametrize(
    ("case", "lasting"),
    [
        ("a GPU that nobody watched", True),
        ("a GPU at a low clock without a reason", True),
        ("a GPU short of power", True),
        ("a GPU that slows itself", False),
        ("another process came to the GPU", False),
    ],
)
def test_what_would_be_found_again_is_known_as_lasting(case: str, lasting: bool) -> None:
    [reason] = judge(factories.measurement(**TRIPS[case][0])).reasons
    assert reason.lasting is lasting


def test_the_few_images_of_a_repeat_decide_nothing_about_its_share_of_right_answers() -> None:
    few = {"accuracy": factories.accuracy(samples=16, top1_correct=13, baseline_top1_correct=16, agreeing=16)}
    assert judge(factories.measurement(**few)).level is Level.INVALID
    assert judge(factories.measurement(**few, spec=factories.spec(repeat=1))).level is Level.VALID


def test_beside_a_control_an_end_to_end_figure_that_wanders_is_doubted_and_not_refused() -> None:
    wide = noisy(0.9).end_to_end_ns
    alone = {"samples": Samples(device_ns=factories.samples().device_ns, end_to_end_ns=wide)}
    beside = factories.control()
    beside["samples"] = Samples(device_ns=beside["samples"].device_ns, end_to_end_ns=wide)
    levels = [judge(factories.measurement(**fields)).level for fields in (alone, beside)]
    assert levels == [Level.INVALID, Level.SUSPECT]


def test_calls_so_slow_that_there_are_the_fewest_of_them_are_not_measured_again() -> None:
    slow, fast = (judge(factories.measurement(samples=noisy(0.2, calls))) for calls in (11, 40))
    assert [[reason.lasting for reason in verdict.reasons] for verdict in (slow, fast)] == [
        [True] * 2,
        [False] * 2,
    ]


def test_every_rule_is_tripped_by_some_case() -> None:
    cases: list[Measurement] = [factories.measurement(**fields) for fields, _, _ in TRIPS.values()]
    for rule in RULES:
        assert any(list(rule(case)) for case in cases), rule.__name__


def test_a_median_that_the_protocol_allows_but_cannot_state_is_suspect() -> None:
    spec = factories.spec(protocol=factories.PROTOCOL.model_copy(update={"min_calls": 3}))
    verdict = judge(factories.measurement(spec=spec, samples=factories.samples(calls=5)))
    assert verdict.level is Level.SUSPECT
    assert {reason.code for reason in verdict.reasons} == {"too_few_samples"}


def _verdict(**fields: Any) -> Verdict:
    return judge(factories.measurement(**fields))


def test_the_verdict_over_repeats_has_each_reason_once_the_worst_first() -> None:
    clean, drifted, wrong = _verdict(), _verdict(samples=stepped(0.08)), _verdict(evidence={"compiled": False})
    assert over_repeats([clean, clean]).level is Level.VALID
    assert over_repeats([drifted]).reasons == drifted.reasons[:1]
    together = over_repeats([drifted, wrong, drifted])
    assert together.level is Level.INVALID
    assert [reason.code for reason in together.reasons] == ["fallback", "unstable"]
    assert str(together.reasons[1]).endswith(" (2 of 3 repeats)")
    assert over_repeats([]).level is Level.VALID


def test_a_doubt_that_passes_counts_where_more_than_a_fifth_of_the_repeats_have_one() -> None:
    clean, drifted = _verdict(), _verdict(samples=stepped(0.08))
    assert over_repeats([drifted, *[clean] * 4]).level is Level.VALID
    assert over_repeats([drifted, *[clean] * 3]).level is Level.SUSPECT
    assert over_repeats([*[drifted] * 2, *[clean] * 8]).level is Level.VALID
    assert over_repeats([*[drifted] * 3, *[clean] * 7]).level is Level.SUSPECT


def test_what_lasts_or_makes_a_repeat_invalid_counts_in_any_of_many() -> None:
    clean, wrong = _verdict(), _verdict(evidence={"compiled": False})
    assert over_repeats([wrong, *[clean] * 29]).level is Level.INVALID
    for code, level, lasting in (
        ("accuracy_lost", Level.SUSPECT, False),
        ("unstable", Level.SUSPECT, True),
        ("contaminated", Level.INVALID, False),
    ):
        found = Verdict(reasons=(Reason(code=code, level=level, text="", lasting=lasting),))
        assert over_repeats([found, *[clean] * 29]).level is level


@pytest.mark.parametrize(
    ("found", "mends"),
    [
        ([], False),
        ([("contaminated", Level.INVALID)], True),
        ([("throttled", Level.SUSPECT)], True),
        ([("unstable", Level.SUSPECT), ("implausible", Level.SUSPECT)], True),
        ([("implausible", Level.SUSPECT)], False),
        ([("unstable", Level.INVALID), ("fallback", Level.INVALID)], False),
    ],
)
def test_measuring_again_helps_against_what_others_did_but_not_where_it_is_worthless_anyway(
    found: list[tuple[str, Level]], mends: bool
) -> None:
    reasons = tuple(Reason(code=code, level=level, text="") for code, level in found)
    assert mendable(Verdict(reasons=reasons)) is mends


def test_measuring_again_does_not_help_where_others_cannot_be_seen_or_the_partner_is_the_other() -> None:
    assert not mendable(judge(factories.measurement(contention=None)))
    assert not mendable(judge(factories.measurement(**factories.control(cell_idle_share=0.9))))
    assert mendable(judge(factories.measurement(contention=factories.contention(others_s=4.0))))


def test_a_containers_limit_is_named_and_would_be_found_again_and_a_little_of_it_is_nothing() -> None:
    limited = judge(factories.measurement(contention=held_back(2.0)))
    [text] = map(str, limited.reasons)
    assert text == "contaminated: a limit on processor time took 0.51 of the measurement's 2 processors"
    assert not mendable(limited)
    busy = judge(factories.measurement(contention=held_back(1.0, others_s=2.0)))
    assert "others had 0.75" in str(busy.reasons[0])
    assert mendable(busy)
    assert judge(factories.measurement(contention=held_back(0.3))).level is Level.VALID
