"""What is recommended, what ties with it, what is kept out and by how much; and how that is asked and told."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from farm.errors import BadInput
from farm.measurement import Outcome
from farm.spec import Protocol
from farm.verdict import Level
from producer import request
from results_store import pareto, recommend_table
from results_store.__main__ import app
from results_store.collate import Row, collate
from results_store.constraints import METRICS, Constraint, Judged, constraint
from results_store.question import OBJECTIVES, Question, question
from results_store.recommend import Advice, Standing, command, recommend
from results_store.store import Ending, Store
from tests import factories, rows

GOLDEN = Path(__file__).parent.parent / "golden" / "recommend"


def asked(objective: str = "throughput", allow_suspect: bool = False, **bounds: float) -> Question:
    made = tuple(constraint(name, bound) for name, bound in bounds.items())
    return Question(objective=objective, constraints=made, allow_suspect=allow_suspect)


def only(given: Sequence[Row], wanted: Question) -> Advice:
    [advice] = recommend(given, wanted).advice
    return advice


def winner(given: Sequence[Row], wanted: Question | None = None) -> str:
    advice = only(given, wanted or asked())
    assert advice.winner is not None
    return str(advice.winner.row.cell.recipe)


def standings(advice: Advice) -> dict[str, Standing]:
    return {str(found.row.cell.recipe): found.standing for found in advice.candidates[1:]}


# ---- the winner, and what ties with it


def test_the_fastest_wins_what_cannot_be_told_apart_ties_and_what_is_slower_is_worse() -> None:
    given = [
        rows.row("baseline", p50_ms=20.0, seed=1),
        rows.row("amp", p50_ms=10.0, seed=2),
        rows.row("channels_last", p50_ms=10.02, seed=3),
    ]
    advice = only(given, asked())
    assert winner(given) == "amp"
    assert standings(advice) == {"channels_last": Standing.TIES, "baseline": Standing.WORSE}
    assert [str(found.row.cell.recipe) for found in advice.ties] == ["channels_last"]
    slower = advice.candidates[2].difference
    assert slower is not None
    assert slower.low < 0.693 < slower.high


def test_live_controls_decide_where_times_say_the_opposite() -> None:
    # the host was slow while amp was measured, and its control took as much longer
    given = [
        rows.row("baseline", p50_ms=20.0, faster=1.0, seed=1),
        rows.row("amp", p50_ms=12.0, faster=2.0, seed=2),
        rows.row("channels_last", p50_ms=11.0, faster=1.5, seed=3),
    ]
    advice = only(given, asked())
    assert winner(given) == "amp"
    assert {found.by for found in advice.candidates[1:]} == {"ratios"}
    assert set(standings(advice).values()) == {Standing.WORSE}
    assert advice.winner is not None
    assert advice.winner.row in advice.front
    assert winner([replace_control(row, None) for row in given]) == "channels_last"


def replace_control(row: Row, to: None) -> Row:
    assert row.figures is not None
    each = replace(row.figures.by_repeat, speedup=())
    return replace(row, figures=replace(row.figures, speedup=to, control=to, by_repeat=each))


def test_rows_of_other_batch_sizes_have_other_controls_and_are_compared_by_their_repeats() -> None:
    given = [
        rows.row("amp", batch_size=1, p50_ms=2.0, faster=2.0, seed=1),
        rows.row("amp", batch_size=32, p50_ms=32.0, faster=2.0, seed=2),
    ]
    advice = only(given, asked())
    assert advice.winner is not None
    assert advice.winner.row.cell.batch_size == 32
    assert (advice.candidates[1].by, advice.candidates[1].standing) == ("repeats", Standing.WORSE)
    by_latency = only(given, asked("latency"))
    assert by_latency.winner is not None
    assert by_latency.winner.row.cell.batch_size == 1


def test_what_a_cell_that_is_its_own_control_deviates_by_is_no_difference() -> None:
    close = [rows.row("amp", faster=2.0, seed=2), rows.row("channels_last", faster=1.95, seed=3)]
    steady = [rows.row("baseline", faster=1.0, seed=4), *close]
    biased = [rows.row("baseline", faster=1.06, seed=4), *close]
    assert standings(only(steady, asked()))["channels_last"] is Standing.WORSE
    assert standings(only(biased, asked()))["channels_last"] is Standing.TIES


def test_few_repeats_claim_nothing() -> None:
    given = [rows.row("amp", p50_ms=5.0, repeats=1), rows.row("baseline", p50_ms=50.0, repeats=1)]
    advice = only(given, asked())
    assert standings(advice) == {"baseline": Standing.UNKNOWN}
    assert advice.ties[0].reason == "1 and 1 repeats with a figure, 3 of each are needed"
    assert "--protocol standard" in " ".join(advice.notes)


def test_the_more_are_compared_the_wider_each_interval() -> None:
    def width(others: int) -> float:
        given = [rows.row("amp", p50_ms=10.0), rows.row("baseline", p50_ms=11.0, seed=1)]
        given += [rows.row("channels_last", p50_ms=30.0 + n, batch_size=2 + n, seed=n) for n in range(others)]
        [found] = [c for c in only(given, asked("latency")).candidates if str(c.row.cell.recipe) == "baseline"]
        assert found.difference is not None
        return found.difference.high - found.difference.low

    assert width(20) > 1.2 * width(0)


def test_energy_is_counted_once_so_the_least_is_named_and_nothing_is_told_apart() -> None:
    given = [rows.row("amp", energy_j=0.5), rows.row("baseline", energy_j=0.9)]
    advice = only(given, asked("energy"))
    assert winner(given, asked("energy")) == "amp"
    assert standings(advice) == {"baseline": Standing.UNKNOWN}


# ---- verdicts and outcomes


def test_an_invalid_row_never_wins_whatever_is_allowed() -> None:
    given = [rows.row("amp", p50_ms=1.0, level=Level.INVALID), rows.row("baseline")]
    for allow in (False, True):
        assert winner(given, asked(allow_suspect=allow)) == "baseline"
    assert [str(row.cell.recipe) for row in only(given, asked()).invalid] == ["amp"]


def test_a_suspect_row_wins_only_where_nothing_valid_can_or_where_it_may() -> None:
    doubted = rows.row("amp", p50_ms=5.0, level=Level.SUSPECT)
    given = [doubted, rows.row("baseline", p50_ms=10.0)]
    assert winner(given) == "baseline"
    assert only(given, asked()).passed_over == (doubted,)
    assert winner(given, asked(allow_suspect=True)) == "amp"
    advice = only(given, asked(max_p50_ms=7))
    assert advice.winner is not None
    assert advice.winner.row is doubted
    assert any("SUSPECT" in note and "the host was busy" in note for note in advice.notes)


def test_what_was_not_measured_is_told_and_a_run_that_goes_on_too() -> None:
    given = [
        rows.row("baseline"),
        rows.unmeasured("tensorrt", "unsupported", "needs a GPU"),
        rows.unmeasured("amp", "pending"),
    ]
    advice = only(given, asked())
    assert [row.outcome for row in advice.unmeasured] == ["unsupported", "pending"]
    assert advice.notes[0] == (
        "10 of 30 repeats are still to be measured, and 1 of 3 cells have none yet: the answer may change."
    )


def test_devices_and_environment_classes_are_answered_apart() -> None:
    other = factories.environment(device_model="Other CPU")
    here = rows.row("baseline")
    assert here.figures is not None
    there = replace(here, environment_key=other.key, figures=replace(here.figures, environment=other))
    gpu = rows.row("amp", device="cuda", vram_mb=900.0)
    missing = rows.unmeasured("tensorrt", device="cuda")
    found = recommend([here, there, gpu, missing, rows.unmeasured("fp16", device="cuda.l4")], asked()).advice
    assert [(a.device, a.environment and a.environment.device_model, a.cells) for a in found] == [
        ("cpu", "Test CPU", 1),
        ("cpu", "Other CPU", 1),
        ("cuda", "NVIDIA H200", 2),
        ("cuda.l4", None, 1),
    ]
    assert "unlike environments, answered apart: device_model Test CPU → Other CPU." in shown(
        [here, there], asked()
    )


# ---- constraints


@pytest.mark.parametrize(
    ("name", "bound", "judged"),
    [
        ("max_p99_ms", 12.7, Judged.KEPT),
        ("max_p99_ms", 12.5, Judged.UNCERTAIN),
        ("max_p99_ms", 11.5, Judged.UNCERTAIN),
        ("max_p99_ms", 11.3, Judged.MISSED),
        ("max_p90_ms", 99.0, Judged.UNKNOWN),
        ("min_top1", 0.93, Judged.KEPT),
        ("min_top1", 0.95, Judged.UNCERTAIN),
        ("min_top1", 0.97, Judged.MISSED),
        ("max_top1_drop", 0.0, Judged.KEPT),
        ("max_size_mb", 32.0, Judged.KEPT),
        ("max_size_mb", 31.9, Judged.MISSED),
        ("min_throughput", 780.0, Judged.KEPT),
        ("min_throughput", 800.0, Judged.UNCERTAIN),
        ("max_ram_mb", 99.0, Judged.MISSED),
        ("max_energy_j", 1.0, Judged.UNKNOWN),
        ("min_speedup", 1.0, Judged.UNKNOWN),
        ("max_vram_mb", 1.0, Judged.KEPT),
    ],
)
def test_a_constraint_is_judged_at_the_unfavourable_end(name: str, bound: float, judged: Judged) -> None:
    assert constraint(name, bound).check(rows.row()).judged is judged


def test_a_speed_up_is_constrained_where_it_has_an_interval_over_repeats() -> None:
    wanted = constraint("min_speedup", 1.9)
    assert wanted.check(rows.row("amp", faster=2.0)).judged is Judged.KEPT
    assert wanted.check(rows.row("amp", faster=1.9)).judged is Judged.UNCERTAIN
    few = wanted.check(rows.row("amp", faster=2.0, repeats=2))
    assert (few.judged, few.reading.why) == (
        Judged.UNKNOWN,
        "2 repeats with a live control, 3 are needed",
    )


def test_memory_of_a_gpu_is_constrained_on_gpus_only() -> None:
    wanted = constraint("max_vram_mb", 1000)
    assert wanted.check(rows.row(device="cuda", vram_mb=900)).judged is Judged.KEPT
    assert wanted.check(rows.row(device="cuda", vram_mb=1100)).judged is Judged.MISSED
    assert wanted.check(rows.row(device="cuda")).judged is Judged.UNKNOWN


def test_each_constraint_says_what_it_keeps_out_alone_and_what_would_win_without_it() -> None:
    given = [
        rows.row("amp", p50_ms=5.0, p99_ms=30.0, top1=950),
        rows.row("channels_last", p50_ms=6.0, p99_ms=30.0, top1=500),
        rows.row("baseline", p50_ms=20.0, p99_ms=15.0, top1=950),
    ]
    advice = only(given, asked(max_p99_ms=20, min_top1=0.9))
    tail, accuracy = advice.exclusions
    assert (tail.kept, len(tail.checks), tail.alone) == (1, 2, 1)
    assert tail.instead is given[0]
    assert (accuracy.kept, accuracy.alone, accuracy.instead) == (2, 0, None)
    assert advice.winner is not None
    assert advice.winner.row is given[2]


def test_where_a_constraint_leaves_nothing_the_nearest_and_its_miss_are_told() -> None:
    given = [rows.row("amp", p99_ms=30.0), rows.row("baseline", p99_ms=24.0)]
    advice = only(given, asked(max_p99_ms=20))
    assert advice.winner is None
    [tail] = advice.exclusions
    assert tail.nearest is not None
    assert tail.nearest.row is given[1]
    assert tail.nearest.miss == pytest.approx(24 * 1.05 - 20)
    assert tail.nearest.missed_share == pytest.approx((24 * 1.05 - 20) / 20)


def test_where_only_all_together_leave_nothing_the_nearest_row_is_told_with_all_that_it_misses() -> None:
    given = [rows.row("amp", p99_ms=10.0, top1=800), rows.row("baseline", p99_ms=40.0, top1=950)]
    advice = only(given, asked(max_p99_ms=20, min_top1=0.9))
    assert [exclusion.kept for exclusion in advice.exclusions] == [1, 1]
    assert [check.row for check in advice.nearest] == [given[0]]


@pytest.mark.parametrize(
    ("name", "bound", "hint"),
    [
        ("min_top1", 95.0, "0.95 for 95 %"),
        ("max_p99_ms", -1.0, "0 or more"),
        ("max_p99_ms", float("nan"), "a number is needed"),
        ("max_p98_ms", 1.0, "Did you mean 'max_p9"),
    ],
)
def test_a_bound_that_cannot_be_is_refused(name: str, bound: float, hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        constraint(name, bound)


# ---- what always holds


LEVELS = st.sampled_from([Level.VALID, Level.VALID, Level.SUSPECT, Level.INVALID])
ROWS = st.builds(
    rows.row,
    st.sampled_from(["baseline", "amp", "channels_last", "channels_last+amp", "torchscript"]),
    batch_size=st.sampled_from([1, 8, 32]),
    level=LEVELS,
    repeats=st.sampled_from([1, 4]),
    seed=st.integers(0, 50),
    p50_ms=st.sampled_from([1.0, 5.0, 5.05, 20.0]),
    p99_ms=st.one_of(st.none(), st.sampled_from([6.0, 21.0])),
    faster=st.one_of(st.none(), st.sampled_from([0.9, 1.0, 2.0])),
    top1=st.one_of(st.none(), st.sampled_from([500, 900, 990])),
    energy_j=st.one_of(st.none(), st.sampled_from([0.1, 0.2])),
    size_mb=st.sampled_from([1.0, 30.0]),
)
CONSTRAINTS = st.sampled_from(
    [
        constraint("max_p99_ms", 10),
        constraint("max_p50_ms", 6),
        constraint("min_top1", 0.85),
        constraint("max_energy_j", 0.15),
        constraint("max_size_mb", 20),
        constraint("min_speedup", 0.95),
        constraint("min_throughput", 500),
        constraint("max_vram_mb", 1),
    ]
)
QUESTIONS = st.builds(
    Question,
    objective=st.sampled_from(["throughput", "latency", "energy"]),
    constraints=st.lists(CONSTRAINTS, max_size=3, unique_by=lambda one: one.metric.flag).map(tuple),
    allow_suspect=st.booleans(),
)


def feasible(given: Sequence[Row], wanted: Question) -> set[int]:
    advice = only(given, wanted)
    return {id(row) for row in (*advice.passed_over, *(found.row for found in advice.candidates))}


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), QUESTIONS, CONSTRAINTS)
def test_another_constraint_never_makes_a_cell_feasible(
    given: list[Row], wanted: Question, another: Constraint
) -> None:
    more = replace(wanted, constraints=(*wanted.constraints, another))
    assert feasible(given, more) <= feasible(given, wanted)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), QUESTIONS)
def test_the_winner_keeps_every_constraint_is_on_the_front_and_is_never_invalid(
    given: list[Row], wanted: Question
) -> None:
    advice = only(given, wanted)
    if advice.winner is None:
        assert advice.feasible == 0
        return
    row = advice.winner.row
    assert all(one.check(row).is_kept for one in wanted.constraints)
    assert any(other is row for other in advice.front)
    assert not row.is_invalid
    better = OBJECTIVES[wanted.objective].metric.better
    assert all(found.estimate * better <= advice.winner.estimate * better for found in advice.candidates)
    levels = {found.row.verdict.level for found in advice.candidates if found.row.verdict}
    assert wanted.allow_suspect or len(levels) == 1


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), QUESTIONS)
def test_every_cell_is_accounted_for_once(given: list[Row], wanted: Question) -> None:
    advice = only(given, wanted)
    kept_out = {id(check.row) for exclusion in advice.exclusions for check in exclusion.checks}
    assert advice.cells == len(given)
    assert len(advice.invalid) + len(kept_out) + advice.feasible == len(given)
    assert len(advice.candidates) + len(advice.passed_over) == advice.feasible
    for exclusion in advice.exclusions:
        assert exclusion.kept + len(exclusion.checks) == len(given) - len(advice.invalid)
    json.dumps(recommend_table.as_json("run", recommend(given, wanted)), allow_nan=False)
    shown(given, wanted)


# ---- the command


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"recipe": "pruning(0.3)+channels_last", "threads": 2, "weights": "sha256:" + "0" * 64},
        {"weights": "pretrained", "dataset": "synthetic", "image_size": 224, "device": "cuda.h200"},
        {"protocol": Protocol(name="thorough+", percentiles=(50, 99), remeasure=0, profile=False)},
        {"protocol": Protocol(name="test", accuracy_samples=64, control_every=None, telemetry_s=None)},
    ],
)
def test_the_command_submits_the_very_cell_again(fields: Mapping[str, Any]) -> None:
    cell = factories.cell(**{"protocol": Protocol(), **fields})
    made = replace(rows.row(), cell=cell, repeats_wanted=7)
    words = shlex.split(command(made))
    assert words[:4] == ["python", "-m", "producer", "submit-matrix"]
    assert words[-2:] == ["--again", "--wait"]
    flags: dict[str, Any] = {}
    for flag, value in zip(words[4:-2:2], words[5:-2:2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if name in request.LISTS:
            flags.setdefault(name, []).append(value)
        else:
            flags[name] = value
    matrix = request.matrix(flags)
    [again] = matrix.cells()
    named = {"protocol": cell.protocol.model_copy(update={"name": again.protocol.name})}
    assert again == cell.model_copy(update=named)
    assert matrix.repeats == 7


# ---- how it is told


def shown(given: Sequence[Row], wanted: Question) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200, highlight=False, markup=False)
    for part in recommend_table.shown("20260101-000000-abcd", recommend(given, wanted)):
        console.print(part, soft_wrap=isinstance(part, str))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def tying() -> list[Row]:
    return [
        rows.row("baseline", p50_ms=20.0, faster=1.0, seed=1),
        rows.row("amp", p50_ms=10.0, faster=2.0, seed=2),
        rows.row("channels_last", p50_ms=10.02, faster=1.996, seed=3),
        rows.row("amp", batch_size=1, p50_ms=2.0, faster=2.0, seed=4),
    ]


def without_labels() -> list[Row]:
    return [rows.row("baseline", p50_ms=20.0, top1=None), rows.row("amp", seed=1, top1=None)]


#: What is asked of which rows; how that is told stands in `tests/golden/recommend`.
CASES: Mapping[str, tuple[Callable[[], list[Row]], Question]] = {
    "ties": (tying, asked()),
    "nothing_feasible": (tying, asked(max_p99_ms=5, min_top1=0.9)),
    "not_all_together": (
        lambda: [rows.row("amp", p99_ms=10.0, top1=800), rows.row("baseline", p99_ms=40.0)],
        asked(max_p99_ms=20, min_top1=0.9),
    ),
    "one_binding": (
        lambda: [rows.row("amp", p50_ms=5.0, p99_ms=30.0), rows.row("baseline", p50_ms=20.0, p99_ms=15.0, seed=1)],
        asked(max_p99_ms=20, min_top1=0.9, max_size_mb=100),
    ),
    "single_cell": (lambda: [rows.row("amp")], asked("latency")),
    "all_invalid": (
        lambda: [rows.row("amp", level=Level.INVALID), rows.row("baseline", level=Level.INVALID)],
        asked(max_p99_ms=20),
    ),
    "missing_accuracy": (without_labels, asked(min_top1=0.9)),
    "missing_accuracy_unasked": (without_labels, asked()),
    "missing_energy": (lambda: [rows.row("amp"), rows.row("baseline", energy_j=None)], asked("energy")),
    "missing_vram": (
        lambda: [rows.row("amp", device="cuda"), rows.row("baseline", device="cuda", vram_mb=900, p50_ms=30.0)],
        asked(max_vram_mb=2000),
    ),
    "suspect_and_unmeasured": (
        lambda: [
            rows.row("amp", level=Level.SUSPECT, repeats=1),
            rows.unmeasured("tensorrt", "unsupported", "needs\na GPU"),
            rows.unmeasured("bf16", "pending"),
        ],
        asked(),
    ),
    "cost": (
        lambda: [rows.row("amp"), rows.row("amp", device="cuda", p50_ms=1.0, vram_mb=900, p99_ms=None)],
        replace(asked("cost", max_p99_ms=20), prices={"cpu": 0.1, "cuda": 1.2}),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_answer_reads_as_before(name: str) -> None:
    make, wanted = CASES[name]
    text, golden = shown(make(), wanted), GOLDEN / f"{name}.txt"
    if not golden.exists():  # delete a file to have it written anew, and read what changed
        golden.write_text(text)
        pytest.fail(f"{golden} was written: read it, then run this again")
    assert text == golden.read_text()


def test_very_many_cells_are_counted_and_the_first_are_named() -> None:
    given = [rows.row("amp", batch_size=n + 1, p50_ms=n + 1.0, seed=n) for n in range(40)]
    wanted = asked(max_p50_ms=20)
    text = shown(given, wanted)
    assert "and 9 more (--listed 21 names them)" in text
    assert len(text.splitlines()) < 60
    [device] = recommend_table.as_json("run", recommend(given, wanted), most=5)["devices"]
    [exclusion] = device["excluded"]
    assert (exclusion["excluded"], len(exclusion["cells"])) == (21, 5)
    # those that miss by least
    assert [cell["batch_size"] for cell in exclusion["cells"]] == [20, 21, 22, 23, 24]
    assert device["candidates"] + exclusion["excluded"] == 40
    [whole] = recommend_table.as_json("run", recommend(given, wanted), most=40)["devices"]
    assert len(whole["excluded"][0]["cells"]) == 21


def test_what_ties_is_bounded_too() -> None:
    given = [rows.row("amp", batch_size=n + 1, repeats=1, level=Level.VALID) for n in range(40)]
    given += [rows.row("baseline", batch_size=n + 1, level=Level.INVALID) for n in range(40)]
    given += [rows.unmeasured("bf16", batch_size=n + 1) for n in range(40)]
    [device] = recommend_table.as_json("run", recommend(given, asked()), most=3)["devices"]
    for name, count in {"ties": 39, "invalid": 40, "unmeasured": 40, "passed_over": 0}.items():
        assert (len(device[name]), device[f"{name}_count"]) == (min(count, 3), count)
    assert device["ties"][0]["standing"] == "cannot be told"
    assert device["pareto"][0]["cell_key"] == device["winner"]["cell_key"]


def test_the_figures_of_the_json_are_those_of_the_csv() -> None:
    from results_store.exporters.csv import COLUMNS

    [device] = recommend_table.as_json("run", recommend([rows.row("amp", faster=2.0)], asked()))["devices"]
    [made] = [rows.row("amp", faster=2.0)]
    figures = device["winner"]["figures"]
    for key, column in {
        "max_p50_ms": "latency_p50_ms",
        "max_p99_ms": "latency_p99_ms",
        "min_throughput": "throughput_samples_sec",
        "min_speedup": "speedup",
        "max_size_mb": "model_size_mb",
        "max_ram_mb": "ram_usage_mb",
    }.items():
        assert figures[key]["value"] == COLUMNS[column](made)
    assert 100 * figures["min_top1"]["value"] == COLUMNS["accuracy_top1"](made)
    assert set(figures) == set(METRICS)


def test_the_front_is_that_of_the_figures_shown() -> None:
    given = [rows.row("amp", batch_size=b, p50_ms=ms, seed=b) for b, ms in ((1, 2.0), (8, 10.0), (16, 30.0))]
    advice = only(given, asked())
    points = [tuple(axis.reading(row).value or 0.0 for axis in advice.axes) for row in given]
    front = pareto.front(points, [axis.better for axis in advice.axes])
    assert [given[n] for n in front] == list(advice.front) == given[:2]


# ---- the door


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    return CliRunner()


def measured(store: Store) -> str:
    run = factories.submitted(store, optimizations=("baseline", "amp"), repeats=3, batch_sizes=(1, 8))
    while (claim := store.claim("cpu@alpha")) is not None:
        if str(claim.spec.recipe) == "amp" and claim.spec.batch_size == 1:
            store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED, reason="no such instruction"))
        else:
            store.finish(claim, factories.ok(claim, control=factories.baseline_beside(20.0)))
    return run


def test_the_command_recommends_from_a_store(store: Store, command_line: CliRunner) -> None:
    run = measured(store)
    done = command_line.invoke(
        app, ["recommend", "--max-p50-ms", "20", "--min-top1", "0.9", "--max-vram-mb", "2000"]
    )
    assert done.exit_code == 0, done.output
    assert f"Run {run}" in done.stdout
    assert "deploy densenet121_baseline batch 8 cpu (VALID)" in done.stdout
    assert "densenet121_amp batch 1 cpu: unsupported: no such instruction" in done.stdout
    assert "python -m producer submit-matrix --models densenet121 --optimizations baseline" in done.stdout
    as_json = command_line.invoke(app, ["recommend", run, "--batch-size", "1", "--json"])
    [device] = json.loads(as_json.stdout)["devices"]
    assert (device["winner"]["batch_size"], device["cells"], device["candidates"]) == (1, 2, 1)


def test_exit_code_4_says_that_nothing_is_feasible(store: Store, command_line: CliRunner) -> None:
    measured(store)
    done = command_line.invoke(app, ["recommend", "--max-p50-ms", "1"])
    assert done.exit_code == 4
    assert "nothing to deploy" in done.stdout
    assert command_line.invoke(app, ["recommend", "--max-p50-ms", "1", "--json"]).exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nonsense"], "Unknown run 'nonsense'"),
        (["--objective", "latncy"], "Did you mean 'latency'?"),
        (["--objective", "cost"], "--price-per-hour cpu=0.10"),
        (["--objective", "cost", "--price-per-hour", "gpu=1"], "Unknown device of the run 'cuda'"),
        (["--price-per-hour", "cpu"], "a device and a price are needed"),
        (["--price-per-hour", "cpu=-1"], "above 0"),
        (["--price-per-hour", "cpu=0.1", "--price-per-hour", "cpu=0.2"], "0.1 or 0.2? Leave one of them out"),
        (["--device", "cuda"], "Unknown device of the run 'cuda'."),
        (["--batch-size", "7"], "The nearest is 8"),
        (["--batch-size", "x"], "a whole number is needed"),
        (["--model", "resnet18"], "Unknown model of the run"),
        (["--min-top1", "95"], "0.95 for 95 %"),
        (["--max-p99-ms", "fast"], "Invalid value for '--max-p99-ms'"),
    ],
)
def test_bad_input_is_said_with_what_is_possible(
    store: Store, command_line: CliRunner, arguments: list[str], hint: str
) -> None:
    measured(store)
    done = command_line.invoke(app, ["recommend", *arguments])
    assert (done.exit_code, hint in done.stderr) == (2, True), done.stderr


def test_the_least_cost_of_several_devices_is_named() -> None:
    dear, cheap = rows.row("amp", p50_ms=1.0), rows.row("amp", device="cuda", p50_ms=5.0)
    wanted = replace(asked("cost"), prices={"cpu": 6.0, "cuda": 0.6})
    found = recommend([dear, cheap], wanted)
    assert found.cheapest is not None
    assert found.cheapest.device == "cuda"
    assert "Least cost: densenet121_amp batch 8 cuda, 0.1042 per million samples." in shown([dear, cheap], wanted)
    assert recommend_table.as_json("run", found)["cheapest"]["device"] == "cuda"
    # one device has nothing to be compared with, and without prices there is no cost
    assert "Least cost" not in shown([dear], replace(asked("cost"), prices={"cpu": 6.0}))
    assert recommend_table.as_json("run", recommend([dear, cheap], asked()))["cheapest"] is None


def test_questions_take_commas() -> None:
    found = question(objective="cost", bounds={"max_p99_ms": 20.0, "min_top1": None}, prices=["cpu=0.1, cuda=1.2"])
    assert found.prices == {"cpu": 0.1, "cuda": 1.2}
    of_gpus = question(objective="cost", bounds={}, prices=["GPU.h200=3"], devices=["gpu"])
    assert (of_gpus.prices, of_gpus.devices) == ({"cuda.h200": 3.0}, ("cuda",))
    assert [str(one) for one in found.constraints] == ["--max-p99-ms 20"]


def test_rows_of_a_store_have_what_a_recommendation_needs(store: Store) -> None:
    run = measured(store)
    [row] = [row for row in collate(store, run).rows if row.cell.variant == "densenet121_baseline"][:1]
    assert row.figures is not None
    each = row.figures.by_repeat
    assert (len(each.p50_s), len(each.throughput), len(each.speedup)) == (3, 3, 3)
    assert each.p50_s[0] == pytest.approx(0.01, rel=0.01)
    assert each.speedup[0] == pytest.approx(2.0, rel=0.01)
    assert row.figures.throughput_low is not None
    assert row.figures.throughput_low <= (row.figures.throughput or 0.0) <= (row.figures.throughput_high or 0.0)
    assert row.figures.baseline_top1 is not None
    assert row.figures.baseline_top1.value == pytest.approx(850 / 900)
