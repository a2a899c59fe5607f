"""Compares two runs cell by cell (pure): which are faster or slower in B than in A, and which cannot be told.

Everything is a log of B's time ÷ A's, one value per repeat, because what varies most lies between processes. With
live controls on both sides a repeat's value is the median of its paired ratios, which drift of the host does not
reach; else it is its median time. The difference of means has Welch's interval, at a level divided by the number
of cells compared (Bonferroni), and counts where the interval lies beyond the bias that A/A pairs, cells that are
their own control, showed on that device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from farm import statistics
from farm.errors import BadInput
from farm.measurement import Environment, Measurement, Outcome
from farm.spec import Cell
from farm.verdict import Level
from results_store.collate import MIN_REPEATS, PENDING, Answer, Collated, Figures, Row
from results_store.store import State

#: Memory and size are shown when they changed by more than this share.
NOTICEABLE = 0.01

#: Fields in which cells that are compared may differ; it is said where they do.
_MAY_DIFFER = ("protocol", "dataset_digest", "model_digest")
_SIZES = ("ram_bytes", "vram_allocator_bytes", "vram_process_bytes", "model_size_bytes")
#: What makes a row INVALID by what it runs, and not by what the host did meanwhile.
_ITS_OWN = ("fallback", "implausible", "accuracy_lost")

_Place: TypeAlias = tuple[Cell, str | None, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Log of B's time ÷ A's, with its interval at the corrected level."""

    middle: float
    low: float
    high: float
    #: The smallest change that would be found 8 times of 10 at these repeats and this spread, bias included.
    detectable: float
    #: What A/A pairs deviated by.
    bias: float

    @property
    def answer(self) -> Answer:
        """Faster or slower where the whole interval lies beyond the bias."""
        if self.low > self.bias:
            return Answer.SLOWER
        return Answer.FASTER if self.high < -self.bias else Answer.SAME


def differ(a: Sequence[float], b: Sequence[float], *, comparisons: int = 1, bias: float = 0.0) -> Difference:
    """The rule: how two results differ.

    Args:
        a: one log of a time, or of a ratio of times, per repeat; two or more.
        b: the same of the candidate.
        comparisons: how many are made together, for Bonferroni's correction.
        bias: largest deviation of a mean log-ratio from 0 that A/A pairs showed.
    """
    confidence = statistics.each_answer(comparisons)
    middle, low, high = statistics.welch(a, b, confidence)
    least = bias + statistics.detectable(a, b, confidence)
    return Difference(middle=middle, low=low, high=high, detectable=least, bias=bias)


