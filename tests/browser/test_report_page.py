"""The report in a real browser: nothing overflows, no chart is empty, nothing is fetched, keys suffice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.ui import WebDriverWait

from farm.measurement import Outcome
from farm.spec import JobSpec
from results_store import question as asking
from results_store.collate import Collated, export
from results_store.compare import compare
from results_store.constraints import METRICS
from results_store.question import OBJECTIVES, Question
from results_store.recommend import Advice, Standing, recommend
from results_store.report import basis, charts, compared
from tests import factories, reports
from tests.reports import Page, bare, collated, mixed, plausible, varied

WIDTHS = (360, 768, 1440)
#: What a page may ask for: itself, and what it has in it.
OWN = ("file:", "data:", "blob:", "about:", "chrome:")

OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
#: Charts that are to be seen and have no mark in them, or stick out of their figure.
EMPTY = """
return [...document.querySelectorAll("figure.chart")].filter((figure) => {
  const plot = figure.querySelector(".plot");
  if (figure.hidden || plot.hidden) return false;
  const marks = plot.querySelectorAll(".points path, .points .point, .boxes path, .bars path, .js-line");
  const frame = figure.getBoundingClientRect();
  const svg = plot.querySelector("svg.main-svg")?.getBoundingClientRect();
  return !svg || !marks.length || svg.height < 100 || svg.right > frame.right + 1 || svg.left < frame.left - 1;
}).map((figure) => figure.dataset.chart)
"""
#: Scrolls to each chart that has something to show and waits until it is drawn.
BY_EVERY_CHART = """
const done = arguments[arguments.length - 1];
(async () => {
  for (const figure of document.querySelectorAll("figure.chart")) {
    figure.scrollIntoView({behavior: "instant"});
    const waits = () => !figure.hidden && !figure.querySelector(".plot").hidden && figure.dataset.drawn !== "yes";
    while (waits()) await new Promise((again) => setTimeout(again, 10));
  }
  scrollTo({top: 0, behavior: "instant"});
  done();
})();
"""
#: Texts of a chart that are cut off at its edge.
CUT = """
const texts = document.querySelectorAll("figure.chart:not([hidden]) .plot:not([hidden]) svg.main-svg text");
return [...texts].filter((text) => {
  const frame = text.closest(".plot").getBoundingClientRect();
  const own = text.getBoundingClientRect();
  return own.width && (own.left < frame.left - 1 || own.right > frame.right + 1);
}).map((text) => text.closest("figure").dataset.chart + ": " + text.textContent)
"""


@pytest.fixture(scope="module")
def run() -> Collated:
    """A run with everything in it: INVALID, SUSPECT and missing cells, intervals, drift, two devices."""
    return collated(mixed, repeats=3, devices=("cpu", "cuda"))


@pytest.fixture(scope="module")
def report(run: Collated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("report"), "report")


@pytest.fixture(autouse=True)
def plain(chrome: Chrome) -> Iterator[None]:
    yield
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def opened(chrome: Chrome, path: Path, width: int = 1440, scheme: str = "light") -> None:
    """Opens a page in a window of this width, and has all its charts drawn."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for kind in ("performance", "browser"):
        logged(chrome, kind)  # what was before is not this page's
    chrome.get(path.as_uri())
    until(chrome, "return document.documentElement.dataset.ready === 'yes'")
    draw(chrome)


def draw(chrome: Chrome) -> None:
    """Comes by every chart, as a reader does, and back."""
    chrome.execute_async_script(BY_EVERY_CHART)


def until(chrome: Chrome, script: str) -> Any:
    return WebDriverWait(chrome, 120, poll_frequency=0.05).until(lambda driver: driver.execute_script(script))


