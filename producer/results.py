"""The results of a run: a table for the terminal and the CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from results_store.store import Store


def rows(store: Store, run_id: str) -> list[Any]:
    """One per cell and environment."""
    return []


def write(found: list[Any], folder: Path) -> Path:
    """Writes the CSV; its path."""
    return folder


def table(found: list[Any]) -> Table:
    """What most people look for first."""
    return Table()
