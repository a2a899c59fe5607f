"""Which cell to deploy (pure): of those that keep every constraint, the best by one objective, on each device.

What a row is ranked by is its figure at the mean speed of its control: where rows have live controls of one
recipe, the ratios to those decide their order, which drift of the host does not reach. Whether a row differs from
the winner is told by the rule of `results_store.compare` and never by two estimates: ratios where both have them
for the same control, else what each repeat measured, at a level for all answers of a device together. INVALID rows
are never chosen, SUSPECT ones where nothing VALID keeps the constraints, or where that is asked for.

A report's page decides again when its reader moves a limit (`results_store.report.basis`): what it decides by is
made here, by the public functions at the end.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from farm.errors import BadInput, unknown
from farm.measurement import Environment
from farm.spec import PRESETS, Protocol
from farm.verdict import Level
from results_store import compare, pareto
from results_store.collate import MIN_REPEATS, PENDING, Answer, ByRepeat, Row
from results_store.constraints import METRICS, Check, Constraint, Metric
from results_store.places import placed
from results_store.question import LATENCY, OBJECTIVES, THROUGHPUT, Objective, Question

#: What a difference is of: ratios to live controls, or what each repeat measured.
RATIOS, REPEATS = "ratios", "repeats"

#: Per-repeat logs of how bad a row is: of a time, a ratio of times, or an energy.
_Logs: TypeAlias = tuple[float, ...]


class Standing(StrEnum):
    """A cell beside the winner."""

    BETTER = "better"
    WORSE = "worse"
    TIES = "no difference found"
    UNKNOWN = "cannot be told"


_STANDINGS = {Answer.FASTER: Standing.BETTER, Answer.SLOWER: Standing.WORSE, Answer.SAME: Standing.TIES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A row that may be chosen."""

    row: Row
    #: What it is ranked by, in the unit of the objective's metric: its figure at the mean speed of its control.
    estimate: float
    standing: Standing
    #: `ratios` to live controls or `repeats`: what the difference from the winner is of, or would be.
    by: str = ""
    #: Log of what it takes ÷ what the winner takes; None for the winner, and where it cannot be told …
    difference: compare.Difference | None = None
    #: … and why.
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """What one constraint does to the trusted rows of a device, whatever the others do."""

    constraint: Constraint
    #: How many rows keep it.
    kept: int
    #: Of those that do not.
    checks: tuple[Check, ...]
    #: How many of them keep all others.
    alone: int
    #: The best of these, VALID ones first, where it is better by its estimate than the winner.
    instead: Row | None
    #: Where no row keeps it, the one that misses it by least; None where the figure is not known of any.
    nearest: Check | None


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer for one device in one environment class."""

    device: str
    #: What measured it; None where nothing was.
    environment: Environment | None
    #: Rows asked for, and those of them that nobody chooses: not measured, or INVALID.
    cells: int
    unmeasured: tuple[Row, ...]
    invalid: tuple[Row, ...]
    exclusions: tuple[Exclusion, ...]
    #: How many rows keep every constraint, VALID and SUSPECT.
    feasible: int
    #: Of them, SUSPECT ones that were passed over because others are VALID.
    passed_over: tuple[Row, ...]
    #: The winner first, then by estimate; empty where nothing is feasible.
    candidates: tuple[Candidate, ...]
    #: Of the candidates, those that none is better than in everything.
    front: tuple[Row, ...]
    #: What the front is of, the objective first: what is known of any candidate.
    axes: tuple[Metric, ...]
    #: Where nothing is feasible: what keeps out the row that comes nearest to it.
    nearest: tuple[Check, ...]
    #: What to know of the answer.
    notes: tuple[str, ...]
    #: Of a million samples by the winner; None without a price.
    cost: float | None

    @property
    def winner(self) -> Candidate | None:
        """What to deploy; None where nothing is feasible."""
        return self.candidates[0] if self.candidates else None

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """Those of which nothing says that they are worse than the winner."""
        return tuple(found for found in self.candidates[1:] if found.standing is not Standing.WORSE)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer, device by device."""

    question: Question
    advice: tuple[Advice, ...]

    @property
    def is_feasible(self) -> bool:
        """Whether anything can be deployed anywhere."""
        return any(advice.winner for advice in self.advice)

    @property
    def cheapest(self) -> Advice | None:
        """Where a million samples cost the least; None without prices."""
        priced = [advice for advice in self.advice if advice.cost is not None]
        return min(priced, key=lambda advice: advice.cost or 0.0, default=None)


