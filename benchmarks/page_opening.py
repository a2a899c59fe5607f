"""How soon can a large report be read? A page of 2,500 cells in Chromium, opened again and again.

A run of 5,000 made-up cells is reported, of which the page shows as many as a page ever does. It is opened from
the disk in a browser without a window; the time is that from asking for it until its script has drawn what is in
sight and can be used. The first opening, in which the browser starts its own processes, is stated apart. It needs
Chromium and its driver.

    python -m benchmarks.page_opening
    python -m benchmarks.page_opening --page results/20260131-142500-1a2b/report.html

The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks import decisions, loads
from benchmarks.figures import Figure, print_last
from farm.errors import BadInput
from results_store.report.cells import MAX_CELLS
from tests import browsers

MOST_S = 3.0
_READY = "return document.documentElement.dataset.ready === 'yes'"


def opening_s(browser: Chrome, page: Path) -> float:
    """Seconds from asking for a page until it can be used."""
    browser.get("about:blank")
    before = time.perf_counter()
    browser.get(page.resolve().as_uri())
    WebDriverWait(browser, 120, poll_frequency=0.01).until(lambda driver: driver.execute_script(_READY))
    return time.perf_counter() - before


def figures(seconds: Sequence[float], size_bytes: int) -> list[Figure]:
    """What the openings of a page of so many bytes come to; the first of them is told apart."""
    first, *later = seconds
    usual = median(later)
    return [
        Figure(name="the first opening", result=f"{first:.2f} s", goal="stated", reached=True),
        Figure(
            name=f"opening, median of {len(later)}",
            result=f"{usual:.2f} s ({min(later):.2f} to {max(later):.2f})",
            goal=f"≤ {MOST_S:g} s",
            reached=usual <= MOST_S,
        ),
        Figure(
            name="size of the page",
            result=f"{size_bytes / 1e6:.1f} MB",
            goal=f"≤ {decisions.PAGE_MB} MB",
            reached=size_bytes <= decisions.PAGE_MB * 10**6,
        ),
    ]


@contextmanager
def made_up() -> Iterator[Path]:
    """The report of a run that nobody measured, with as many cells as a page shows; gone afterwards."""
    with loads.sqlite() as url, tempfile.TemporaryDirectory() as folder:
        run_id = decisions.filled(url, decisions.FEW)
        decisions.run("report", url, run_id, Path(folder), decisions.FEW)
        print(f"  the page shows {MAX_CELLS:,} of them", flush=True)
        yield Path(folder, "report.html")


def main() -> None:
    """Opens the page, and prints the figures last; exit code 2 where there is no page or no browser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--page", type=Path, help="a report that is there; without it one is made up")
    arguments.add_argument("--openings", type=int, default=11, help="beside the first one")
    given = arguments.parse_args()
    if given.openings < 1:
        arguments.error(f"--openings {given.openings}: at least 1")
    try:
        if given.page is None:
            with made_up() as page:
                _measure(page, given.openings)
        elif given.page.is_file():
            _measure(given.page, given.openings)
        else:
            raise BadInput(f"{given.page} is not there: python -m results_store report RUN writes it.")
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _measure(page: Path, openings: int) -> None:
    with browsers.chromium() as browser:
        seconds = [opening_s(browser, page) for _ in range(openings + 1)]
    print_last(figures(seconds, page.stat().st_size), host=loads.host())


if __name__ == "__main__":
    main()
