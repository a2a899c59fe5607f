"""The report: its figures are the CSV's, its answers are right, and nothing that is in a run breaks it."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from typer.testing import CliRunner

from farm.measurement import Outcome
from farm.spec import JobSpec
from results_store.__main__ import app
from results_store.collate import Collated, export
from results_store.constraints import METRICS
from results_store.exporters.csv import COLUMNS as CSV
from results_store.question import Question
from results_store.recommend import recommend
from results_store.report import cells, charts
from results_store.report.answer import answer
from results_store.report.cells import COLUMNS, Group, grouped
from results_store.report.costs import Pays, break_even
from results_store.report.observed import MAX_POINTS, STRETCHES, observe
from results_store.report.page import packed
from results_store.store import Store
from tests import factories, reports
from tests.reports import SPEEDS, Page, bare, collated, mixed, plausible

GOLDEN = Path(__file__).with_name("golden_report")
HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}\"'&\u2028"


def page(run: Collated, folder: Path) -> Page:
    return Page(export(run, folder, "report"))


def only(run: Collated) -> Group:
    [group] = grouped(run.rows)
    return group


def figures(run: Collated) -> dict[str, Any]:
    """Every chart of a run's first group, and its drift, as JSON has them."""
    groups = grouped(run.rows)
    observed = observe(run, [entry for group in groups for entry in group.entries])
    found = {
        f"{name} {batch}": chart
        for name, by_batch in charts.of_group(groups[0], observed).items()
        for batch, chart in by_batch.items()
    }
    found["drift"] = charts.drift(observed.drifts)
    return {name: json.loads(json.dumps(vars(chart), allow_nan=False)) for name, chart in found.items()}


def drawable(figure: dict[str, Any]) -> None:
    """Plotly takes it: it refuses what it does not know."""
    plotly.graph_objects.Figure({**figure, "layout": {**figure["layout"], "template": charts.TEMPLATE}})


# ---- figures


