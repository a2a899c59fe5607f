"""The README's figures: between two comments, from a CSV, the same each time."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import readme_figures
from benchmarks.readme_figures import BEGIN, END, README, ROOT, shown
from farm.errors import BadInput
from results_store.collate import export
from tests.reports import collated, mixed, plausible

BEFORE = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter | it\n"


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    run = collated(mixed, repeats=3, batches=(8,))
    return records(export(run, tmp_path_factory.mktemp("run"), "csv").read_text())


def test_what_stands_between_the_comments_is_replaced_and_nothing_else(table: list[dict[str, str]]) -> None:
    text = shown(BEFORE, table)
    lines = text.splitlines()
    assert lines[:3] == ["# Title", "", BEGIN]
    assert lines[-3:] == [END, "", "after | it"]
    assert "old" not in lines
    assert f"]({readme_figures.IMAGE})" in text
    assert "densenet121 on digits at 64 px, on Test CPU with 2 threads; protocol test" in text


def test_the_table_has_the_figures_of_the_csv(table: list[dict[str, str]]) -> None:
    lines = [line for line in shown(BEFORE, table).splitlines() if line.startswith("| densenet121")]
    assert len(lines) == len(table)
    for line, record in zip(lines, table, strict=True):
        if record["verdict"] == "VALID":
            assert f"| {float(record['latency_p50_ms']):.3f} (" in line
            assert f"{float(record['throughput_samples_sec']):.1f} (" in line
    [invalid] = [line for line in lines if "INVALID" in line]
    assert "~~" in invalid


def test_done_twice_nothing_changes(table: list[dict[str, str]]) -> None:
    once = shown(BEFORE, table)
    assert shown(once, table) == once


@pytest.mark.parametrize(
    "text",
    ["# Title\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"],
)
def test_a_readme_that_does_not_say_where_is_refused_with_what_it_needs(
    text: str, table: list[dict[str, str]]
) -> None:
    with pytest.raises(BadInput, match="once each and in this order") as error:
        shown(text, table)
    assert BEGIN in str(error.value)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(BadInput, match="no rows"):
        shown(BEFORE, [])


def test_the_readme_says_where(table: list[dict[str, str]]) -> None:
    assert "| densenet121" in shown((ROOT / README).read_text(), table)


def test_a_picture_has_as_many_colours_as_keep_it_small(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((600, 600)).save(file, "PNG")
    whole = readme_figures.small(file.getvalue())
    with Image.open(io.BytesIO(whole)) as found:
        assert found.size == (600, 600)
    monkeypatch.setattr(readme_figures, "MOST_BYTES", len(whole) - 1)
    assert len(readme_figures.small(file.getvalue())) < len(whole)
    monkeypatch.setattr(readme_figures, "MOST_BYTES", 10)
    with pytest.raises(BadInput, match="takes more than 10 bytes"):
        readme_figures.small(file.getvalue())


def test_a_folder_without_a_run_is_refused_with_what_writes_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.readme_figures", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "python -m results_store collate RUN" in done.stderr


def test_nothing_is_written_where_the_readme_does_not_say_where(tmp_path: Path) -> None:
    run = collated(plausible, batches=(8,))
    for name in ("csv", "report"):
        export(run, tmp_path / "results", name)
    (tmp_path / README).write_text("# Title\n")
    with pytest.raises(BadInput, match="once each"):
        readme_figures.show(tmp_path / "results", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "results"]
