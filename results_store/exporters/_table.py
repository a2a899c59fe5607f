"""CSV files: what a value is as a cell, and rows in a file that is replaced as a whole."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from results_store.exporters import _whole

Cell: TypeAlias = str | float | int | None

#: A spreadsheet takes a text that begins so for a formula; in some languages, also what follows a semicolon.
_FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
#: Line breaks, tabs and the like, and what nobody sees: a row is one line, for every tool that reads lines.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+")


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[Cell]]) -> None:
    """Writes the rows, one in memory at a time."""
    with _whole.file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(text, row) for row in rows)


def text(value: Cell) -> str:
    """A value as a cell's text: empty for None, numbers with six digits, text on one line that is no formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _harmless(value)
    if isinstance(value, int):
        return str(value)
    if not np.isfinite(value):
        return ""
    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


@functools.lru_cache(maxsize=256)  # a table of samples says the same few texts a million times
def _harmless(value: str) -> str:
    return _FORMULA.sub(r"\1\2'", _CONTROL.sub(" ", value).strip())