def test_every_figure_of_the_page_is_the_csvs(tmp_path: Path) -> None:
    run = collated(mixed, repeats=3)
    found = page(run, tmp_path).records
    with export(run, tmp_path, "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(found) == len(rows) == len(SPEEDS) * 3
    by_job = {row["job_id"]: row for row in rows}
    for record in found:
        row = by_job.pop(record["job_id"])
        for name in COLUMNS:
            value = record[name]
            told = None if row[name] == "" else row[name] if isinstance(value, str) else float(row[name])
            assert value == told, f"{name} of {row['model_variant']}: {value!r}, in the CSV {row[name]!r}"
    assert set(COLUMNS) <= set(CSV)


def test_the_template_shows_the_figures_of_the_data(tmp_path: Path) -> None:
    run = collated(plausible, repeats=3, batches=(8,))
    found = page(run, tmp_path)
    [record] = [r for r in found.records if r["optimization_technique"] == "compile"]
    assert f"{record['speedup']:.2f}×" in found.text
    assert f"{record['speedup_low']:.2f}–{record['speedup_high']:.2f}" in found.text


# ---- answers


def test_the_answer_is_what_recommend_says_with_its_figures_and_what_it_costs(tmp_path: Path) -> None:
    run = collated(plausible, repeats=3)
    [quickest] = recommend(run.rows, Question(objective="latency")).advice
    throughput, latency = answer(only(run)).picks
    assert (throughput.entry.recipe, throughput.entry.batch) == ("int8_static+openvino", 32)
    assert (latency.entry.recipe, latency.entry.batch) == ("int8_static+openvino", 1)
    assert quickest.winner is not None
    assert latency.entry.row is quickest.winner.row
    assert (throughput.heading, latency.heading) == ("Most samples a second", "Quickest answer")
    assert re.search(
        r"7\.(49|50) times as fast as the baseline \(95 %: 7.37 to 7.63; faster\), top-1 93.89 %",
        throughput.sentence,
    )
    # what it loses is told where it is praised
    assert throughput.sentence.endswith(", fp32 has 94.44 %.")
    assert dict(throughput.costs)["build, once for a host"] == "150 s"
    text = page(run, tmp_path).text
    for pick in (throughput, latency):
        assert pick.sentence in text
        for note in pick.notes:
            assert note in text


def test_what_is_the_best_by_all_is_told_once() -> None:
    [pick] = answer(only(collated(plausible, repeats=3, batches=(8,)))).picks
    assert pick.heading == "Most samples a second, quickest answer"
    assert sum("other candidates" in note for note in pick.notes) == 2


def test_invalid_rows_are_in_no_answer_and_suspect_ones_where_nothing_is_valid(tmp_path: Path) -> None:
    run = collated(mixed, repeats=3)
    assert answer(only(run)).picks[0].entry.recipe == "pruning(0.3)+channels_last+int8_static+onnxruntime"
    beside = answer(only(collated(mixed, repeats=3, recipes=("baseline", "openvino"), batches=(8,)))).picks[0]
    assert beside.entry.recipe == "baseline"
    assert "1 SUSPECT row passed over, because others are VALID." in beside.notes
    assert "it is the baseline itself" in beside.sentence
    alone = answer(only(collated(mixed, repeats=3, recipes=("openvino",), batches=(8,)))).picks[0]
    assert any("The winner is SUSPECT" in note and "contaminated: others had" in note for note in alone.notes)
    assert page(run, tmp_path).text.count("int8_static+openvino at batch") == 0


def test_what_cannot_be_told_apart_is_said() -> None:
    def equal(spec: JobSpec) -> dict[str, Any]:
        return plausible(spec) | {"samples": factories.samples()}

    [pick] = answer(only(collated(equal, batches=(8,)))).picks
    assert any("6 cannot be told from it" in note for note in pick.notes)
    assert not any("No worse" in note for note in pick.notes)  # of what nobody has compared
    assert any("no difference from others is claimed" in note for note in pick.notes)


def test_a_row_with_too_few_calls_for_a_median_has_a_sentence_without_one() -> None:
    few = {"samples": factories.samples(calls=8), "control": None}
    run = collated(
        lambda spec: plausible(spec) | few,
        recipes=("baseline",),
        batches=(8,),
        protocol=factories.PROTOCOL.model_copy(update={"min_calls": 5}),
    )
    [pick] = answer(only(run)).picks
    assert re.match(r"[78]\d\d samples/s, it is the baseline itself, top-1 ", pick.sentence)


def test_a_group_without_anything_to_trust_says_so(tmp_path: Path) -> None:
    run = collated(lambda spec: (Outcome.CRASHED, "SIGSEGV"), recipes=("baseline", "amp"), batches=(1,))
    told = answer(only(run))
    assert told.picks == ()
    assert told.notes == (
        "Nothing that can be trusted was measured for densenet121 on cpu (2 rows not measured: see the reasons).",
    )
    found = page(run, tmp_path)
    assert told.notes[0] in found.text
    assert found.text.count("SIGSEGV") == 2
    assert all(chart["figure"] is None for chart in figures(run).values())


def test_the_page_has_all_that_decides_and_not_rounded(tmp_path: Path) -> None:
    run = collated(mixed, repeats=3)
    found = page(run, tmp_path).data
    by_job = {row.job_id: row for row in run.rows}
    jobs = [record[list(found["columns"]).index("job_id")] for record in found["rows"]]
    assert [basis is not None for basis in found["basis"]] == [by_job[job].is_usable for job in jobs]
    for job, basis in zip(jobs, found["basis"], strict=True):
        if basis is None:
            continue
        for metric in METRICS.values():
            reading, told = metric.reading(by_job[job]), basis["readings"][metric.key]
            if metric.key == "max_vram_mb":
                assert told is None
            else:
                assert told == (
                    [reading.value, reading.low, reading.high] if reading.value is not None else reading.why
                )
        assert basis["repeats"]["throughput"][0] == basis["ratios"][0] == 3
    [group] = found["groups"]
    assert set(group["bias"]) == {"any", "1", "8", "32"}
    fields = [a["name"] for tag, a in page(run, tmp_path).elements if tag == "input" and a.get("type") == "number"]
    assert sorted(map(str, fields)) == sorted([*METRICS, "price"])


# ---- break-even


def test_a_recipe_pays_off_when_what_it_saves_makes_up_for_its_start() -> None:
    group = only(collated(plausible, batches=(8,), repeats=3))
    by_recipe = {entry.recipe: entry for entry in group.entries}
    entry, baseline = by_recipe["openvino"], by_recipe["baseline"]
    found = break_even(entry, group.baseline(entry))
    # 50 s of building and 0.075 s more of the first call; each of 8 samples takes 1.5 times its own time less
    p50_s, ratio = (entry.figure("latency_p50_ms") or 0) / 1e3, entry.figure("speedup") or 0
    expected = math.ceil((50 + 0.075) / (p50_s * (ratio - 1) / 8))
    assert (found.pays, found.samples) == (Pays.AFTER, expected)
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected < found.high
    assert break_even(by_recipe["compile"], baseline).pays is Pays.AFTER
    assert break_even(baseline, baseline).why == "it is the baseline"
    assert break_even(entry, None).pays is Pays.UNKNOWN


def test_what_saves_nothing_never_pays_off_and_what_starts_sooner_does_at_once() -> None:
    def ended(spec: JobSpec) -> dict[str, Any]:
        slow = str(spec.recipe) == "amp"
        start = {"first_call_s": 0.01, "load_s": 0.1} if str(spec.recipe) == "channels_last" else {}
        return {**plausible(spec), **start, **({"samples": factories.samples(90, 91)} if slow else {})}

    group = only(collated(ended, batches=(8,), repeats=3, recipes=("baseline", "amp", "channels_last")))
    _, slow, soon = group.entries
    assert break_even(slow, group.baseline(slow)).pays is Pays.NEVER
    assert break_even(soon, group.baseline(soon)).pays is Pays.AT_ONCE


def test_a_baseline_has_its_entrys_allocator() -> None:
    group = only(collated(plausible, batches=(8,), recipes=("baseline", "jemalloc", "compile+jemalloc")))
    plain, own, other = group.entries
    assert [entry and entry.recipe for entry in (group.baseline(plain), group.baseline(other))] == [
        "baseline",
        "jemalloc",
    ]
    assert own.recipe == "jemalloc"


# ---- groups


def test_rows_are_grouped_where_they_may_be_compared_and_what_was_not_measured_goes_with_them() -> None:
    other = factories.environment(device_model="Other CPU")

    def ended(spec: JobSpec) -> reports.Ended:
        if str(spec.recipe) == "amp":
            return (Outcome.UNSUPPORTED, "no")
        return {**plausible(spec), "environment": other if spec.batch_size == 8 else factories.environment()}

    run = collated(ended, recipes=("baseline", "amp"), batches=(1, 8), models=("densenet121", "resnet18"))
    groups = grouped(run.rows)
    assert [(g.model, g.environment and g.environment.device_model, len(g.members)) for g in groups] == [
        ("densenet121", "Test CPU", 3),
        ("densenet121", "Other CPU", 1),
        ("resnet18", "Test CPU", 3),
        ("resnet18", "Other CPU", 1),
    ]
    assert [entry.number for group in groups for entry in group.entries] == list(range(8))


def test_a_large_run_has_a_small_page_with_what_matters_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = collated(mixed, repeats=1)
    many = [
        replace(row, cell=row.cell.model_copy(update={"model": f"model{n}"}))
        for n in range(300)
        for row in run.rows
    ]
    large = replace(run, rows=tuple(many), measured=lambda: iter(()))
    path = export(large, tmp_path, "report")
    found = Page(path)
    assert len(found.data["rows"]) <= cells.MAX_CELLS
    assert len(found.data["groups"]) == cells.MAX_GROUPS
    assert "of 6,300 cells" in found.text
    # all are counted, and the reasons are those of all
    assert "✗ INVALID: 900 rows" in found.text
    assert path.stat().st_size < 10_000_000
    # of each group the front stays, and the baseline
    monkeypatch.setattr(cells, "MAX_CELLS", 4)
    [group] = grouped(run.rows)
    front = {cells.entry(row, 0).recipe for row in run.rows} - {"amp"}
    assert len(group.entries) == 4
    assert {entry.recipe for entry in group.entries} <= front
    assert all(entry.is_usable for entry in group.entries)


# ---- charts


def single(spec: JobSpec) -> reports.Ended:
    return plausible(spec)


def all_invalid(spec: JobSpec) -> reports.Ended:
    return {**plausible(spec), "evidence": {"dtype_asked": "int8", "dtype": "float32"}}


#: What the golden figures are of.
CASES: dict[str, Callable[[], Collated]] = {
    "mixed": lambda: collated(mixed, repeats=3),
    "missing": lambda: collated(bare, recipes=("baseline", "compile"), batches=(1, 8)),
    "invalid": lambda: collated(all_invalid, recipes=("baseline", "compile"), batches=(8,)),
    "single": lambda: collated(single, recipes=("baseline",), batches=(8,)),
}


@cache
def drawn_of(case: str) -> dict[str, Any]:
    return figures(CASES[case]())


@pytest.mark.parametrize("case", CASES)
def test_charts_are_as_they_were_looked_at(case: str) -> None:
    """After a change that is meant `python -m tests.unit.test_report` writes them anew: look at them then."""
    expected = json.loads((GOLDEN / f"{case}.json").read_text())
    found = drawn_of(case)
    assert found.keys() == expected.keys()
    for name, chart in found.items():
        assert chart == expected[name], name


@pytest.mark.parametrize("case", CASES)
def test_plotly_takes_every_figure_and_none_is_empty(case: str) -> None:
    for name, chart in drawn_of(case).items():
        if chart["figure"] is None:
            assert chart["says"], name
            continue
        drawable(chart["figure"])
        drawn = [
            v for trace in chart["figure"]["data"] for v in trace.get("x") or trace.get("median") if v is not None
        ]
        assert drawn, name
        assert chart["says"], name
        assert chart["rows"] or chart["cells"], name


def test_invalid_rows_are_in_no_chart_and_suspect_points_are_open() -> None:
    run = collated(mixed, repeats=3)
    entries = only(run).entries
    invalid = {entry.number for entry in entries if entry.row.is_invalid}
    assert len(invalid) == 3
    for name, chart in drawn_of("mixed").items():
        assert not invalid & set(chart["cells"]), name
        assert "int8_static+openvino" not in json.dumps(chart["figure"]), name
    traces = {t["name"]: t["marker"]["symbol"] for t in drawn_of("mixed")["throughput *"]["figure"]["data"]}
    assert [symbol.endswith("-open") for symbol in traces["openvino"]] == [True] * 3
    assert [symbol.endswith("-open") for symbol in traces["baseline"]] == [False] * 3


def test_many_recipes_are_not_as_many_lines() -> None:
    run = collated(plausible, batches=(1, 8))
    rows = run.rows
    [first, *_] = rows
    many = tuple(
        replace(row, cell=row.cell.model_copy(update={"recipe": _Named(f"recipe{n}")}))
        for n in range(100)
        for row in (first,)
    )
    [group] = grouped((*rows, *many))
    observed = observe(replace(run, rows=(*rows, *many)), ())
    for name, by_batch in charts.of_group(group, observed).items():
        for chart in by_batch.values():
            if chart.figure is not None:
                assert len(chart.figure["data"]) <= 8, name
                assert chart.figure["layout"]["height"] < 1400, name


class _Named:
    """A recipe that nobody can measure, with a name of its own."""

    allocator = "pinned_malloc"
    choices = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    def without(self, axis: str) -> _Named:
        return self


def test_the_spread_of_calls_is_that_of_the_samples() -> None:
    run = collated(plausible, recipes=("baseline",), batches=(8,), repeats=2)
    [entry] = only(run).entries
    found = observe(run, [entry]).spreads[entry.number]
    assert found.calls == 400
    low, first, middle, third, high = found.quantiles_ms
    # samples wander by 1 % around two medians that are 0.4 % apart
    assert low < first < middle < third < high
    assert middle == pytest.approx(10 * 8**0.9 * 1.002, rel=0.003)
    assert high / low == pytest.approx(1.02, abs=0.005)


def test_the_label_of_a_spread_has_the_csvs_median_and_not_that_of_all_calls_together() -> None:
    def ended(spec: JobSpec) -> dict[str, Any]:
        calls = 100 if spec.repeat else 900
        return plausible(spec) | {"samples": factories.samples(10 + spec.repeat, 20, calls=calls), "control": None}

    run = collated(ended, recipes=("baseline",), batches=(8,), repeats=3)
    [label] = charts.spread(only(run), 8, observe(run, only(run).entries)).figure["layout"]["annotations"]  # type: ignore[index]
    assert label["text"] == "baseline · p50 11.0 ms"


def test_drift_is_how_far_controls_are_off_those_like_them() -> None:
    run = collated(plausible, recipes=("baseline", "compile"), batches=(1, 8), repeats=4)
    [drift] = observe(run, ()).drifts
    assert drift.count == 16
    assert drift.minutes == pytest.approx([n / 6 for n in range(16)], abs=1e-3)
    # every other repeat's control took 1 % more
    assert max(drift.percent) - min(drift.percent) == pytest.approx(1, abs=0.05)
    assert drift.low == ()


def test_many_controls_are_drawn_as_the_middle_and_spread_of_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results_store.report.observed.MAX_POINTS", 10)
    monkeypatch.setattr("results_store.report.observed.STRETCHES", 5)
    assert MAX_POINTS > 10
    assert STRETCHES > 5
    run = collated(plausible, recipes=("baseline", "compile"), batches=(1, 8), repeats=4)
    [drift] = observe(run, ()).drifts
    assert (len(drift.minutes), len(drift.low), drift.count) == (5, 5, 16)
    assert all(
        low <= middle <= high for low, middle, high in zip(drift.low, drift.percent, drift.high, strict=True)
    )
    chart = charts.drift([drift])
    assert chart.figure is not None
    assert [trace["type"] for trace in chart.figure["data"]] == ["scatter", "scatter"]


def test_repeated_controls_and_those_of_other_runs_are_told_apart() -> None:
    run = collated(lambda spec: plausible(spec, paired=False), recipes=("baseline",), batches=(8,))
    assert observe(run, ()).drifts == ()
    spec = factories.spec()
    controls = [reports.result(900 + n, 9, spec, {"samples": factories.samples(10 + n, 11 + n)}) for n in range(3)]
    [drift] = observe(replace(run, controls=lambda: iter(controls)), ()).drifts
    assert drift.percent == pytest.approx([-100 / 11, 0, 100 / 11], abs=0.05)


# ---- the page


def test_the_page_needs_nothing_else_and_runs_only_its_own_scripts(tmp_path: Path) -> None:
    found = page(collated(mixed), tmp_path)
    for tag, attributes in found.elements:
        assert "src" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "#").startswith(("#", "profiles/")), tag
    [policy] = [a["content"] or "" for t, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert len(found.scripts) == 3
    for script in found.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]


