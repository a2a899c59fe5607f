"""Exporters, one file each: what writes a run's rows in some format.

A plug-in is a module `results_store/exporters/<name>.py` with

- `FILE`: the name of the file or folder that it writes;
- `write(collated, path)`: writes a `results_store.collate.Collated` there, whole or not at all. Its rows are in
  base units and not rounded: scaling and rounding is the exporter's. Who needs raw samples iterates over
  `collated.measured()` or `collated.jobs()`, and keeps no more than one cell's; `collated.profile(row)` and
  `collated.trace(row)` are read when they are asked for, and kept one at a time too;
- `BY_JOB = True`, if it needs no rows but only jobs: then none are made, and memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import extend_path
from typing import Any

__path__ = extend_path(__path__, __name__)

#: What is written where nobody says otherwise; the report last, because it links what lies beside it.
DEFAULT = ("csv", "detailed", "profiles", "report")

#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"FILE": str, "write": Callable}