def deviation(pairs: Iterable[Sequence[float]]) -> float:
    """The bias that A/A pairs showed: the largest mean log-ratio of those whose interval excludes 0; else 0.

    What the others deviate by is chance, and the interval of a difference has that already.
    """
    cells = [logs for logs in pairs if len(logs) >= MIN_REPEATS]
    means = (statistics.mean_interval(logs, statistics.each_answer(len(cells))) for logs in cells)
    return max((abs(mean) for mean, low, high in means if low > 0 or high < 0), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One cell of one run in one environment class, a value per repeat where there is one."""

    row: Row
    #: Logs of the cell's time ÷ its live control's.
    paired: tuple[float, ...] = ()
    #: Logs of median times.
    times: tuple[float, ...] = ()
    #: Its control runs the very same recipe: an A/A pair.
    is_own_control: bool = False
    #: The jobs that measured it, maybe in earlier runs.
    measured_by: frozenset[str | None] = frozenset()
    #: Repeats of the cell that ended without a measurement, in whichever class; not those that were cancelled.
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One cell in both runs."""

    cell: Cell
    #: None where a run has no such cell.
    a: Row | None
    b: Row | None
    #: `paired` or `times`; what the difference is of, or would be.
    by: str
    #: Repeats that have a value, of A and of B.
    repeats: tuple[int, int]
    #: None where it cannot be told …
    difference: Difference | None
    #: … and why; empty where it can.
    reason: str
    #: What to know beside the answer.
    notes: tuple[str, ...]
    #: Repeats of B that failed.
    failed: int = 0

    @property
    def answer(self) -> Answer:
        """Faster, slower, no difference found, or cannot be told."""
        return Answer.UNKNOWN if self.difference is None else self.difference.answer

    @property
    def sizes(self) -> dict[str, tuple[float, float]]:
        """Memory and model size of A and B in bytes, where they changed noticeably."""
        a, b = _figures(self.a), _figures(self.b)
        pairs = {name: (getattr(a, name, None), getattr(b, name, None)) for name in _SIZES}
        return {name: (x, y) for name, (x, y) in pairs.items() if x and y and abs(y / x - 1) > NOTICEABLE}

    def regression(self, tolerated_percent: float = 0.0) -> str:
        """What became worse in B; empty where nothing did.

        A slowdown counts when it was found and its middle is more than what is tolerated. A top-1 counts when the
        two Wilson intervals lie apart, which is a test of two proportions at about 0.6 %. A cell that was measured
        in A and failed in B counts too: that has no result, too few repeats because the others failed, or is
        INVALID by what it runs.
        """
        return "; ".join(filter(None, (self._slowdown(tolerated_percent), self._lost_accuracy(), self._failure())))

    def _slowdown(self, tolerated_percent: float) -> str:
        percent = 0.0 if self.difference is None else 100 * math.expm1(self.difference.middle)
        return f"{percent:.1f} % slower" if self.answer is Answer.SLOWER and percent > tolerated_percent else ""

    def _lost_accuracy(self) -> str:
        a, b = _figures(self.a), _figures(self.b)
        if not (a and b and a.top1 and b.top1) or (self.a and self.a.is_invalid) or b.top1.high >= a.top1.low:
            return ""
        return f"top-1 fell from {a.top1.value:.2%} to {b.top1.value:.2%}"

    def _failure(self) -> str:
        a, b = self.a, self.b
        if a is None or b is None or not a.is_usable:
            return ""
        if b.figures is None:
            return "" if b.outcome in (PENDING, Outcome.CANCELLED) else f"{b.outcome} in B"
        own = [code for code in _ITS_OWN if code in _invalidating(b)]
        if own:
            return f"INVALID in B ({', '.join(own)})"
        too_few = self.failed and b.repeats_measured < MIN_REPEATS <= a.repeats_measured
        return f"{self.failed} of {b.repeats_wanted} repeats failed in B" if too_few else ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Two runs, compared."""

    a: str
    b: str
    #: In the order of A's matrix; cells of B alone at the end.
    comparisons: tuple[Comparison, ...]
    #: Fields in which environments differ, with what they are in A and in B.
    unlike: Mapping[str, tuple[str, str]]
    #: Bias by the device's model; without an entry there were no A/A pairs, and it is taken as 0.
    bias: Mapping[str, float]

    @property
    def compared(self) -> int:
        """How many cells could be told: what the level of each interval is corrected for."""
        return sum(comparison.difference is not None for comparison in self.comparisons)

    @property
    def pending(self) -> dict[str, int]:
        """How many repeats of these cells `A` and `B` have still to measure."""
        sides = {"A": [one.a for one in self.comparisons], "B": [one.b for one in self.comparisons]}
        return {name: sum(row.repeats_pending for row in rows if row) for name, rows in sides.items()}

    def regressions(self, tolerated_percent: float = 0.0) -> list[Comparison]:
        """The cells that became worse."""
        return [comparison for comparison in self.comparisons if comparison.regression(tolerated_percent)]


def compare(a: Collated, b: Collated, *, across_environments: bool = False) -> Report:
    """Every cell of both runs. Only few samples are in memory at a time.

    Raises:
        BadInput: the runs have no cell in common, B has nothing but A's measurements, or it was
            measured in unlike environments and nobody asked for that.
    """
    sides_a, sides_b = _sides(a), _sides(b)
    if not sides_a.keys() & sides_b.keys():
        raise BadInput(
            f"Runs {a.run_id} and {b.run_id} have no cell in common: model, recipe, batch size, device, dataset, "
            "image size, threads and weights must be the same. Submit the same matrix twice, with --again."
        )
    pairs = [_nearest(sides_a.get(cell, []), sides_b.get(cell, [])) for cell in {**sides_a, **sides_b}]
    if all(_has_nothing_else(ours, theirs) for ours, theirs in pairs if theirs is not None):
        raise BadInput(
            f"Runs {a.run_id} and {b.run_id} have the same measurements: one took over the other's, or both those "
            "of an earlier run. Submit the matrix with --again, which measures anew."
        )
    unlike = _unlike(pairs)
    if unlike and not across_environments:
        raise BadInput(
            f"Runs {a.run_id} and {b.run_id} were measured in unlike environments: {told(unlike)}. "
            "Measure both in the same one, or compare all the same with --across-environments."
        )
    bias = _bias(side for sides in (*sides_a.values(), *sides_b.values()) for side in sides)
    count = sum(not _hindrance(*pair) for pair in pairs)
    comparisons = tuple(_comparison(*pair, count, bias) for pair in pairs)
    return Report(a=a.run_id, b=b.run_id, comparisons=comparisons, unlike=unlike, bias=bias)


def told(unlike: Mapping[str, tuple[str, str]]) -> str:
    """Fields that differ, in one line."""
    return ", ".join(f"{name} {before} → {after}" for name, (before, after) in unlike.items())


# ---- reading


def _sides(collated: Collated) -> dict[Cell, list[Side]]:
    """The sides of a run by what tells cells apart."""
    values: dict[_Place, list[_Repeat]] = {}
    failed: Counter[Cell] = Counter()
    for result in collated.jobs():
        found = result.measurement
        if found is not None:
            place = (_identity(result.spec.cell), result.environment_key, found.environment.key)
            values.setdefault(place, []).append(_repeat(found, result.measured_by))
        elif result.state in (State.DONE, State.FAILED):
            failed[_identity(result.spec.cell)] += 1
    sides: dict[Cell, list[Side]] = {}
    for row in collated.rows:
        cell = _identity(row.cell)
        made = _side(row, values.get(_place(row), []), failed[cell])
        sides.setdefault(cell, []).append(made)
    return sides


@dataclass(frozen=True, kw_only=True)
class _Repeat:
    """What is kept of one measurement."""

    paired: float | None
    time: float | None
    is_own_control: bool
    measured_by: str | None


def _repeat(found: Measurement, measured_by: str | None) -> _Repeat:
    ratios, p50 = found.speedups, statistics.percentile(found.samples.device_ns, 50)
    return _Repeat(
        paired=-float(np.median(np.log(ratios))) if ratios else None,
        time=math.log(p50 / 1e9) if p50 else None,
        is_own_control=found.control is not None and found.control.recipe == found.spec.recipe,
        measured_by=measured_by,
    )


def _side(row: Row, repeats: list[_Repeat], failed: int) -> Side:
    return Side(
        row=row,
        paired=tuple(repeat.paired for repeat in repeats if repeat.paired is not None),
        times=tuple(repeat.time for repeat in repeats if repeat.time is not None),
        is_own_control=any(repeat.is_own_control for repeat in repeats),
        measured_by=frozenset(repeat.measured_by for repeat in repeats),
        failed=failed,
    )


def _identity(cell: Cell) -> Cell:
    return cell.model_copy(update=dict.fromkeys(_MAY_DIFFER))


def _place(row: Row) -> _Place:
    return _identity(row.cell), row.environment_key, _class(row)


# ---- which with which


def _nearest(a: list[Side], b: list[Side]) -> tuple[Side | None, Side | None]:
    """The rows of a cell that fit best: of one class, valid, with the most repeats."""

    def fit(pair: tuple[Side, Side]) -> tuple[bool, bool, int]:
        rows = [side.row for side in pair]
        valid = not any(row.is_invalid for row in rows)
        return _class(rows[0]) == _class(rows[1]), valid, min(row.repeats_measured for row in rows)

    if a and b:
        return max(product(a, b), key=fit)
    return (a[0] if a else None), (b[0] if b else None)


def _unlike(pairs: Iterable[tuple[Side | None, Side | None]]) -> dict[str, tuple[str, str]]:
    """What differs between the environments of cells that were measured in both runs."""
    found: dict[str, tuple[str, str]] = {}
    for a, b in pairs:
        before, after = _figures(_row_of(a)), _figures(_row_of(b))
        if before and after and before.environment.key != after.environment.key:
            found |= differences(before.environment, after.environment)
    return found


def differences(before: Environment, after: Environment) -> dict[str, tuple[str, str]]:
    """Fields in which two environments' classes differ, with what they are in each."""
    a, b = _flat(before), _flat(after)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return {name: (_shown(a.get(name)), _shown(b.get(name))) for name in names}


def _flat(environment: Environment) -> dict[str, Any]:
    fields = environment.apart
    packages = fields.pop("packages")
    gpu = fields.pop("gpu", None) or {}
    return {**fields, **{f"gpu.{name}": value for name, value in gpu.items()}, **packages}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


# ---- one comparison


def _comparison(a: Side | None, b: Side | None, count: int, bias: Mapping[str, float]) -> Comparison:
    [row, *_] = [side.row for side in (a, b) if side is not None]
    reason = _hindrance(a, b)
    by, ours, theirs = _values(a, b)
    return Comparison(
        cell=row.cell,
        a=_row_of(a),
        b=_row_of(b),
        by=by,
        repeats=(len(ours), len(theirs)),
        difference=None if reason else differ(ours, theirs, comparisons=count, bias=_bias_of(a, b, by, bias)),
        reason=reason,
        notes=tuple(_notes(a, b, by)),
        failed=0 if b is None else b.failed,
    )


def _values(a: Side | None, b: Side | None) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """What is compared: paired ratios where both sides have them."""
    if a and b and a.paired and b.paired:
        return "paired", a.paired, b.paired
    return "times", a.times if a else (), b.times if b else ()


def _hindrance(a: Side | None, b: Side | None) -> str:
    """Why it cannot be told; empty where it can."""
    if a is None or b is None:
        return f"{'A' if a is None else 'B'} has no such cell"
    broken = [text for name, side in (("A", a), ("B", b)) if (text := _unusable(name, side.row))]
    if broken:
        return "; ".join(broken)
    if _is_taken_over(a, b):
        return "B took over A's own measurements; submit it with --again to measure anew"
    by, ours, theirs = _values(a, b)
    if by == "paired" and (a.is_own_control or b.is_own_control):
        return "it is its own control: its ratio is 1 whatever it takes, and tells the bias"
    if by == "paired" and _is_another_model(a.row.cell, b.row.cell):
        return (
            "the model itself changed, and its live control with it: what slows both alike is not in their ratio. "
            "Measure it in both runs with --set paired=false to compare times"
        )
    return _too_few(a.row, b.row, len(ours), len(theirs))


def _is_taken_over(a: Side | None, b: Side) -> bool:
    """Whether both have the same measurements, or some of them."""
    return a is not None and bool(a.measured_by & b.measured_by)


def _has_nothing_else(a: Side | None, b: Side) -> bool:
    """Whether B has nothing but A's measurements."""
    return a is not None and bool(b.measured_by) and b.measured_by <= a.measured_by


def _is_another_model(a: Cell, b: Cell) -> bool:
    """Whether what its package holds is known to differ."""
    return None not in (a.model_digest, b.model_digest) and a.model_digest != b.model_digest


def _unusable(name: str, row: Row) -> str:
    if row.figures is None:
        return f"{name}: {row.outcome}{f' ({_line(row.reason)})' if row.reason else ''}"
    if row.is_invalid and row.verdict is not None:
        return f"{name} is INVALID ({_line('; '.join(map(str, row.verdict.reasons)))})"
    return ""


def _too_few(a: Row, b: Row, ours: int, theirs: int) -> str:
    if min(ours, theirs) >= MIN_REPEATS:
        return ""
    quick = any(row.cell.protocol.name.startswith("quick") for row in (a, b))
    text = f"{ours} and {theirs} repeats with a figure, {MIN_REPEATS} of each are needed"
    return text + ("; quick is one repeat and claims no difference" if quick else "")


def _notes(a: Side | None, b: Side | None, by: str) -> Iterator[str]:
    before, after = _figures(_row_of(a)), _figures(_row_of(b))
    if a is None or b is None or before is None or after is None:
        return
    for name in _MAY_DIFFER:
        if getattr(a.row.cell, name) != getattr(b.row.cell, name):
            yield _changed(name, a.row.cell, b.row.cell)
    if by == "times" and before.environment.key != after.environment.key:
        yield "times of unlike environments: what differs there is in the change too"
    elif by == "times":
        yield "times without a live control: drift of the host is in the change too"
    hosts = [figures.environment.host for figures in (before, after)]
    if by == "times" and hosts[0] != hosts[1]:
        yield f"times of two hosts, {hosts[0]} and {hosts[1]}"
    measured = [side.row.repeats_measured for side in (a, b)]
    if by == "paired" and measured != [len(a.paired), len(b.paired)]:
        yield f"of {measured[0]} and {measured[1]} repeats, {len(a.paired)} and {len(b.paired)} had a live control"
    for name, side in (("A", a), ("B", b)):
        if side.failed:
            why = f" ({_line(side.row.reason)})" if side.row.reason else ""
            yield f"{side.failed} of {name}'s {side.row.repeats_wanted} repeats failed{why}"


def _changed(name: str, a: Cell, b: Cell) -> str:
    if name != "protocol":
        return f"the {name.removesuffix('_digest')} itself changed"
    before, after = a.protocol.model_dump(), b.protocol.model_dump()
    fields = [field for field in before if before[field] != after[field]]
    return f"the protocol differs in {', '.join(fields)}"


# ---- bias


def _bias(sides: Iterable[Side]) -> dict[str, float]:
    """What A/A pairs showed, by the device's model."""
    found: dict[str, list[Sequence[float]]] = {}
    for side in sides:
        if side.is_own_control and side.paired and not side.row.is_invalid:
            found.setdefault(_device_model(side.row), []).append(side.paired)
    return {device: deviation(pairs) for device, pairs in found.items()}


def _bias_of(a: Side | None, b: Side | None, by: str, bias: Mapping[str, float]) -> float:
    """The bias on either side's device; times have none that is known."""
    devices = [_device_model(side.row) for side in (a, b) if side is not None]
    return max(bias.get(device, 0.0) for device in devices) if by == "paired" else 0.0


def _row_of(side: Side | None) -> Row | None:
    return None if side is None else side.row


def _figures(row: Row | None) -> Figures | None:
    return row.figures if row is not None else None


def _class(row: Row) -> str | None:
    return row.figures.environment.key if row.figures is not None else None


def _device_model(row: Row) -> str:
    return row.figures.environment.device_model if row.figures is not None else ""


def _invalidating(row: Row) -> set[str]:
    """The codes of the reasons for which a row is INVALID."""
    reasons = row.verdict.reasons if row.verdict else ()
    return {reason.code for reason in reasons if reason.level is Level.INVALID}


def _line(text: str) -> str:
    return " ".join(text.split())
