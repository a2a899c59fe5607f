"""The picture in the README, taken of a report by a real browser."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from benchmarks import readme_figures
from benchmarks.readme_figures import BEGIN, END, IMAGE, KEPT, README
from results_store.collate import export
from tests.reports import collated, mixed


def test_the_picture_is_the_top_of_the_report_and_small(chrome: Chrome, tmp_path: Path) -> None:
    assert chrome  # where there is no browser, this is skipped or fails as the others
    run = collated(mixed, repeats=3)
    for name in ("csv", "report"):
        export(run, tmp_path / "results", name)
    (tmp_path / README).write_text(f"{BEGIN}\n{END}\n")
    assert readme_figures.show(tmp_path / "results", tmp_path) == [tmp_path / n for n in (IMAGE, KEPT, README)]
    with Image.open(tmp_path / IMAGE) as found:
        width, height = found.size
        colours = found.convert("RGB").getcolors(1 << 20) or []
    assert width == readme_figures.WIDTH_PX
    assert 600 < height <= readme_figures.MOST_HEIGHT_PX
    # there is something in it
    assert len(colours) > 8
    assert (tmp_path / IMAGE).stat().st_size <= readme_figures.MOST_BYTES
    assert (tmp_path / KEPT).read_text() == (tmp_path / "results" / "benchmark_results.csv").read_text()
    again = (tmp_path / README).read_text()
    readme_figures.show(tmp_path / "results", tmp_path)
    assert (tmp_path / README).read_text() == again