def test_names_and_reasons_are_texts_whatever_is_in_them(tmp_path: Path) -> None:
    run = collated(lambda spec: {**plausible(spec), "environment": factories.environment(host=HOSTILE)})
    rows = tuple(
        replace(
            row,
            reason=HOSTILE,
            outcome=HOSTILE,
            cell=row.cell.model_copy(update={"model": HOSTILE, "device": HOSTILE}),
        )
        for row in run.rows
    )
    found = page(replace(run, rows=rows, title=HOSTILE), tmp_path)
    assert len(found.scripts) == 3
    assert not [tag for tag, _ in found.elements if tag == "img"]
    assert HOSTILE in found.text
    assert "49" not in found.text.partition("Benchmark report")[2][:40]
    assert found.data["rows"][0][list(COLUMNS).index("model")].startswith("</script>")


def test_data_in_a_script_cannot_end_it_and_has_no_number_that_json_does_not_know() -> None:
    text = packed({"a": HOSTILE})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert json.loads(gzip.decompress(base64.b64decode(text))) == {"a": HOSTILE}
    with pytest.raises(ValueError, match="Out of range"):
        packed(float("nan"))


def test_every_doubted_row_is_there_with_its_reason(tmp_path: Path) -> None:
    run = collated(mixed, repeats=3)
    text = page(run, tmp_path).text
    doubted = [row for row in run.rows if row.verdict is None or row.verdict.reasons]
    assert len(doubted) == 10
    for row in doubted:
        for reason in row.verdict.reasons if row.verdict else ():
            assert str(reason) in text
    assert text.count("asked for dtype int8, ran with float32") == 3
    assert text.count("amp needs more than there is") == 3
    assert "out_of_memory" in text


