"""Two runs compared: what is found, what is not, what is refused, and how often the rule errs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from farm.errors import BadInput
from farm.measurement import Control, Measurement, Outcome, Samples
from results_store.__main__ import app
from results_store.collate import Answer, Collated, collate
from results_store.compare import Comparison, Report, compare, differ
from results_store.compare_table import sentence
from results_store.store import Ending, Store
from tests import factories

WINDOWS, CALLS = 10, 20
OTHER = factories.environment(driver="600.1", packages={"torch": "2.15.0", "onnxruntime": "1.31.1"})


def constant(milliseconds: float) -> tuple[int, ...]:
    return (round(milliseconds * 1e6),) * (WINDOWS * CALLS)


def control(milliseconds: float) -> Control:
    calls = (CALLS,) * WINDOWS
    return Control(
        recipe="baseline",
        device_ns=constant(milliseconds),
        cell_calls=calls,
        control_calls=calls,
        cell_first=(True,) * WINDOWS,
        seed=0,
        cell_idle_share=0.0,
        control_idle_share=0.0,
    )


def measured(store: Store, times: Mapping[str, float], **fields: Any) -> Collated:
    """A run as `submit` makes it, collated."""
    return collate(store, submit(store, times, **fields))


def submit(
    store: Store,
    times: Mapping[str, float],
    *,
    repeats: int = 10,
    seed: int = 0,
    sd: float = 0.005,
    drift: float = 0.2,
    paired: bool = True,
    matrix: Mapping[str, Any] = {},
    change: Callable[[Measurement], Measurement] = lambda made: made,
    **fields: Any,
) -> str:
    """A run whose recipes take so many times 10 ms, on a host that drifts; fields are the measurements'."""
    made = factories.matrix(optimizations=tuple(times), repeats=repeats, **matrix)
    run = store.submit(made, again=True).run_id
    draw = np.random.default_rng(seed)
    while (claim := store.claim("cpu@alpha")) is not None:
        recipe = str(claim.spec.recipe)
        host = 10 * math.exp(draw.normal(0, drift))
        own = host * times[recipe] * math.exp(draw.normal(0, sd))
        found = factories.measurement(
            spec=claim.spec,
            samples=Samples(device_ns=constant(own), end_to_end_ns=constant(own + 1)),
            control=control(host) if paired else None,
            **fields,
        )
        assert store.finish(claim, Ending(outcome=Outcome.OK, measurement=change(found)))
    return run


def only(report: Report) -> Comparison:
    [found] = report.comparisons
    return found


def recipe(report: Report, name: str) -> Comparison:
    [found] = [one for one in report.comparisons if str(one.cell.recipe) == name]
    return found


# ---- what is found


def test_a_cell_that_takes_as_long_as_before_has_no_difference_and_says_what_would_have_been_found(
    store: Store,
) -> None:
    a, b = (measured(store, {"channels_last": 0.5}, seed=seed) for seed in (1, 2))
    found = only(compare(a, b))
    assert (found.answer, found.by, found.repeats) == (Answer.SAME, "paired", (10, 10))
    assert found.difference is not None
    assert found.difference.low < 0 < found.difference.high
    # (t of 97.5 % + t of 80 %) × sd × √(2/10), at 18 degrees of freedom and an sd of about 0.5 %
    assert found.difference.detectable == pytest.approx((2.10 + 0.86) * 0.005 * math.sqrt(0.2), rel=0.4)


@pytest.mark.parametrize(("factor", "answer"), [(1.05, Answer.SLOWER), (0.95, Answer.FASTER)])
def test_a_change_is_found_with_its_sign_although_the_host_drifted_by_far_more(
    store: Store, factor: float, answer: Answer
) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    b = measured(store, {"channels_last": 0.5 * factor}, seed=2)
    found = only(compare(a, b))
    assert found.answer is answer
    assert found.difference is not None
    assert math.exp(found.difference.middle) == pytest.approx(factor, rel=0.01)
    assert found.difference.low < math.log(factor) < found.difference.high


