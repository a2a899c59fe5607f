"""Every row that is INVALID, SUSPECT, measured in part or not at all, with its reason (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from farm.verdict import Level
from results_store.collate import Row

#: So many rows and characters of reasons are listed; all are counted, and the CSV has them.
MAX_LISTED, MAX_CHARS = 2500, 700_000
_IN_PART, _NOT = "measured in part", "not measured"


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One row and why it is doubted, or not there."""

    row: Row
    #: Each a sentence.
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The rows of one verdict, or those without any."""

    #: `INVALID`, `SUSPECT`, `measured in part` or `not measured`.
    name: str
    count: int
    #: In the order of the matrix, as many as there is room for.
    listed: tuple[Doubt, ...]
    #: How many rows have each reason's code or, without a measurement, each outcome; the most frequent first.
    codes: tuple[tuple[str, int], ...]


def kinds(rows: Iterable[Row]) -> tuple[Kind, ...]:
    """INVALID, SUSPECT, VALID with repeats missing, and not measured: each kind, also where it has no rows."""
    names = (str(Level.INVALID), str(Level.SUSPECT), _IN_PART, _NOT)
    listed: dict[str, list[Doubt]] = {name: [] for name in names}
    codes: dict[str, Counter[str]] = {name: Counter() for name in names}
    counts: Counter[str] = Counter()
    rooms, room = MAX_LISTED, MAX_CHARS
    for row in rows:
        name = _kind(row)
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


def _kind(row: Row) -> str:
    if row.verdict is None:
        return _NOT
    # what is doubted anyway has the reason why repeats are missing beside the others
    return _IN_PART if row.verdict.level is Level.VALID and row.reason else str(row.verdict.level)


def _codes(row: Row) -> set[str]:
    return {reason.code for reason in row.verdict.reasons} if row.verdict else {row.outcome}


def _reasons(row: Row) -> tuple[str, ...]:
    found = [str(reason) for reason in row.verdict.reasons] if row.verdict else [row.outcome]
    if row.verdict and row.reason:
        found.append(f"{row.repeats_measured} of {row.repeats_wanted} repeats were measured")
    return tuple(" ".join(text.split()) for text in (*found, row.reason) if text)