def test_traces_that_lie_beside_the_page_are_linked(store: Store, tmp_path: Path) -> None:
    from results_store.collate import collate

    run = factories.submitted(store, optimizations=("baseline", "amp"))
    for profile in (factories.profile(), None):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        assert store.finish(claim, factories.ok(claim, profile=profile))
    found = page(collate(store, run), tmp_path)
    assert f"python -m results_store collate {run}" in found.text
    export(collate(store, run), tmp_path, "profiles")
    found = page(collate(store, run), tmp_path)
    links = [a["href"] for t, a in found.elements if t == "a" and (a["href"] or "").startswith("profiles/")]
    assert len(links) == 1
    assert (tmp_path / str(links[0])).exists()


def test_a_run_without_rows_has_a_page(tmp_path: Path) -> None:
    found = page(replace(collated(plausible), rows=(), measured=lambda: iter(())), tmp_path)
    assert "This run has no cells." in found.text


# ---- the commands


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    return CliRunner()


def test_the_command_writes_the_report_of_a_run(store: Store, command: CliRunner) -> None:
    run = factories.submitted(store)
    assert factories.measure_all(store, "cpu@alpha") == 1
    done = command.invoke(app, ["report"])
    assert (done.exit_code, done.output) == (0, f"results/{run}/report.html\n")
    assert run in Page(Path(f"results/{run}/report.html")).text
    assert command.invoke(app, ["report", run, "--output-dir", "here"]).output == "here/report.html\n"
    unknown = command.invoke(app, ["report", "nothing"])
    assert unknown.exit_code == 2
    assert "Unknown run 'nothing'" in unknown.output