def recommend(rows: Sequence[Row], question: Question) -> Recommendation:
    """The best cell on each device of a run.

    Raises:
        BadInput: no such device, batch size or model in these rows, or a price is missing.
    """
    asked = _asked(rows, question)
    _check_prices(rows, asked, question)
    return Recommendation(
        question=question, advice=tuple(advise(found, question) for found in placed(asked).values())
    )


def advise(rows: Sequence[Row], question: Question) -> Advice:
    """The answer for the rows of one place, all of which are asked for."""
    objective = OBJECTIVES[question.objective]
    every = (Constraint(metric=objective.metric), *question.constraints)
    axes = _axes(question)
    seen = _seen([row for row in rows if row.is_usable], every, axes)
    feasible = [one for one in seen if not one.failed]
    valid = [one for one in feasible if one.is_valid]
    chosen = feasible if question.allow_suspect or not valid else valid
    known = _known_of_any(axes, chosen)
    points = [tuple(one.score(axis) for axis in known) for one in chosen]
    # the objective comes first and the front's other axes after it, so that the first is always on the front
    order = sorted(range(len(chosen)), key=points.__getitem__, reverse=True)
    ranked = [chosen[n] for n in order]
    candidates = _candidates(ranked, objective, bias(one.row for one in seen))
    device = rows[0].cell.device
    return Advice(
        device=device,
        environment=next((row.figures.environment for row in rows if row.figures), None),
        cells=len(rows),
        unmeasured=tuple(row for row in rows if row.figures is None),
        invalid=tuple(row for row in rows if row.figures is not None and row.is_invalid),
        exclusions=tuple(_exclusions(every, seen, ranked[0] if ranked else None, question)),
        feasible=len(feasible),
        passed_over=tuple(one.row for one in feasible if chosen is valid and not one.is_valid),
        candidates=candidates,
        front=tuple(chosen[n].row for n in pareto.front(points, [1] * len(known))),
        axes=tuple(known),
        nearest=() if feasible else _nearest(seen),
        notes=tuple(_notes(rows, candidates, question)),
        cost=_cost(candidates, question.prices.get(device)),
    )


def command(row: Row) -> str:
    """The command that measures a row's cell again, as it was measured."""
    cell = row.cell
    words = {
        "--models": cell.model,
        "--optimizations": str(cell.recipe),
        "--batch-sizes": str(cell.batch_size),
        "--devices": cell.device,
        "--dataset": cell.dataset,
        "--image-size": str(cell.image_size),
        "--threads": cell.threads and str(cell.threads),
        "--weights": cell.weights,
        "--repeats": str(row.repeats_wanted),
    }
    given = [word for flag, value in words.items() if value for word in (flag, value)]
    program = ["python", "-m", "producer", "submit-matrix"]
    return shlex.join([*program, *given, *_protocol(cell.protocol), "--again", "--wait"])


def cost_of_million(throughput: float, price_per_hour: float) -> float:
    """What a million samples cost at so many samples a second."""
    return 1e6 / throughput / 3600 * price_per_hour


# ---- what is asked for


def _asked(rows: Sequence[Row], question: Question) -> list[Row]:
    _require("device", question.devices, {row.cell.device for row in rows})
    _require("model", question.models, {row.cell.model for row in rows})
    sizes = {row.cell.batch_size for row in rows}
    for size in question.batch_sizes:
        if size not in sizes:
            nearest = min(sizes, key=lambda other: abs(other - size))
            possible = ", ".join(map(str, sorted(sizes)))
            raise BadInput(f"Batch size {size} was not measured. The nearest is {nearest}. Possible: {possible}.")
    found = [row for row in rows if _is_asked(row, question)]
    if not found:
        raise BadInput("No cell of the run has this device, batch size and model together. Leave one of them out.")
    return found


