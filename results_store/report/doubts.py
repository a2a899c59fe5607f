"""Every row that is INVALID, SUSPECT or not measured, with its reason (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from farm.verdict import Level
from results_store.collate import Row

#: So many rows and characters of reasons are listed; all are counted, and the CSV has them.
MAX_LISTED, MAX_CHARS = 2500, 700_000


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One row and why it is doubted, or not there."""

    row: Row
    #: Each a sentence.
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The rows of one verdict, or those without any."""

    #: `INVALID`, `SUSPECT` or `not measured`.
    name: str
    count: int
    #: In the order of the matrix, as many as there is room for.
    listed: tuple[Doubt, ...]
    #: How many rows have each reason's code or, without a measurement, each outcome; the most frequent first.
    codes: tuple[tuple[str, int], ...]


def kinds(rows: Iterable[Row]) -> tuple[Kind, ...]:
    """INVALID, SUSPECT, and what was not measured: each kind, also where it has no rows."""
    names = (str(Level.INVALID), str(Level.SUSPECT), "not measured")
    listed: dict[str, list[Doubt]] = {name: [] for name in names}
    codes: dict[str, Counter[str]] = {name: Counter() for name in names}
    counts: Counter[str] = Counter()
    rooms, room = MAX_LISTED, MAX_CHARS
    for row in rows:
        name = str(row.verdict.level) if row.verdict else "not measured"
        if name not in listed:
            continue
        counts[name] += 1
        codes[name].update(_codes(row))
        if rooms > 0 and room > 0:
            listed[name].append(Doubt(row=row, reasons=_reasons(row)))
            rooms, room = rooms - 1, room - sum(map(len, listed[name][-1].reasons))
    return tuple(
        Kind(name=name, count=counts[name], listed=tuple(listed[name]), codes=tuple(codes[name].most_common()))
        for name in names
    )


def _codes(row: Row) -> set[str]:
    return {reason.code for reason in row.verdict.reasons} if row.verdict else {row.outcome}


def _reasons(row: Row) -> tuple[str, ...]:
    found = [str(reason) for reason in row.verdict.reasons] if row.verdict else [row.outcome]
    return tuple(" ".join(text.split()) for text in (*found, row.reason) if text)