def complaints(chrome: Chrome) -> list[str]:
    """What the page wrote into the console, and what it asked others for."""
    said = [entry["message"] for entry in logged(chrome, "browser")]
    events = [json.loads(entry["message"])["message"] for entry in logged(chrome, "performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked, "the browser does not log what it asks for"
    return said + [url for url in asked if not url.startswith(OWN)]


def logged(chrome: Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser logged since the last time."""
    return list(chrome.get_log(kind))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_no_chart_is_empty(
    chrome: Chrome, report: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    opened(chrome, report, width, scheme)
    assert chrome.execute_script(OVERFLOW) <= 0
    assert chrome.execute_script(EMPTY) == []
    assert chrome.execute_script(CUT) == []
    assert complaints(chrome) == []
    assert chrome.save_screenshot(str(tmp_path / f"report-{width}-{scheme}.png"))


#: Runs that have little to show.
POOR: dict[str, Callable[[], Collated]] = {
    "missing": lambda: collated(bare, recipes=("baseline", "compile"), batches=(1, 8)),
    "single": lambda: collated(plausible, recipes=("baseline",), batches=(8,)),
    "nothing": lambda: collated(lambda spec: _broken(spec), recipes=("baseline", "compile"), batches=(8,)),
}


def _broken(spec: JobSpec) -> dict[str, Any]:
    return {**plausible(spec), "evidence": {"dtype_asked": "int8", "dtype": "float32"}}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", POOR)
def test_a_run_that_has_little_to_show_has_no_empty_chart(
    chrome: Chrome, tmp_path: Path, case: str, width: int
) -> None:
    opened(chrome, export(POOR[case](), tmp_path, "report"), width)
    assert chrome.execute_script(OVERFLOW) <= 0
    assert chrome.execute_script(EMPTY) == []
    assert complaints(chrome) == []


def test_the_figures_that_are_drawn_are_the_csvs(chrome: Chrome, report: Path) -> None:
    opened(chrome, report)
    records = Page(report).records
    drawn = chrome.execute_script(
        "const plot = document.querySelector('[data-chart=throughput] .plot');"
        "return plot.data.map((trace) => [trace.name, [...trace.x], [...trace.y]])"
    )
    assert {name for name, *_ in drawn} >= {"baseline", "openvino"}
    for name, batches, values in drawn:
        for batch, value in zip(batches, values, strict=True):
            told = [
                r["throughput_samples_sec"]
                for r in records
                if (r["optimization_technique"], r["batch_size"], r["device"]) == (name, batch, "cpu")
                and r["verdict"] not in (None, "INVALID")
            ]
            assert told == ([] if value is None else [value])


def test_charts_follow_the_scheme_also_when_it_changes(chrome: Chrome, report: Path) -> None:
    colour = "return document.querySelector('[data-chart=throughput] .plot')._fullLayout.font.color"
    opened(chrome, report)
    light = next(iter(charts.DARK))
    assert chrome.execute_script(colour) == light
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    until(chrome, f"{colour} === {charts.DARK[light]!r}")


#: Fills in the form as a reader does, and reads what is answered.
ASK = """
const [fields, isSuspect] = arguments;
const form = document.querySelector("#limits");
for (const field of form.elements) if (field.type === "number") field.value = "";
for (const [name, value] of Object.entries(fields)) {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
}
form.elements.suspect.checked = isSuspect;
form.dispatchEvent(new Event("input"));
const choice = document.querySelector("#choice");
return {
  sentence: choice.querySelector(".sentence")?.textContent ?? "",
  rows: [...choice.querySelectorAll("tbody tr")]
    .map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent)),
  text: choice.textContent,
}
"""


def ask(chrome: Chrome, fields: dict[str, str], is_suspect: bool = False) -> dict[str, Any]:
    given = {"batch": "", "goal": "throughput", **fields}
    return dict(chrome.execute_script(ASK, given, is_suspect))


def test_a_stranger_finds_what_to_deploy_under_limits_and_what_it_costs(
    chrome: Chrome, report: Path, run: Collated
) -> None:
    opened(chrome, report)
    found = ask(chrome, {"max_p99_ms": "30", "min_top1": "92", "price": "0.1"})
    wanted = asking.question(
        objective="throughput", bounds={"max_p99_ms": 30, "min_top1": 0.92}, devices=["cpu"], prices=["cpu=0.1"]
    )
    [advice] = recommend(run.rows, wanted).advice
    assert advice.winner is not None
    cell = advice.winner.row.cell
    assert found["sentence"].startswith(f"Deploy {cell.recipe} at batch {cell.batch_size} on cpu: throughput ")
    for part in ("p99 latency at most 30 ms leaves out", "of them alone", "never recommended", "not measured"):
        assert part in found["text"]
    for cost in ("RAM, MiB", "size, MiB", "load, s", "pays off", "per million samples"):
        assert cost in found["text"]
    assert f"{advice.cost:.4g}" in found["text"]
    assert (
        f"recommend {run.run_id} --device cpu --model densenet121 --max-p99-ms 30 --min-top1 0.92 "
        "--price-per-hour cpu=0.1"
    ) in found["text"]
    nothing = ask(chrome, {"max_p99_ms": "0.001"})
    assert nothing["sentence"] == "Nothing to deploy for densenet121 on cpu under these limits."
    assert "The nearest is" in nothing["text"]
    refused = ask(chrome, {"min_top1": "101"})
    assert refused["text"].startswith("top-1 at least, %: ")


def test_the_answer_under_limits_says_that_repeats_of_it_are_missing(chrome: Chrome, tmp_path: Path) -> None:
    def ended(spec: JobSpec) -> reports.Ended:
        return plausible(spec) if spec.repeat < 4 else (Outcome.CRASHED, "SIGSEGV")

    run = collated(ended, recipes=("baseline",), batches=(8,), repeats=6)
    opened(chrome, export(run, tmp_path, "report"))
    assert "It was measured in 4 of 6 repeats: the others failed" in ask(chrome, {})["text"]


#: So many questions are asked of the page and of `recommend`.
QUESTIONS = 60


@pytest.fixture(scope="module")
def many_kinds() -> Collated:
    """Cells that tie, that are INVALID or SUSPECT, without accuracy, energy, p99 or a live control."""
    return collated(varied, repeats=4, devices=("cpu", "cuda"))


def test_the_page_answers_as_recommend_does(chrome: Chrome, many_kinds: Collated, tmp_path: Path) -> None:
    opened(chrome, export(many_kinds, tmp_path, "report"))
    groups = Page(tmp_path / "report.html").data["groups"]
    kinds = dict.fromkeys(("nothing", "ties", "unknown", "worse", "alone", "passed over", "suspect"), 0)
    for seed in range(QUESTIONS):
        fields, wanted = _asked(many_kinds, random.Random(seed))
        [group] = [n for n, group in enumerate(groups) if group["device"] == wanted.devices[0]]
        [advice] = recommend(many_kinds.rows, wanted).advice
        found = ask(chrome, {"group": str(group), **fields}, wanted.allow_suspect)
        _require_equal(found, advice, f"seed {seed}: {fields}, {wanted}")
        ties = [one.standing for one in advice.ties]
        kinds["nothing"] += advice.winner is None
        kinds["ties"] += Standing.TIES in ties
        kinds["unknown"] += Standing.UNKNOWN in ties
        kinds["worse"] += any(one.standing is Standing.WORSE for one in advice.candidates)
        kinds["alone"] += any(exclusion.alone for exclusion in advice.exclusions)
        kinds["passed over"] += bool(advice.passed_over)
        kinds["suspect"] += any(note.startswith("The winner is SUSPECT") for note in advice.notes)
    # else they would not have been asked what there is to ask
    assert min(kinds.values()) > 0, kinds


def _asked(run: Collated, draw: random.Random) -> tuple[dict[str, str], Question]:
    """A question as it is typed into the page, and for `recommend`; bounds lie at and beside real figures."""
    device = draw.choice(("cpu", "cuda"))
    rows = [row for row in run.rows if row.cell.device == device and row.is_usable]
    metrics = draw.sample(list(METRICS.values()), draw.choice((0, 1, 1, 2, 2, 3)))
    typed: dict[str, str] = {}
    bounds: dict[str, float] = {}
    for metric in metrics:
        known = [reading for row in rows if (reading := metric.reading(row)).value is not None]
        if not known:
            continue
        reading = draw.choice(known)
        end = draw.choice([end for end in (reading.value, reading.low, reading.high) if end is not None])
        factor = 100 if metric.most == 1 else 1
        text = f"{end * factor * draw.choice((0.97, 1, 1, 1.03)):.4g}"
        bound = float(f"{float(text) / factor:.15g}")
        if metric.least <= bound <= metric.most and "e" not in text:
            typed[metric.key], bounds[metric.key] = text, bound
    size = draw.choice(("", "", "1", "8", "32"))
    wanted = asking.question(
        objective=draw.choice(list(basis.GOALS)),
        bounds={key: bounds.get(key) for key in METRICS},
        devices=[device],
        batch_sizes=[size] if size else [],
        models=["densenet121"],
        allow_suspect=draw.random() < 0.3,
    )
    assert wanted.objective in OBJECTIVES
    return {"batch": size, "goal": wanted.objective, **typed}, wanted


def _require_equal(found: dict[str, Any], advice: Advice, asked: str) -> None:
    told = [(recipe, int(batch), standing.partition(":")[0]) for recipe, batch, standing in found["rows"]]
    expected = [
        (
            str(one.row.cell.recipe),
            one.row.cell.batch_size,
            "the best" if one is advice.winner else str(one.standing),
        )
        for one in advice.candidates
    ]
    assert told == expected, asked
    left_out = re.findall(r"leaves out (\d+) of (\d+) cells? \(.*?\), (\d+) of them alone", found["text"])
    assert [tuple(map(int, counts)) for counts in left_out] == [
        (len(exclusion.checks), exclusion.kept + len(exclusion.checks), exclusion.alone)
        for exclusion in advice.exclusions
        if exclusion.constraint.bound is not None and exclusion.checks
    ], asked
    if advice.winner is None and advice.nearest:
        cell = advice.nearest[0].row.cell
        is_known = any(check.miss is not None for check in advice.nearest)
        near = (
            f"The nearest is {cell.recipe} at batch {cell.batch_size}"
            if is_known
            else "Of no cell is known what is asked for"
        )
        assert f"{near}: " in found["text"], asked


def test_the_charts_show_the_device_and_the_batch_size_that_are_chosen(chrome: Chrome, report: Path) -> None:
    opened(chrome, report)
    choose = (
        "const field = document.querySelector('#view').elements[arguments[0]]; field.value = arguments[1];"
        "field.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    says = "return document.querySelector('[data-chart=spread] .says').textContent"
    for name, value in (("batch", "1"), ("group", "1")):
        chrome.execute_script(choose, name, value)
        assert "at batch 1," in chrome.execute_script(says)
    assert chrome.execute_script(EMPTY) == []


def test_keys_are_enough(chrome: Chrome, report: Path) -> None:
    opened(chrome, report)
    press(chrome, Keys.TAB)
    focused = "return document.activeElement.textContent"
    assert chrome.execute_script(focused) == "Skip to the content"
    chrome.execute_script("document.querySelector('[data-chart=throughput] .legend button').focus()")
    press(chrome, Keys.ENTER)
    visible = "return document.querySelector('[data-chart=throughput] .plot').data[0].visible"
    assert chrome.execute_script(visible) is False
    chrome.execute_script("document.querySelector('[data-chart=throughput] summary').focus()")
    press(chrome, Keys.ENTER)
    rows = until(chrome, "return document.querySelectorAll('[data-chart=throughput] tbody tr').length")
    assert rows == sum(r["device"] == "cpu" and r["verdict"] in ("VALID", "SUSPECT") for r in Page(report).records)


def test_all_cells_can_be_searched(chrome: Chrome, report: Path) -> None:
    opened(chrome, report)
    chrome.execute_script("document.querySelector('#all').open = true")
    until(chrome, f"return document.querySelectorAll('#all tbody tr').length === {len(Page(report).records)}")
    chrome.execute_script(
        "const field = document.querySelector('#find'); field.value = 'invalid cuda';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    until(chrome, "return document.querySelectorAll('#all tbody tr').length === 3")


def test_it_can_be_printed_from_a_dark_scheme(chrome: Chrome, report: Path, tmp_path: Path) -> None:
    opened(chrome, report, scheme="dark")
    chrome.execute_script(
        "window.inks = []; addEventListener('beforeprint', () => {"
        "  for (const plot of document.querySelectorAll('.js-plotly-plot'))"
        "    inks.push([plot._fullLayout.font.color, plot._fullLayout.width])"
        "})"
    )
    pdf = chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 100_000
    inks = chrome.execute_script("return window.inks")
    assert {ink for ink, _ in inks} == {next(iter(charts.DARK))}
    assert {width for _, width in inks} == {640}
    until(chrome, "return document.querySelector('.js-plotly-plot')._fullLayout.font.color !== '#1b1f24'")


def test_a_page_of_two_thousand_cells_opens_and_is_small(chrome: Chrome, tmp_path: Path) -> None:
    models = ("densenet121", "densenet161", "resnet18", "resnet34", "resnet50", "vgg11", "alexnet", "googlenet")
    run = collated(
        lambda spec: plausible(spec, calls=40), models=models, batches=range(1, 19), devices=("cpu", "cuda")
    )
    assert len(run.rows) > 2000
    path = export(run, tmp_path, "report")
    assert path.stat().st_size < 10_000_000
    opened(chrome, path, 768)
    assert len(Page(path).records) == len(run.rows)
    assert chrome.execute_script(OVERFLOW) <= 0
    assert chrome.execute_script(EMPTY) == []
    assert complaints(chrome) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_two_runs_compared(chrome: Chrome, tmp_path: Path, width: int) -> None:
    def slower(spec: JobSpec) -> dict[str, Any]:
        return {**plausible(spec), "samples": factories.samples(6.0 * spec.batch_size**0.9, 9.0)}

    def unpaired(made: Callable[[JobSpec], dict[str, Any]], number: int) -> Collated:
        # all live controls of these are equal
        return collated(lambda spec: {**made(spec), "control": None}, repeats=4, run=f"{reports.RUN}{number}")

    path = tmp_path / "comparison.html"
    compared.write(compare(unpaired(plausible, 1), unpaired(slower, 2)), path)
    opened(chrome, path, width)
    assert chrome.execute_script(OVERFLOW) <= 0
    assert chrome.execute_script(EMPTY) == []
    assert complaints(chrome) == []


def press(chrome: Chrome, key: str) -> None:
    ActionChains(chrome).send_keys(key).perform()
