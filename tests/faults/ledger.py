"""What the scenarios came to: one row for each, and the table that the suite prints at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scenario on one database."""

    scenario: str
    database: str
    #: Faults that were injected.
    faults: int
    jobs: int
    #: Jobs that did not end as they had to.
    lost: int
    #: Jobs that were measured again although they had a result, or that have several.
    duplicated: int
    #: Processes that measured on a processor on which another one still did.
    overlapping: int


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each scenario and database: its seeds added up, in the order in which they came."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        so_far = found.get((row.scenario, row.database))
        found[row.scenario, row.database] = row if so_far is None else _added(so_far, row)
    return list(found.values())


def table(rows: Iterable[Row]) -> str:
    """The rows as text, columns aligned, with a last line that adds them up."""
    shown = merged(rows)
    total = Row(scenario="all", database="", faults=0, jobs=0, lost=0, duplicated=0, overlapping=0)
    for row in shown:
        total = _added(total, row)
    cells = [
        [field.name for field in fields(Row)],
        *([str(cell) for cell in astuple(row)] for row in (*shown, total)),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _added(one: Row, other: Row) -> Row:
    return replace(
        one,
        faults=one.faults + other.faults,
        jobs=one.jobs + other.jobs,
        lost=one.lost + other.lost,
        duplicated=one.duplicated + other.duplicated,
        overlapping=one.overlapping + other.overlapping,
    )
