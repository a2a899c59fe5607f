"""`profiles/`: a trace for each cell that was profiled, for chrome://tracing and https://ui.perfetto.dev.

A trace is `<model>_<recipe>_b<batch>_<device>.json.gz`. Only the first repeat of a cell is profiled, so there
is one of each at most, whatever became of the other repeats. The folder is empty where none was profiled.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from results_store.collate import Collated, Row
from results_store.exporters import _whole

FILE = "profiles"

_SUFFIX = ".json.gz"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")
#: File systems take 255 bytes; what is longer, or there already, is told apart by the cell's key.
_MAX_NAME_CHARS = 150
_KEY_CHARS = 12


def write(collated: Collated, path: Path) -> None:
    """Writes every trace into a new folder, one in memory at a time; the folder takes the place of the old one."""
    with _whole.folder(path, lambda name: name.endswith(_SUFFIX)) as fresh:
        for row, name in names(collated.rows):
            trace = collated.trace(row)
            if trace is not None:
                (fresh / name).write_bytes(gzip.compress(trace.encode(), mtime=0))


def names(rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
    """The rows of a run, each with its trace's name, whether it has one or not."""
    taken: set[str] = set()
    return ((row, _name(row, taken)) for row in rows)


def _name(row: Row, taken: set[str]) -> str:
    """A name that is safe as a file's, and not among those taken, where it is noted."""
    cell = row.cell
    plain = _UNSAFE.sub("-", f"{cell.variant}_b{cell.batch_size}_{cell.device}".replace(")", "")).lstrip(".-")
    name = plain[:_MAX_NAME_CHARS]
    # some file systems do not tell upper from lower case
    if name != plain or name.lower() in taken:
        name = f"{name}_{cell.key[:_KEY_CHARS]}"
    taken.add(name.lower())
    return f"{name}{_SUFFIX}"
