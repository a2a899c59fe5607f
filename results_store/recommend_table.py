"""How a recommendation is shown: to people as sentences and a table, to programs as one JSON object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

from rich.table import Table
from rich.text import Text

from farm import statistics
from farm.measurement import Environment
from results_store.collate import Row
from results_store.compare import differences, told
from results_store.constraints import METRICS, Check, Judged, Metric, Reading
from results_store.question import OBJECTIVES, Question
from results_store.recommend import (
    RATIOS,
    Advice,
    Candidate,
    Exclusion,
    Recommendation,
    Standing,
    command,
)

#: So many cells of a kind are named, for people and for programs, unless more are asked for; all are counted.
MOST_SHOWN, MOST_IN_JSON = 12, 100
_STYLES = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}

_Line: TypeAlias = str | Table


def shown(run: str, found: Recommendation, most: int = MOST_SHOWN) -> Iterator[_Line]:
    """The whole answer for people: lines, and tables between them; at most so many cells of a kind are named."""
    yield f"Run {run}: {_asked(found.question)}."
    yield from _apart(found.advice)
    yield from _cheapest(found)
    for advice in found.advice:
        yield ""
        yield from _advice(advice, found.question, most)


def sentence(advice: Advice, question: Question) -> str:
    """The answer for one device."""
    winner = advice.winner
    if winner is None:
        return f"{_place(advice)}: nothing to deploy. {_why_nothing(advice)}"
    row = winner.row
    figures = [_figure(axis, axis.reading(row)) for axis in advice.axes]
    cost = "" if advice.cost is None else f"; {advice.cost:.4g} per million samples"
    return f"{_place(advice)}: deploy {label(row)} ({_level(row)}): {', '.join(figures)}{_lost(row)}{cost}."


def as_json(run: str, found: Recommendation, most: int = MOST_IN_JSON) -> dict[str, Any]:
    """The answer; figures are in the units that their flags name, intervals are 95 % ones.

    However many cells there are, at most so many of a kind are named; what ends in `_count` counts all.
    """
    question = found.question
    return {
        "run": run,
        "objective": question.objective,
        "ranked_by": OBJECTIVES[question.objective].metric.name,
        "constraints": {one.metric.key: one.bound for one in question.constraints},
        "allow_suspect": question.allow_suspect,
        "prices_per_hour": dict(question.prices),
        "feasible": found.is_feasible,
        "cheapest": found.cheapest and found.cheapest.winner and _cell(found.cheapest.winner.row),
        "devices": [_advice_json(advice, question, most) for advice in found.advice],
    }


def label(row: Row) -> str:
    """A cell in a few words."""
    return f"{row.cell.variant} batch {row.cell.batch_size} {row.cell.device}"


# ---- for people


def _asked(question: Question) -> str:
    best = {
        "throughput": "most throughput",
        "latency": "least latency",
        "energy": "least energy",
        "cost": "least cost",
    }
    asked = [str(one) for one in question.constraints]
    if not asked:
        return f"{best[question.objective]}, without constraints"
    return f"{best[question.objective]} with {', '.join(asked)}, at the unfavourable ends of 95 % intervals"


def _advice(advice: Advice, question: Question, most: int) -> Iterator[_Line]:
    yield sentence(advice, question)
    yield from advice.notes
    yield from _counts(advice)
    if advice.candidates:
        yield from ties(advice, question)
        yield _table(advice, most)
        yield from _rest(advice, most)
    yield from _kept_out(advice, OBJECTIVES[question.objective].metric, most)
    if advice.winner is not None:
        yield "Measure it again (with --local for an embedded farm):"
        yield f"  {command(advice.winner.row)}"


def _counts(advice: Advice) -> Iterator[str]:
    parts = [
        _many(advice.cells, "cell"),
        *([f"{len(advice.unmeasured)} not measured"] if advice.unmeasured else []),
        *([f"{len(advice.invalid)} INVALID"] if advice.invalid else []),
        f"{advice.feasible} keep every constraint",
    ]
    if advice.passed_over:
        parts.append(f"{len(advice.passed_over)} of them SUSPECT and passed over (--allow-suspect takes them)")
    yield f"{', '.join(parts)}."


def ties(advice: Advice, question: Question) -> Iterator[str]:
    """What the winner cannot be told from."""
    counted = Counter(found.standing for found in advice.ties)
    others = len(advice.candidates) - 1
    if not others:
        yield "It is the only candidate."
        return
    told = sum(found.difference is not None for found in advice.candidates)
    level = f"at {100 * statistics.each_answer(told):.4g} % each (Bonferroni)" if told else ""
    worse = others - len(advice.ties)
    parts = [
        *([f"{worse} found worse"] if worse else []),
        *([f"{counted[Standing.TIES]} tie with it: no difference found"] if counted[Standing.TIES] else []),
        *([f"{counted[Standing.BETTER]} better by their repeats"] if counted[Standing.BETTER] else []),
        *([f"{counted[Standing.UNKNOWN]} cannot be told from it"] if counted[Standing.UNKNOWN] else []),
    ]
    takes = OBJECTIVES[question.objective].takes
    yield f"Of {_many(others, 'other candidate')} by {takes}{f', {level}' if level else ''}: {'; '.join(parts)}."
    reasons = dict.fromkeys(found.reason for found in advice.ties if found.reason)
    if reasons:
        yield f"Cannot be told: {next(iter(reasons))}."


def _table(advice: Advice, most: int) -> Table:
    """The winner, what ties with it, and the front."""
    found = Table(box=None, pad_edge=False)
    found.add_column("", no_wrap=True)
    found.add_column("variant", no_wrap=True)
    found.add_column("batch size", justify="right")
    for axis in advice.axes:
        found.add_column(" ".join(filter(None, (axis.name, axis.unit))), justify="right")
    found.add_column("beside the winner", no_wrap=True)
    found.add_column("verdict", no_wrap=True)
    on_front = _ids(advice.front)
    for candidate in _worth_showing(advice)[:most]:
        row = candidate.row
        level = _level(row)
        found.add_row(
            "*" if id(row) in on_front else "",
            Text(row.cell.variant),
            str(row.cell.batch_size),
            *(Text(_interval(axis.reading(row))) for axis in advice.axes),
            Text("winner" if candidate is advice.winner else _beside(candidate)),
            Text(level, style=_STYLES.get(level, "")),
        )
    return found


def _rest(advice: Advice, most: int) -> Iterator[str]:
    names = ", ".join(axis.name for axis in advice.axes)
    front = f"* Pareto set of {names}, by estimates: {len(advice.front)} of {len(advice.candidates)} candidates."
    all_of_them = len(_worth_showing(advice))
    yield f"{front} {_more(all_of_them, most)}." if all_of_them > most else front


def _worth_showing(advice: Advice) -> list[Candidate]:
    """The winner, what ties with it and the front, by estimate."""
    named = _ids([*advice.front, *(found.row for found in advice.ties)])
    return [found for found in advice.candidates if found is advice.winner or id(found.row) in named]


def _ids(rows: Iterable[Row]) -> set[int]:
    # rows hold dictionaries and cannot be hashed; these are all alive
    return {id(row) for row in rows}


def _beside(candidate: Candidate) -> str:
    difference = candidate.difference
    if difference is None:
        return str(candidate.standing)
    middle, low, high = (100 * math.expm1(x) for x in (difference.middle, difference.low, difference.high))
    return f"{candidate.standing}: {middle:+.1f} % ({low:+.1f} … {high:+.1f})"


def _kept_out(advice: Advice, objective: Metric, most: int) -> Iterator[str]:
    for exclusion in advice.exclusions:
        if exclusion.kept or exclusion.checks:
            yield from _exclusion(exclusion, advice.device, objective, most)
    if advice.nearest and not any(exclusion.kept == 0 for exclusion in advice.exclusions):
        yield "Each constraint is kept by some cell, but no cell keeps all of them."
    yield from _listed("INVALID, never recommended", advice.invalid, _verdict, most)
    yield from _listed(
        "not measured", advice.unmeasured, lambda row: f"{row.outcome}: {row.reason}".removesuffix(": "), most
    )
    yield from _listed("SUSPECT and passed over", advice.passed_over, _verdict, most)


def _exclusion(exclusion: Exclusion, device: str, objective: Metric, most: int) -> Iterator[str]:
    out = exclusion.checks
    if device.partition(".")[0] not in exclusion.constraint.metric.device_kinds:
        yield f"{exclusion.constraint} is about other devices than {device}."
        return
    if not out:
        yield f"{exclusion.constraint} keeps nothing out."
        return
    counted = Counter(check.judged for check in out)
    how = ", ".join(f"{counted[judged]} {judged}" for judged in Judged if counted[judged])
    of_them = f"{len(out)} of {len(out) + exclusion.kept}"
    if exclusion.constraint.bound is None:
        yield f"{exclusion.constraint.metric.name} is not known of {of_them}:"
    else:
        yield f"{exclusion.constraint} keeps out {of_them} ({how}), {exclusion.alone} of them alone:"
    if exclusion.instead is not None:
        instead = exclusion.instead
        reading = _figure(objective, objective.reading(instead))
        yield f"  without it, the best estimate would be {label(instead)} ({_level(instead)}): {reading}"
    for check in _by_miss(out)[:most]:
        yield f"  {label(check.row)}: {_check(check)}"
    if len(out) > most:
        yield f"  {_more(len(out), most)}"


def _by_miss(checks: Sequence[Check]) -> list[Check]:
    """Those that miss by least first, and last those of which nothing is known."""
    return sorted(checks, key=lambda check: check.missed_share)


def _check(check: Check) -> str:
    metric = check.constraint.metric
    if check.judged is Judged.UNKNOWN:
        return f"{metric.name} unknown: {_line(check.reading.why)}"
    return f"{_figure(metric, check.reading)}, {check.judged}{_by_how_much(check)}"


def _by_how_much(check: Check) -> str:
    if check.miss is None or check.constraint.bound is None:
        return ""
    unit = f" {check.constraint.metric.unit}" if check.constraint.metric.unit else ""
    share = f" ({100 * check.missed_share:.3g} %)" if math.isfinite(check.missed_share) else ""
    return f": {check.miss:.3g}{unit}{share} beyond"


def _why_nothing(advice: Advice) -> str:
    """By how much the nearest cell misses what keeps everything out."""
    parts = []
    for exclusion in advice.exclusions:
        if exclusion.kept == 0 and exclusion.checks:
            near = exclusion.nearest
            said = f"nearest is {label(near.row)}: {_check(near)}" if near else _check(exclusion.checks[0])
            lead = "" if exclusion.constraint.bound is None else f"{exclusion.constraint} leaves nothing; "
            parts.append(f"{lead}{said}.")
    if not parts and advice.nearest:
        told = "; ".join(map(_check, advice.nearest))
        parts.append(f"No cell keeps all constraints; nearest is {label(advice.nearest[0].row)}: {told}.")
    if not parts:
        parts.append("Nothing was measured that can be trusted.")
    return " ".join(parts)


def _listed(what: str, rows: Sequence[Row], why: Any, most: int) -> Iterator[str]:
    if rows:
        yield f"{what}: {len(rows)}"
        for row in rows[:most]:
            yield f"  {label(row)}: {_line(why(row))}"
        if len(rows) > most:
            yield f"  {_more(len(rows), most)}"


def _more(all_of_them: int, most: int) -> str:
    return f"and {all_of_them - most} more (--listed {all_of_them} names them)"


def _verdict(row: Row) -> str:
    return "; ".join(map(str, row.verdict.reasons)) if row.verdict else ""


def _figure(metric: Metric, reading: Reading) -> str:
    """A figure with its name, its interval and its unit."""
    known = (_interval(reading), metric.unit) if reading.value is not None else ("unknown",)
    return " ".join(filter(None, (metric.name, *known)))


def _interval(reading: Reading) -> str:
    if reading.value is None:
        return ""
    if reading.low is None or reading.high is None:
        return f"{reading.value:.4g}"
    return f"{reading.value:.4g} ({reading.low:.4g}–{reading.high:.4g})"


def _lost(row: Row) -> str:
    """How the accuracy compares with that of the fp32 model, where both are known."""
    lost = METRICS["max_top1_drop"].reading(row).value
    return "" if lost is None else f", top-1 {-lost:+.4g} against fp32" if lost else ", top-1 that of fp32"


def _place(advice: Advice) -> str:
    where = advice.environment
    return advice.device if where is None else f"{advice.device} ({where.device_model}, {where.key})"


def _apart(found: Sequence[Advice]) -> Iterator[str]:
    """Why one device is answered more than once."""
    first: dict[str, Environment] = {}
    for advice in found:
        where = advice.environment
        before = first.setdefault(advice.device, where) if where else None
        if where and before and before is not where:
            unlike = told(differences(before, where))
            yield f"{advice.device} was measured in unlike environments, answered apart: {unlike}."


def _cheapest(found: Recommendation) -> Iterator[str]:
    """Which of several devices to deploy on, where that is asked."""
    least = found.cheapest
    if found.question.objective != "cost" or len(found.advice) < 2 or least is None or least.winner is None:
        return
    yield f"Least cost: {label(least.winner.row)}, {least.cost:.4g} per million samples. Of each device:"


def _level(row: Row) -> str:
    return str(row.verdict.level) if row.verdict else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _line(text: str) -> str:
    return " ".join(text.split())


# ---- for programs


def _advice_json(advice: Advice, question: Question, most: int) -> dict[str, Any]:
    winner = advice.winner
    on_front = _ids(advice.front)
    front = [found for found in advice.candidates if id(found.row) in on_front]

    def candidates(found: Iterable[Candidate]) -> list[dict[str, Any]]:
        return [_candidate_json(one, advice, on_front) for one in islice(found, most)]

    return {
        "device": advice.device,
        "device_model": advice.environment and advice.environment.device_model,
        "environment_key": advice.environment and advice.environment.key,
        "cells": advice.cells,
        "feasible": advice.feasible,
        "candidates": len(advice.candidates),
        "sentence": sentence(advice, question),
        "notes": list(advice.notes),
        "winner": winner and _candidate_json(winner, advice, on_front),
        "command": command(winner.row) if winner else None,
        "cost_per_million_samples": advice.cost,
        "ties": candidates(advice.ties),
        "ties_count": len(advice.ties),
        "pareto": candidates(front),
        "pareto_count": len(front),
        "pareto_of": [axis.key for axis in advice.axes],
        "excluded": [_exclusion_json(exclusion, most) for exclusion in advice.exclusions],
        "nearest": [_check_json(check) for check in advice.nearest],
        "invalid": [{**_cell(row), "why": _line(_verdict(row))} for row in advice.invalid[:most]],
        "invalid_count": len(advice.invalid),
        "passed_over": [{**_cell(row), "why": _line(_verdict(row))} for row in advice.passed_over[:most]],
        "passed_over_count": len(advice.passed_over),
        "unmeasured": [
            {**_cell(row), "outcome": row.outcome, "why": _line(row.reason)} for row in advice.unmeasured[:most]
        ],
        "unmeasured_count": len(advice.unmeasured),
    }


def _candidate_json(found: Candidate, advice: Advice, on_front: set[int]) -> dict[str, Any]:
    difference, row = found.difference, found.row
    is_winner = found is advice.winner
    return {
        **_cell(row),
        "verdict": _level(row),
        "repeats": row.repeats_measured,
        "estimate": found.estimate,
        "is_pareto": id(row) in on_front,
        "standing": "winner" if is_winner else str(found.standing),
        "compared_by": None if is_winner else "ratios to live controls" if found.by == RATIOS else found.by,
        "takes_more_percent": difference and 100 * math.expm1(difference.middle),
        "takes_more_percent_low": difference and 100 * math.expm1(difference.low),
        "takes_more_percent_high": difference and 100 * math.expm1(difference.high),
        "reason": found.reason,
        "figures": {metric.key: _reading_json(metric.reading(row)) for metric in METRICS.values()},
    }


def _exclusion_json(exclusion: Exclusion, most: int) -> dict[str, Any]:
    return {
        "constraint": str(exclusion.constraint),
        "metric": exclusion.constraint.metric.key,
        "bound": exclusion.constraint.bound,
        "kept": exclusion.kept,
        "excluded": len(exclusion.checks),
        "excluded_alone": exclusion.alone,
        "best_without_it": exclusion.instead and _cell(exclusion.instead),
        "nearest": exclusion.nearest and _check_json(exclusion.nearest),
        "cells": [_check_json(check) for check in _by_miss(exclusion.checks)[:most]],
    }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        **_cell(check.row),
        "constraint": str(check.constraint),
        "judged": str(check.judged),
        "missed_by": check.miss,
        **_reading_json(check.reading),
    }


def _reading_json(reading: Reading) -> dict[str, Any]:
    if reading.value is None:
        return {"value": None, "why": _line(reading.why)}
    return {"value": reading.value, "low": reading.low, "high": reading.high}


def _cell(row: Row) -> dict[str, Any]:
    """What tells a row from all others, as the CSV calls it."""
    return {
        "model_variant": row.cell.variant,
        "batch_size": row.cell.batch_size,
        "device": row.cell.device,
        "optimization_technique": str(row.cell.recipe),
        "cell_key": row.cell.key,
        "environment_key": row.environment_key,
        "job_id": row.job_id,
    }
