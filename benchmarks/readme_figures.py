"""Shows a run in the README: a picture of its report, and its table.

Takes the folder of a run that is written, with `report.html` and `benchmark_results.csv`. The picture is the top
of the report as a browser shows it, what to deploy and the matrix, without the form in between; it needs Chromium
and its driver. The table is the exporter `markdown`'s, of the CSV, which is kept beside the other results. In the
README everything between two comments is replaced; done twice, nothing changes.

    python -m benchmarks.readme_figures results/20260131-142500-1a2b
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from farm.errors import BadInput
from results_store.exporters import _whole, markdown, report
from results_store.exporters import csv as rows

ROOT = Path(__file__).resolve().parents[1]
README, IMAGE, KEPT = Path("README.md"), Path("docs/images/report.png"), Path("benchmarks/results/readme.csv")
#: What stands around the figures in the README, each on a line of its own.
BEGIN, END = "<!-- figures: python -m benchmarks.readme_figures -->", "<!-- end of figures -->"

WIDTH_PX, MOST_HEIGHT_PX, MOST_BYTES = 1200, 2400, 300_000
#: The picture is drawn with the most of these colours that keep it small.
_COLOURS = (256, 128, 64, 32, 16)
#: Leaves out what is to be used and not looked at, and tells where the first matrix ends.
_TRIMMED = """
for (const part of document.querySelectorAll("nav, #choose, .skip")) part.hidden = true;
scrollTo(0, 0);
const last = document.querySelector("#matrix details") ?? document.querySelector("#answers");
return Math.ceil(last.getBoundingClientRect().bottom) + 16;
"""


def shown(readme: str, records: Sequence[markdown.Record]) -> str:
    """The README's text with these rows of a CSV between the two comments.

    Raises:
        BadInput: a comment is missing, stands there twice or in the wrong order, or there are no rows.
    """
    if not records:
        raise BadInput("The CSV has no rows: there is nothing to show.")
    lines = readme.splitlines()
    places = [number for number, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    if [lines[number].strip() for number in places] != [BEGIN, END]:
        raise BadInput(
            f"The README needs the lines {BEGIN!r} and {END!r}, once each and in this order, around where the "
            "figures belong."
        )
    first, last = places
    return "\n".join([*lines[: first + 1], *_figures(records), *lines[last:]]) + "\n"


def _figures(records: Sequence[markdown.Record]) -> list[str]:
    told = f"In parentheses 95 % intervals; figures of `INVALID` rows are struck through. [The whole CSV]({KEPT})."
    image = f"![The top of the report: what to deploy, and the matrix]({IMAGE})"
    return ["", f"{_measured(records)} {told}", "", *markdown.table(records), "", image, ""]


def _measured(records: Sequence[markdown.Record]) -> str:
    """What was measured on what, in a sentence."""

    def each(name: str) -> str:
        found = dict.fromkeys(str(record[name]) for record in records if record.get(name))
        return ", ".join(map(markdown.escaped, found)) or "unknown"

    return (
        f"{each('model')} on {each('dataset')} at {each('image_size')} px, on {each('device_model')} with "
        f"{each('threads')} threads; protocol {each('protocol')}, repeats of a cell: {each('repeats_wanted')};"
        f" run {each('run_id')}."
    )


def picture(page: Path) -> bytes:
    """The top of a report as a small PNG.

    Raises:
        BadInput: there is no browser, or the picture stays too large.
    """
    # here, because only this needs what the tests need
    from selenium.webdriver.support.ui import WebDriverWait

    from tests import browsers

    with browsers.chromium() as browser:
        size = {"width": WIDTH_PX, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri())
        ready = "return document.documentElement.dataset.ready === 'yes'"
        WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(ready))
        height = min(MOST_HEIGHT_PX, browser.execute_script(_TRIMMED))
        clip = {"x": 0, "y": 0, "width": WIDTH_PX, "height": height, "scale": 1}
        taken = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        return small(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]))


def small(png: bytes) -> bytes:
    """The same picture with as many colours as keep it small.

    Raises:
        BadInput: it is too large with the fewest, too.
    """
    with Image.open(io.BytesIO(png)) as found:
        whole = found.convert("RGB")
    for colours in _COLOURS:
        file = io.BytesIO()
        whole.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            return file.getvalue()
    raise BadInput(f"The picture takes more than {MOST_BYTES:,} bytes also with {_COLOURS[-1]} colours.")


def show(folder: Path, root: Path = ROOT) -> list[Path]:
    """Writes picture, CSV and README of a project, each as a whole, once all of them are made; returns them.

    Raises:
        BadInput: a file is missing, or the README does not say where the figures belong.
    """
    page, table = folder / report.FILE, folder / rows.FILE
    for file in (page, table):
        if not file.is_file():
            raise BadInput(f"{file} is not there: write it with python -m results_store collate RUN.")
    text = table.read_text(encoding="utf-8")
    readme = shown((root / README).read_text(encoding="utf-8"), list(csv.DictReader(io.StringIO(text))))
    taken = picture(page)
    (root / IMAGE).parent.mkdir(parents=True, exist_ok=True)
    (root / IMAGE).write_bytes(taken)
    for path, content in ((root / KEPT, text), (root / README, readme)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _whole.file(path) as fresh:
            fresh.write(content)
    return [root / name for name in (IMAGE, KEPT, README)]


def main() -> None:
    """Reads the command line; exit code 2 where something is missing."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("folder", type=Path, help="of a run, such as results/20260131-142500-1a2b")
    try:
        for path in show(arguments.parse_args().folder):
            print(path)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
