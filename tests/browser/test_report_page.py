"""The report in a real browser: nothing overflows, no chart is empty, nothing is fetched, keys suffice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.ui import WebDriverWait

from farm.spec import JobSpec
from results_store.collate import Collated, export
from results_store.compare import compare
from results_store.report import charts, compared
from tests import factories, reports
from tests.reports import Page, bare, collated, mixed, plausible

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
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it: INVALID, SUSPECT and missing cells, intervals, drift, two devices."""
    run = collated(mixed, repeats=3, devices=("cpu", "cuda"))
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


def test_a_stranger_finds_what_to_deploy_under_limits_and_what_it_costs(chrome: Chrome, report: Path) -> None:
    opened(chrome, report)
    fields = {"percentile": "p99", "most": "30", "least": "94"}
    for name, value in fields.items():
        chrome.execute_script(
            "const field = document.querySelector('#limits').elements[arguments[0]]; field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )
    kept = [
        r
        for r in Page(report).records
        if r["device"] == "cpu"
        and r["verdict"] in ("VALID", "SUSPECT")
        and (r["latency_p99_ms"] or 1e9) <= 30
        and (r["accuracy_top1"] or 0) >= 94
    ]
    best = max(kept, key=lambda r: r["throughput_samples_sec"])
    said = chrome.execute_script("return document.querySelector('#choice').innerText")
    assert f"Deploy {best['optimization_technique']} at batch {best['batch_size']} on cpu" in said
    assert "over the latency limit" in said
    assert "under the accuracy limit" in said
    assert "INVALID" in said
    for cost in ("build, s", "RAM, MiB", "size, MiB", "pays off"):
        assert cost in said
    chrome.execute_script(
        "const field = document.querySelector('#limits').elements.most; field.value = '0.001';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert "keeps these limits" in chrome.execute_script("return document.querySelector('#choice').innerText")


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