def test_without_live_controls_times_are_compared_and_it_is_said(store: Store) -> None:
    a = measured(store, {"channels_last": 1.0}, seed=1, drift=0, paired=False)
    elsewhere = factories.environment(host="beta")
    b = measured(store, {"channels_last": 1.1}, seed=2, drift=0, environment=elsewhere)
    found = only(compare(a, b))
    assert (found.answer, found.by) == (Answer.SLOWER, "times")
    assert found.notes == (
        "times without a live control: drift of the host is in the change too",
        "times of two hosts, alpha and beta",
    )


def test_a_cell_that_is_its_own_control_cannot_be_told_and_is_no_comparison(store: Store) -> None:
    a, b = (measured(store, {"baseline": 1.0, "channels_last": 0.5}, seed=seed) for seed in (1, 2))
    report = compare(a, b)
    assert recipe(report, "baseline").answer is Answer.UNKNOWN
    assert "its own control" in recipe(report, "baseline").reason
    assert report.compared == 1


def test_a_change_within_the_bias_of_a_a_pairs_is_no_difference(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    b = measured(store, {"channels_last": 0.52}, seed=2)
    assert only(compare(a, b)).answer is Answer.SLOWER
    a = measured(store, {"baseline": 1.06, "channels_last": 0.5}, seed=1)
    b = measured(store, {"baseline": 1.0, "channels_last": 0.52}, seed=2)
    report = compare(a, b)
    assert report.bias == {"Test CPU": pytest.approx(math.log(1.06), abs=0.005)}
    found = recipe(report, "channels_last")
    assert found.answer is Answer.SAME
    assert found.difference is not None
    assert found.difference.low > 0
    assert found.difference.detectable > math.log(1.06)


def test_the_level_is_corrected_for_the_number_of_cells_compared(store: Store) -> None:
    times = {"channels_last": 0.5, "torchscript": 0.7, "compile": 0.6, "onnxruntime": 0.4}
    runs = [measured(store, times, seed=seed) for seed in (1, 2)]
    alone = [measured(store, {"channels_last": 0.5}, seed=seed) for seed in (1, 2)]
    report = compare(*runs)
    assert (report.compared, compare(*alone).compared) == (4, 1)
    found = recipe(report, "channels_last")
    assert found.difference is not None
    values = [
        [
            -float(np.log(r.measurement.speedups[0]))
            for r in run.measured()
            if r.measurement and str(r.spec.recipe) == "channels_last"
        ]
        for run in runs
    ]
    assert found.difference == differ(*values, comparisons=4)
    narrow = differ(*values)
    # t of 1 − 0.02/8 against t of 0.99, 18 degrees of freedom or a little less
    ratio = (found.difference.high - found.difference.low) / (narrow.high - narrow.low)
    assert ratio == pytest.approx(3.20 / 2.55, rel=0.02)


# ---- what cannot be told


@pytest.mark.parametrize("paired", [True, False])
def test_with_fewer_than_three_repeats_on_a_side_nothing_is_claimed(store: Store, paired: bool) -> None:
    a = measured(store, {"channels_last": 1.0}, repeats=2, paired=paired)
    b = measured(store, {"channels_last": 9.0}, repeats=3, paired=paired)
    found = only(compare(a, b))
    assert (found.answer, found.repeats, found.difference) == (Answer.UNKNOWN, (2, 3), None)
    assert "2 and 3 repeats" in found.reason
    b_again = measured(store, {"channels_last": 9.0}, repeats=3, paired=paired)
    assert only(compare(b, b_again)).answer is not Answer.UNKNOWN


def test_quick_claims_no_difference_and_says_why(store: Store) -> None:
    quick = {"protocol": "quick"}
    a, b = (measured(store, {"compile": t}, matrix=quick, repeats=1, paired=False) for t in (1.0, 2.0))
    found = only(compare(a, b))
    assert found.answer is Answer.UNKNOWN
    assert found.reason.endswith("quick is one repeat and claims no difference")


def test_a_repeat_that_is_missing_is_missed_in_the_count_only(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    run = store.submit(factories.matrix(optimizations=("channels_last",), repeats=10), again=True).run_id
    broken = store.claim("cpu@alpha")
    assert broken is not None
    assert store.finish(broken, Ending(outcome=Outcome.ERROR, reason="KeyError: 'x'"))
    while (claim := store.claim("cpu@alpha")) is not None:
        store.finish(
            claim,
            factories.ok(
                claim, samples=Samples(device_ns=constant(5), end_to_end_ns=constant(6)), control=control(10)
            ),
        )
    found = only(compare(a, collate(store, run)))
    assert (found.answer, found.repeats) == (Answer.SAME, (10, 9))


def test_invalid_rows_are_left_out_with_their_reason_and_suspect_ones_are_compared(store: Store) -> None:
    fallen = {"evidence": {"compiled": False}}
    broken = {"evidence": {"graph_breaks": 3}}
    a = measured(store, {"compile": 0.5}, seed=1)
    b = measured(store, {"compile": 0.9}, seed=2, **fallen)
    found = only(compare(a, b))
    assert (found.answer, found.reason) == (
        Answer.UNKNOWN,
        "B is INVALID (fallback: the graph was not compiled)",
    )
    assert compare(a, b).compared == 0
    assert only(compare(a, measured(store, {"compile": 0.9}, seed=3, **broken))).answer is Answer.SLOWER


@pytest.mark.parametrize(
    ("spoilt", "regression"),
    [
        ({"evidence": {"compiled": False}}, "INVALID in B (fallback)"),
        ({"accuracy": factories.accuracy(finite=False)}, "INVALID in B (implausible)"),
        ({"contention": factories.contention(others_s=3.0)}, ""),
    ],
)
def test_what_became_invalid_by_what_it_runs_is_a_regression_and_by_its_host_is_none(
    store: Store, spoilt: dict[str, Any], regression: str
) -> None:
    sound = measured(store, {"compile": 0.5}, seed=1)
    broken, also_broken = (measured(store, {"compile": 0.5}, seed=seed, **spoilt) for seed in (2, 3))
    assert only(compare(sound, broken)).answer is Answer.UNKNOWN
    assert only(compare(sound, broken)).regression() == regression
    assert not compare(broken, sound).regressions()
    assert not compare(broken, also_broken).regressions()


@pytest.mark.parametrize(
    ("failing", "answer", "regression"),
    [(7, Answer.SAME, ""), (8, Answer.UNKNOWN, "8 of 10 repeats failed in B")],
)
def test_repeats_that_failed_are_said_and_a_regression_where_too_few_are_left(
    store: Store, failing: int, answer: Answer, regression: str
) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    run = store.submit(factories.matrix(optimizations=("channels_last",), repeats=10), again=True).run_id
    for _ in range(failing):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        assert store.finish(claim, Ending(outcome=Outcome.ERROR, reason="KeyError: 'x'"))
    samples = Samples(device_ns=constant(5), end_to_end_ns=constant(6))
    assert factories.measure_all(store, "cpu@alpha", samples=samples, control=control(10)) == 10 - failing
    b = collate(store, run)
    found = only(compare(a, b))
    assert (found.answer, found.regression()) == (answer, regression)
    assert f"{failing} of B's 10 repeats failed (KeyError: 'x')" in found.notes
    assert not compare(b, a).regressions()


def test_measurements_that_b_took_over_from_a_are_no_comparison(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5})
    run = store.submit(factories.matrix(optimizations=("channels_last", "compile"), repeats=10)).run_id
    assert factories.measure_all(store, "cpu@alpha") == 10
    report = compare(a, collate(store, run))
    assert "--again" in recipe(report, "channels_last").reason
    assert recipe(report, "compile").reason == "A has no such cell"
    assert not report.regressions()


def test_a_run_that_took_over_all_of_the_others_measurements_is_refused_and_passes_no_gate(
    store: Store, command: CliRunner
) -> None:
    a = submit(store, {"channels_last": 0.5, "compile": 0.5})
    b = store.submit(factories.matrix(optimizations=("channels_last",), repeats=10)).run_id
    assert store.claim("cpu@alpha") is None
    refused = command.invoke(app, ["compare", a, b])
    assert (refused.exit_code, "have the same measurements" in refused.stderr) == (2, True)


def test_a_cell_that_is_missing_or_unfinished_in_b_is_shown_and_one_that_failed_is_a_regression(
    store: Store,
) -> None:
    a = measured(store, {"channels_last": 0.5, "compile": 0.5, "torchscript": 0.5, "onnxruntime": 0.5})
    shared = {"repeats": 1, "seed": 3}
    run = store.submit(
        factories.matrix(optimizations=("channels_last", "compile", "torchscript"), **shared), again=True
    ).run_id
    for outcome in (Outcome.OUT_OF_MEMORY, Outcome.UNSUPPORTED):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        store.finish(claim, Ending(outcome=outcome, reason="two\nlines"))
    report = compare(a, collate(store, run))
    reasons = sorted(one.reason for one in report.comparisons)
    assert reasons == [
        "B has no such cell",
        "B: out_of_memory (two lines)",
        "B: pending",
        "B: unsupported (two lines)",
    ]
    assert sorted(one.regression() for one in report.regressions()) == ["out_of_memory in B", "unsupported in B"]


# ---- what may be compared at all


def test_unlike_environments_are_refused_with_what_differs_unless_asked_for(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    b = measured(store, {"channels_last": 0.6}, seed=2, environment=OTHER)
    with pytest.raises(
        BadInput, match=r"driver none → 600\.1, torch 2\.14\.1 → 2\.15\.0\. .*--across-environments"
    ):
        compare(a, b)
    report = compare(a, b, across_environments=True)
    assert dict(report.unlike) == {"driver": ("none", "600.1"), "torch": ("2.14.1", "2.15.0")}
    assert (only(report).answer, only(report).by, only(report).notes) == (Answer.SLOWER, "paired", ())


def test_times_of_unlike_environments_come_with_a_warning(store: Store) -> None:
    a = measured(store, {"channels_last": 1.0}, paired=False)
    b = measured(store, {"channels_last": 1.0}, paired=False, environment=OTHER)
    found = only(compare(a, b, across_environments=True))
    assert found.by == "times"
    assert "times of unlike environments" in found.notes[0]


def test_of_several_classes_in_a_run_the_one_that_both_have_is_compared(store: Store) -> None:
    def moved(found: Measurement) -> Measurement:
        return found.model_copy(update={"environment": OTHER}) if found.spec.repeat < 10 else found

    a = measured(store, {"channels_last": 0.5}, seed=1, repeats=4)
    b = measured(store, {"channels_last": 0.6}, seed=2, repeats=14, change=moved)
    found = only(compare(a, b))
    assert (found.answer, found.repeats) == (Answer.SLOWER, (4, 4))


def test_another_protocol_may_be_compared_and_is_said(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, matrix={"protocol": "standard"})
    b = measured(store, {"channels_last": 0.5}, matrix={"protocol": "thorough"})
    [note] = only(compare(a, b)).notes
    assert note.startswith("the protocol differs in name, min_s, ")


def of_model(digest: str | None) -> dict[str, Any]:
    """A matrix's digest of its model, where it has one."""
    return {} if digest is None else {"model_digests": {"densenet121": digest}}


@pytest.mark.parametrize(("before", "after"), [("a", "b"), ("a", "a"), (None, "b")])
def test_ratios_to_controls_of_two_models_are_not_compared_but_times_are(
    store: Store, before: str | None, after: str
) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1, matrix=of_model(before))
    b = measured(store, {"channels_last": 0.5}, seed=2, matrix=of_model(after))
    found = only(compare(a, b))
    changed = (before, after) == ("a", "b")
    assert found.answer is (Answer.UNKNOWN if changed else Answer.SAME)
    assert ("the model itself changed, and its live control with it" in found.reason) is changed
    times = {"drift": 0, "paired": False}
    a, b = (
        measured(store, {"channels_last": t}, seed=4, matrix=of_model(d), **times)
        for t, d in ((1.0, before), (2.0, after))
    )
    assert only(compare(a, b)).answer is Answer.SLOWER


def test_runs_without_a_cell_in_common_are_refused(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, repeats=1)
    b = measured(store, {"channels_last": 0.5}, repeats=1, matrix={"batch_sizes": (8,)})
    with pytest.raises(BadInput, match="no cell in common"):
        compare(a, b)


# ---- beside time


@pytest.mark.parametrize(
    ("right", "regression"),
    [
        (846, ""),
        (845, "INVALID in B (accuracy_lost)"),
        (800, "top-1 fell from 94.44% to 88.89%; INVALID in B (accuracy_lost)"),
    ],
)
def test_a_top_1_that_fell_beyond_both_intervals_is_a_regression(
    store: Store, right: int, regression: str
) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1)
    b = measured(store, {"channels_last": 0.5}, seed=2, accuracy=factories.accuracy(top1_correct=right))
    # more wrong answers than the recipe may cost make the row INVALID: its time is left out, its top-1 is not
    assert only(compare(a, b)).regression() == regression