def test_two_runs_compared_have_a_page(store: Store, command: CliRunner) -> None:
    other = factories.environment(packages={"torch": "2.15.0"}, host="beta")
    store.register(factories.worker("cpu@beta", environment=other))
    ids = []
    for worker, where, milliseconds in (("cpu@alpha", factories.environment(), 10), ("cpu@beta", other, 12)):
        matrix = factories.matrix(optimizations=("baseline", "amp"), repeats=4)
        ids.append(store.submit(matrix, again=True).run_id)
        factories.measure_all(store, worker, environment=where, samples=factories.samples(milliseconds, 14))
    arguments = ["compare", *ids, "--across-environments", "--html", "deep/page.html"]
    assert command.invoke(app, arguments).exit_code == 4
    found = Page(Path("deep/page.html"))
    assert "B is worse than A" in found.text
    assert "torch" in found.text
    assert "2.15.0" in found.text
    assert "beta" in found.text
    figure = found.data["run"]["change"]["*"]["figure"]
    drawable(figure)
    [trace] = figure["data"]
    assert trace["name"] == "slower"
    assert trace["x"] == pytest.approx([20, 20], abs=0.5)
    taken = command.invoke(app, ["compare", *ids, "--across-environments", "--html", "deep"])
    assert taken.exit_code == 2
    assert "that is a folder" in taken.output


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, make in CASES.items():
        text = json.dumps(figures(make()), indent=1, sort_keys=True, ensure_ascii=False)
        (GOLDEN / f"{name}.json").write_text(f"{text}\n")
