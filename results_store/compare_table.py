"""How a comparison is shown: to people as a table with notes and one sentence, to programs as one JSON object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from farm import statistics
from results_store.collate import Answer, Row
from results_store.compare import Comparison, Report, told

_STYLES = {Answer.FASTER: "green", Answer.SLOWER: "red", Answer.SAME: "", Answer.UNKNOWN: "yellow"}
_COLUMNS = ("batch size", "device", "A ms", "B ms", "change %", "interval %", "repeats")
_MIB = 1 << 20
#: So many cells that became worse are named in the sentence; the table has all of them.
_MOST_NAMED = 12


def heading(report: Report) -> list[str]:
    """What to know before the table."""
    level = f"{100 * statistics.each_answer(report.compared):.4g} % (Bonferroni)"
    lines = [
        f"A {report.a}, B {report.b}; change of time (of its ratio to a live control's, where both have one), "
        "from A to B; negative is faster.",
        f"Cells compared: {report.compared}, each at {level}, beyond {_bias(report)}.",
    ]
    if report.unlike:
        lines.insert(
            0,
            f"UNLIKE ENVIRONMENTS: {told(report.unlike)}. Read paired ratios, in which there is nothing of what "
            "became slower or faster for the control too; times are no comparison.",
        )
    for name, pending in report.pending.items():
        if pending:
            lines.append(
                f"{name} is not finished: {pending} repeats are still to be measured; answers may change."
            )
    return lines


def table(report: Report) -> Table:
    """One line per cell, in the order of A's matrix."""
    found = Table(box=None, pad_edge=False)
    found.add_column("variant", no_wrap=True)
    for name in _COLUMNS:
        found.add_column(name, justify="left" if name == "device" else "right")
    found.add_column("answer", no_wrap=True)
    found.add_column("verdicts", no_wrap=True)
    for comparison in report.comparisons:
        cells = (Text(text) for text in _texts(comparison))
        answer = Text(_answer(comparison), style=_STYLES[comparison.answer])
        found.add_row(*cells, answer, Text(" / ".join(map(_verdict, (comparison.a, comparison.b)))))
    return found


def notes(report: Report) -> list[str]:
    """What a line of the table has no room for, a line for each cell that has any."""
    lines = []
    for comparison in report.comparisons:
        parts = [part for part in (comparison.reason, *comparison.notes, *sizes(comparison)) if part]
        if parts:
            lines.append(f"{_label(comparison)}: {'; '.join(parts)}")
    return lines


def sentence(report: Report, tolerated_percent: float = 0.0) -> str:
    """The whole answer."""
    counted = Counter(comparison.answer for comparison in report.comparisons)
    parts = [f"{counted[answer]} {answer}" for answer in Answer if counted[answer]]
    worse = report.regressions(tolerated_percent)
    if worse:
        named = ", ".join(f"{_label(one)} ({one.regression(tolerated_percent)})" for one in worse[:_MOST_NAMED])
        more = f" and {len(worse) - _MOST_NAMED} more" if len(worse) > _MOST_NAMED else ""
        verdict = f"B is worse than A: {named}{more}"
    elif report.compared:
        verdict = "No regression was found"
    else:
        verdict = "Nothing could be told"
    return f"{verdict}; cells: {', '.join(parts)}."


def as_json(report: Report, tolerated_percent: float = 0.0) -> dict[str, Any]:
    """All of it: changes are B's time ÷ A's − 1, in percent."""
    return {
        "a": report.a,
        "b": report.b,
        "compared": report.compared,
        "correction": "Bonferroni",
        "confidence_of_each": statistics.each_answer(report.compared),
        "environments_differ_in": {name: list(values) for name, values in report.unlike.items()},
        "bias_percent": {device: _percent(bias) for device, bias in report.bias.items()},
        "cells": [_as_json(comparison, tolerated_percent) for comparison in report.comparisons],
        "regressions": len(report.regressions(tolerated_percent)),
        "repeats_pending": {name.lower(): pending for name, pending in report.pending.items()},
        "sentence": sentence(report, tolerated_percent),
    }


def _as_json(comparison: Comparison, tolerated_percent: float) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "cell": comparison.cell.model_dump(mode="json", exclude={"protocol"}),
        "answer": str(comparison.answer),
        "reason": comparison.reason,
        "by": comparison.by,
        "change_percent": difference and _percent(difference.middle),
        "low_percent": difference and _percent(difference.low),
        "high_percent": difference and _percent(difference.high),
        "detectable_percent": difference and _percent(difference.detectable),
        "bias_percent": difference and _percent(difference.bias),
        "repeats": list(comparison.repeats),
        "regression": comparison.regression(tolerated_percent),
        "notes": list(comparison.notes),
        "sizes": {name: list(pair) for name, pair in comparison.sizes.items()},
        "a": _row(comparison.a),
        "b": _row(comparison.b),
    }


def _row(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    figures, verdict = row.figures, row.verdict
    return {
        "outcome": row.outcome,
        "verdict": verdict and str(verdict.level),
        "verdict_reasons": [str(reason) for reason in verdict.reasons] if verdict else [],
        "environment_key": row.environment_key,
        "latency_p50_s": figures and figures.device.p50,
        "top1": figures and figures.top1 and figures.top1.value,
    }


def _texts(comparison: Comparison) -> Iterator[str]:
    cell, difference = comparison.cell, comparison.difference
    yield from (cell.variant, str(cell.batch_size), cell.device, _ms(comparison.a), _ms(comparison.b))
    if difference is None:
        yield from ("", "")
    else:
        yield f"{_percent(difference.middle):+.1f}"
        yield f"{_percent(difference.low):+.1f} … {_percent(difference.high):+.1f}"
    yield " / ".join(map(str, comparison.repeats))


def _answer(comparison: Comparison) -> str:
    """With what could have been found, where nothing was."""
    difference = comparison.difference
    if difference is None or comparison.answer is not Answer.SAME:
        return str(comparison.answer)
    return f"{comparison.answer} (of {_percent(difference.detectable):.1f} % or more)"


def sizes(comparison: Comparison) -> Iterator[str]:
    """What changed in memory and model size, each in a few words."""
    for name, (before, after) in comparison.sizes.items():
        change = 100 * (after / before - 1)
        shown = name.removesuffix("_bytes").replace("_", " ")
        yield f"{shown} {before / _MIB:.1f} → {after / _MIB:.1f} MiB ({change:+.1f} %)"


def _bias(report: Report) -> str:
    if not report.bias:
        return "a bias taken as 0, for no cell was its own live control"
    shown = ", ".join(f"{_percent(bias):.2f} % ({device})" for device, bias in report.bias.items())
    return f"the bias of A/A pairs, {shown}"


def _label(comparison: Comparison) -> str:
    cell = comparison.cell
    return f"{cell.variant} batch {cell.batch_size} {cell.device}"


def _ms(row: Row | None) -> str:
    p50 = row.figures.device.p50 if row and row.figures else None
    return "" if p50 is None else f"{p50 * 1e3:.3f}"


def _verdict(row: Row | None) -> str:
    """How far it can be trusted; without a measurement, how it ended."""
    if row is None:
        return "missing"
    return str(row.verdict.level) if row.verdict else row.outcome


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)