def test_memory_and_size_are_shown_when_they_changed_by_more_than_one_percent(store: Store) -> None:
    a = measured(store, {"channels_last": 0.5}, seed=1, model_size_bytes=1000)
    nearly = measured(store, {"channels_last": 0.5}, seed=2, model_size_bytes=1009)
    b = measured(store, {"channels_last": 0.5}, seed=3, model_size_bytes=1100)
    assert only(compare(a, nearly)).sizes == {}
    assert only(compare(a, b)).sizes == {"model_size_bytes": (1000, 1100)}
    assert not compare(a, b).regressions()


# ---- how often the rule errs


def logs(draw: np.random.Generator, trials: int, shift: float = 0.0) -> list[list[float]]:
    found: list[list[float]] = draw.normal(shift, 0.015, (trials, 10)).tolist()
    return found


def test_the_rule_finds_a_difference_where_there_is_none_2_times_of_100() -> None:
    draw = np.random.default_rng(5)
    trials = zip(logs(draw, 4000), logs(draw, 4000), strict=True)
    found = [differ(a, b).answer is not Answer.SAME for a, b in trials]
    assert 0.01 < np.mean(found) <= 0.03


def test_of_many_cells_compared_together_hardly_ever_one_differs_without_a_change() -> None:
    draw = np.random.default_rng(6)
    families = [zip(logs(draw, 20), logs(draw, 20), strict=True) for _ in range(300)]
    found = [any(differ(a, b, comparisons=20).answer is not Answer.SAME for a, b in family) for family in families]
    assert 0.005 < np.mean(found) < 0.04


