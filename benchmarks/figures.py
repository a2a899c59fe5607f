"""A benchmark's figures, each beside its goal: printed last, as JSON, so that others can read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure."""

    name: str
    #: As people read it, with its unit.
    result: str
    goal: str
    reached: bool


def print_last(figures: Sequence[Figure], **more: Any) -> None:
    """Prints them, with more that is worth keeping, as one line of JSON."""
    reached = all(figure.reached for figure in figures)
    print(json.dumps({"figures": [asdict(figure) for figure in figures], "reached": reached, **more}), flush=True)


def read_last(output: str) -> list[Figure]:
    """The figures that a benchmark printed last.

    Raises:
        ValueError: it did not come so far.
    """
    lines = output.strip().splitlines()
    if not lines:
        raise ValueError("it printed nothing")
    return [Figure(**figure) for figure in json.loads(lines[-1])["figures"]]