def _require(kind: str, asked: Iterable[str], there: Collection[str]) -> None:
    for name in asked:
        if name not in there:
            raise unknown(f"{kind} of the run", name, there)


def _is_asked(row: Row, question: Question) -> bool:
    wanted = (
        (question.devices, row.cell.device),
        (question.batch_sizes, row.cell.batch_size),
        (question.models, row.cell.model),
    )
    return all(not values or value in values for values, value in wanted)


def _check_prices(rows: Sequence[Row], asked: Sequence[Row], question: Question) -> None:
    _require("device", question.prices, {row.cell.device for row in rows})
    for device, price in question.prices.items():
        if not (math.isfinite(price) and price > 0):
            raise BadInput(f"--price-per-hour {device}={price:g}: a price above 0 is needed.")
    missing = sorted({row.cell.device for row in asked} - set(question.prices))
    if question.objective == "cost" and missing:
        flags = " ".join(f"--price-per-hour {device}=1.20" for device in missing)
        raise BadInput(f"--objective cost needs the price of an hour of {', '.join(missing)}, such as {flags}.")


# ---- one place


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A row whose figures can be trusted, as the question sees it."""

    row: Row
    #: The same number for rows whose live controls ran the same.
    group: int
    #: By the key of the metric: its figures, those of time at the mean speed of its control.
    values: Mapping[str, float | None]
    #: What it does not keep.
    failed: tuple[Check, ...]

    def score(self, metric: Metric) -> float:
        """A figure such that more is better, and what is not known is worst."""
        value = self.values[metric.key]
        return -math.inf if value is None else metric.better * value

    @property
    def is_valid(self) -> bool:
        """Not SUSPECT."""
        return self.row.verdict is not None and self.row.verdict.level is Level.VALID


#: What decides between cells that are equal by the objective, in this order, before what is constrained; and what
#: the front is of beside those.
USUAL_AXES = (THROUGHPUT.metric, LATENCY.metric, METRICS["min_top1"])


def _axes(question: Question) -> list[Metric]:
    """What the front is of: the objective, speed both ways, accuracy, and whatever is constrained."""
    constrained = (constraint.metric for constraint in question.constraints)
    every = (OBJECTIVES[question.objective].metric, *USUAL_AXES, *constrained)
    return list({metric.key: metric for metric in every}.values())


def _known_of_any(axes: list[Metric], chosen: list[_Seen]) -> list[Metric]:
    return [axis for axis in axes if any(one.values[axis.key] is not None for one in chosen)]


def _seen(rows: Sequence[Row], every: Sequence[Constraint], axes: Iterable[Metric]) -> list[_Seen]:
    groups = alike(rows)
    columns = {axis.key: estimates(rows, groups, axis) for axis in axes}
    return [
        _Seen(
            row=row,
            group=groups[n],
            values={key: column[n] for key, column in columns.items()},
            failed=tuple(check for constraint in every if not (check := constraint.check(row)).is_kept),
        )
        for n, row in enumerate(rows)
    ]


# ---- beside the winner


def _candidates(ranked: list[_Seen], objective: Objective, deviation: float) -> tuple[Candidate, ...]:
    """The winner and the others, each with where it stands."""
    if not ranked:
        return ()
    winner, *others = ranked
    compared = [_compared(winner, other, objective) for other in others]
    told = sum(_is_enough(ours, theirs) for _, ours, theirs in compared)
    return (
        Candidate(row=winner.row, estimate=_estimate(winner, objective), standing=Standing.TIES),
        *(
            Candidate(
                row=other.row,
                estimate=_estimate(other, objective),
                by=by,
                **_standing(ours, theirs, told, deviation if by == RATIOS else 0.0),
            )
            for other, (by, ours, theirs) in zip(others, compared, strict=True)
        ),
    )


def _estimate(one: _Seen, objective: Objective) -> float:
    value = one.values[objective.metric.key]
    assert value is not None, "that it is known is a constraint of its own"
    return value


def _standing(ours: _Logs, theirs: _Logs, comparisons: int, deviation: float) -> dict[str, Any]:
    """Where a candidate stands beside the winner."""
    if not _is_enough(ours, theirs):
        few = f"{len(ours)} and {len(theirs)} repeats with a figure, {MIN_REPEATS} of each are needed"
        return {"standing": Standing.UNKNOWN, "reason": few}
    difference = compare.differ(ours, theirs, comparisons=comparisons, bias=deviation)
    return {"standing": _STANDINGS[difference.answer], "difference": difference}


def _compared(winner: _Seen, other: _Seen, objective: Objective) -> tuple[str, _Logs, _Logs]:
    """What is compared, of the winner and of the other: more is worse."""
    if objective.metric in TIMED and winner.group == other.group:
        ours, theirs = (logs(one.row, objective, RATIOS) for one in (winner, other))
        if _is_enough(ours, theirs):
            return RATIOS, ours, theirs
    ours, theirs = (logs(one.row, objective, REPEATS) for one in (winner, other))
    return REPEATS, ours, theirs


def _is_enough(ours: _Logs, theirs: _Logs) -> bool:
    return min(len(ours), len(theirs)) >= MIN_REPEATS


# ---- what is kept out


def _exclusions(
    every: Sequence[Constraint], seen: list[_Seen], winner: _Seen | None, question: Question
) -> Iterable[Exclusion]:
    """What each constraint keeps out."""
    metric = OBJECTIVES[question.objective].metric
    for constraint in every:
        out = [check for one in seen for check in one.failed if check.constraint is constraint]
        if constraint.bound is None and not out:
            continue  # that the objective is known needs no word where it is
        alone = [one for one in seen if len(one.failed) == 1 and one.failed[0].constraint is constraint]
        known = [one for one in alone if one.values[metric.key] is not None]
        better = [one for one in known if winner is None or _beats(one, winner, metric, question)]
        kept = len(seen) - len(out)
        yield Exclusion(
            constraint=constraint,
            kept=kept,
            checks=tuple(out),
            alone=len(alone),
            instead=max(better, key=lambda one: (one.is_valid, one.score(metric))).row if better else None,
            nearest=None if kept else _by_least(out),
        )


def _beats(one: _Seen, winner: _Seen, metric: Metric, question: Question) -> bool:
    """Whether it is better than the winner by its estimate, and would be chosen for that."""
    is_welcome = one.is_valid or question.allow_suspect or not winner.is_valid
    return is_welcome and one.score(metric) > winner.score(metric)


def _by_least(checks: Iterable[Check]) -> Check | None:
    known = [check for check in checks if check.miss is not None]
    return min(known, key=lambda check: check.miss or 0.0, default=None)


def _nearest(seen: list[_Seen]) -> tuple[Check, ...]:
    """What keeps out the row that comes nearest: fewest unknowns, then misses, then least shares of bounds."""

    def distance(one: _Seen) -> tuple[int, int, float]:
        missed = [check.missed_share for check in one.failed if check.miss is not None]
        return len(one.failed) - len(missed), len(missed), sum(missed)

    return min(seen, key=distance).failed if seen else ()


# ---- what to know


def _notes(rows: Sequence[Row], candidates: tuple[Candidate, ...], question: Question) -> Iterable[str]:
    yield from _unfinished(rows)
    if not candidates:
        return
    winner = candidates[0].row
    if winner.verdict is not None and winner.verdict.level is Level.SUSPECT:
        chosen = (
            "nothing VALID keeps every constraint" if question.constraints else "nothing VALID is there to choose"
        )
        why = "as --allow-suspect has it" if question.allow_suspect else f"for {chosen}"
        reasons = "; ".join(map(str, winner.verdict.reasons))
        yield f"The winner is SUSPECT, chosen {why}: {' '.join(reasons.split())}."
    if winner.repeats_measured < MIN_REPEATS:
        repeats = "1 repeat" if winner.repeats_measured == 1 else f"{winner.repeats_measured} repeats"
        are_too_few = winner.repeats_wanted < MIN_REPEATS
        more = "Measure with --protocol standard" if are_too_few else f"{winner.repeats_wanted} were asked for"
        yield (
            f"The winner has {repeats}: its intervals do not say what varies between processes, and no difference "
            f"from others is claimed. {more}."
        )
    if winner.reason:
        measured = f"{winner.repeats_measured} of {winner.repeats_wanted} were"
        yield f"Not every repeat of the winner was measured ({measured}): {' '.join(winner.reason.split())}."
    if any(found.standing is Standing.BETTER for found in candidates):
        yield "Another is better by its repeats than the winner, which has the better estimate: measure again."


def _unfinished(rows: Sequence[Row]) -> Iterable[str]:
    """What is still to come, of cells and of repeats: on a run that goes on, every cell soon has a few."""
    cells = sum(row.outcome == PENDING for row in rows)
    repeats = sum(row.repeats_pending for row in rows)
    if repeats:
        none_yet = f", and {cells} of {len(rows)} cells have none yet" if cells else ""
        wanted = sum(row.repeats_wanted for row in rows)
        yield f"{repeats} of {wanted} repeats are still to be measured{none_yet}: the answer may change."


def _cost(candidates: tuple[Candidate, ...], price: float | None) -> float | None:
    figures = candidates[0].row.figures if candidates else None
    if price is None or figures is None or not figures.throughput:
        return None
    return cost_of_million(figures.throughput, price)


# ---- the command


def _protocol(protocol: Protocol) -> list[str]:
    """The flags that make this protocol."""
    name = protocol.name.removesuffix("+")
    preset, _ = PRESETS.get(name, PRESETS["standard"])
    name = name if name in PRESETS else "standard"
    fields = protocol.model_dump()
    changed = [(field, value) for field, value in preset.model_dump().items() if fields[field] != value]
    settings = [
        word for field, _ in changed if field != "name" for word in ("--set", _setting(field, fields[field]))
    ]
    return ["--protocol", name, *settings]


def _setting(name: str, value: Any) -> str:
    shown = "+".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
    return f"{name}={shown.lower()}"


# ---- what decides, whatever is asked

#: Figures that a ratio to a live control is of too.
TIMED = (THROUGHPUT.metric, LATENCY.metric)


def alike(rows: Sequence[Row]) -> list[int]:
    """The same number for rows whose live controls ran the same: they differ in the recipe alone."""
    numbers: dict[Any, int] = {}
    places = (
        (row.cell.model_copy(update={"recipe": None}), row.figures.control if row.figures else None)
        for row in rows
    )
    return [numbers.setdefault(place, len(numbers)) for place in places]


def estimates(rows: Sequence[Row], groups: Sequence[int], metric: Metric) -> list[float | None]:
    """What each row is ranked by: its figure; of time, as if live controls that ran the same were equally fast.

    Args:
        rows: usable ones of one place.
        groups: of each, as `alike` numbers them.
        metric: what the figures are of.
    """
    values = [metric.reading(row).value for row in rows]
    if metric not in TIMED:
        return values
    controls: dict[int, list[float]] = defaultdict(list)
    for row, group, value in zip(rows, groups, values, strict=True):
        if value and (gain := _gain(row)) is not None:
            controls[group].append(math.log(value) - metric.better * gain)
    means = {group: sum(found) / len(found) for group, found in controls.items()}
    return [
        value if not value or (gain := _gain(row)) is None else math.exp(means[group] + metric.better * gain)
        for row, group, value in zip(rows, groups, values, strict=True)
    ]


def _gain(row: Row) -> float | None:
    """Log of the speed-up over the live control."""
    found = row.figures.speedup if row.figures else None
    return None if found is None else math.log(found.value)


def logs(row: Row, objective: Objective, by: str) -> _Logs:
    """What a difference between two rows is of: one log per repeat, and more is worse.

    Args:
        row: a usable one.
        objective: what is asked for.
        by: `RATIOS` or `REPEATS`.
    """
    each = row.figures.by_repeat if row.figures else ByRepeat()
    if by == RATIOS:
        return tuple(-math.log(x) for x in each.speedup)
    return tuple(-objective.metric.better * math.log(x) for x in objective.of_each(each))


def bias(rows: Iterable[Row]) -> float:
    """What cells that are their own control deviate by, where that is no chance: ratios differ beyond it only."""
    own = (row for row in rows if row.figures and row.figures.control == str(row.cell.recipe))
    return compare.deviation([logs(row, THROUGHPUT, RATIOS) for row in own])