def test_ten_repeats_with_an_sd_of_one_and_a_half_percent_find_a_change_of_3_percent() -> None:
    draw = np.random.default_rng(7)
    trials = zip(logs(draw, 2000), logs(draw, 2000, math.log(1.03)), strict=True)
    assert np.mean([differ(a, b).answer is Answer.SLOWER for a, b in trials]) >= 0.95


def test_the_smallest_change_that_is_said_to_be_found_is_found_8_times_of_10() -> None:
    draw = np.random.default_rng(8)
    least = float(
        np.mean([differ(a, b).detectable for a, b in zip(logs(draw, 500), logs(draw, 500), strict=True)])
    )
    trials = zip(logs(draw, 2000), logs(draw, 2000, least), strict=True)
    assert np.mean([differ(a, b).answer is Answer.SLOWER for a, b in trials]) == pytest.approx(0.8, abs=0.04)


# ---- the command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    return CliRunner()


def test_the_command_shows_a_table_and_ends_with_one_sentence(store: Store, command: CliRunner) -> None:
    a = submit(store, {"baseline": 1.0, "channels_last": 0.5}, seed=1)
    submit(store, {"baseline": 1.0, "channels_last": 0.4}, seed=2, model_size_bytes=64 << 20)
    done = command.invoke(app, ["compare", a, "latest"])
    assert done.exit_code == 0
    *_, size, last = done.stdout.splitlines()
    assert "Bonferroni" in done.stdout
    assert size.endswith("model size 32.0 → 64.0 MiB (+100.0 %)")
    assert last == "No regression was found; cells: 1 faster, 1 cannot be told."
    [row] = [line for line in done.stdout.splitlines() if line.startswith("densenet121_channels_last  ")]
    assert "faster" in row
    assert "10 / 10" in row
    assert "VALID / VALID" in row


