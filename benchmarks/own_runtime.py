"""Runtimes of a benchmark's own, in a folder that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plugged_in(name: str, text: str) -> Iterator[dict[str, str]]:
    """A runtime plug-in of this name: the environment variables of a process that has it."""
    with tempfile.TemporaryDirectory() as folder:
        plugins = Path(folder) / "farm/runtimes"
        plugins.mkdir(parents=True)
        (plugins / f"{name}.py").write_text(text)
        yield {**os.environ, "PYTHONPATH": os.pathsep.join((folder, str(Path.cwd())))}
