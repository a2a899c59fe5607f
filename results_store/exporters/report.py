"""`report.html`: what was measured, for people: answers, charts, doubts and their reasons, in one file."""

from __future__ import annotations

from pathlib import Path

from results_store.collate import Collated

FILE = "report.html"


def write(collated: Collated, path: Path) -> None:
    """Writes the page; traces that lie in `profiles/` beside it are linked."""
    # imported late: only who writes a page needs templates and plotly's script
    from results_store.report import page

    page.write(collated, path)