def test_a_slowdown_ends_the_command_with_4_unless_it_is_tolerated(store: Store, command: CliRunner) -> None:
    a = submit(store, {"channels_last": 0.5}, seed=1)
    b = submit(store, {"channels_last": 0.525}, seed=2)
    done = command.invoke(app, ["compare", a, b])
    assert done.exit_code == 4
    last = done.stdout.splitlines()[-1]
    assert last.startswith("B is worse than A: densenet121_channels_last batch 1 cpu (4.7 % slower); ")
    assert command.invoke(app, ["compare", a, b, "--max-regression", "7"]).exit_code == 0
    assert command.invoke(app, ["compare", a, b, "--max-regression", "3"]).exit_code == 4
    assert command.invoke(app, ["compare", b, a]).exit_code == 0


@pytest.mark.parametrize("tolerated", ["nan", "inf", "-1"])
def test_a_tolerance_without_end_or_below_zero_is_bad_input_and_passes_nothing(
    store: Store, command: CliRunner, tolerated: str
) -> None:
    a, b = (submit(store, {"channels_last": t}, seed=1) for t in (0.5, 0.9))
    refused = command.invoke(app, ["compare", a, b, "--max-regression", tolerated])
    assert (refused.exit_code, "--max-regression" in refused.stderr) == (2, True)
    assert command.invoke(app, ["compare", a, b, "--max-regression", "1e3"]).exit_code == 0


def test_the_sentence_names_a_dozen_of_many_that_became_worse(store: Store) -> None:
    shared = {"matrix": {"batch_sizes": tuple(range(1, 16))}, "repeats": 3}
    report = compare(*(measured(store, {"channels_last": time}, **shared) for time in (0.5, 0.9)))
    told = sentence(report)
    assert (len(report.regressions()), told.count("% slower)")) == (15, 12)
    assert " and 3 more; cells: 15 slower." in told


def test_json_is_one_object_that_says_all(store: Store, command: CliRunner) -> None:
    a = submit(store, {"baseline": 1.0, "channels_last": 0.5}, seed=1)
    b = submit(store, {"baseline": 1.0, "channels_last": 0.6}, seed=2)
    done = command.invoke(app, ["compare", a, b, "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 4
    assert (found["a"], found["b"], found["compared"], found["regressions"]) == (a, b, 1, 1)
    baseline, changed = found["cells"]
    assert (baseline["answer"], baseline["change_percent"]) == ("cannot be told", None)
    assert (changed["answer"], changed["by"], changed["repeats"]) == ("slower", "paired", [10, 10])
    assert changed["low_percent"] < 20 < changed["high_percent"]
    assert changed["cell"]["recipe"] == "channels_last"
    assert changed["b"]["verdict"] == "VALID"


def test_what_cannot_be_compared_is_bad_input(
    store: Store, command: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = submit(store, {"channels_last": 0.5}, seed=1)
    b = submit(store, {"channels_last": 0.5}, seed=2, environment=OTHER)
    refused = command.invoke(app, ["compare", a, b])
    assert (refused.exit_code, "driver none → 600.1" in refused.stderr) == (2, True)
    allowed = command.invoke(app, ["compare", a, b, "--across-environments"])
    assert allowed.exit_code == 0
    assert allowed.stdout.startswith("UNLIKE ENVIRONMENTS: driver none → 600.1")
    assert command.invoke(app, ["compare", b, "latest"]).exit_code == 2
    assert command.invoke(app, ["compare", "nonsense", b]).exit_code == 2
    monkeypatch.setenv("FARM_DATABASE_URL", "postgresql://farm:geheim@127.0.0.1:9/farm")
    assert command.invoke(app, ["compare", a, b]).exit_code == 3
