"""What is recommended of a group, in sentences, and what it costs (pure); `results_store.recommend` decides it."""

from __future__ import annotations

from dataclasses import dataclass

from results_store import recommend_table
from results_store.question import Question
from results_store.recommend import Advice, Standing
from results_store.report.cells import Entry, Group
from results_store.report.costs import break_even

#: So many that cannot be told from the best one are named.
_MOST_NAMED = 4
#: What each is the best by, as a heading.
_HEADINGS = {"throughput": "Most samples a second", "latency": "Quickest answer", "energy": "Least energy"}


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One cell that is recommended."""

    #: What it is the best by.
    heading: str
    entry: Entry
    sentence: str
    #: What to know beside it, each a sentence.
    notes: tuple[str, ...]
    #: What deploying it takes: (what, how much), where it is known.
    costs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is recommended of a group's rows, without any limits."""

    group: Group
    #: Each cell once; empty where there is nothing to deploy …
    picks: tuple[Pick, ...]
    #: … and why; also what to know of all of them.
    notes: tuple[str, ...]


def answer(group: Group) -> Told:
    """What to deploy for the most throughput, the quickest answer and, where it is known, the least energy."""
    won: dict[int, list[str]] = {}
    for goal, advice in group.advice.items():
        if advice.winner is not None:
            won.setdefault(group.entry(advice.winner.row).number, []).append(goal)
    picks = tuple(_pick(group, goals) for goals in won.values())
    return Told(group=group, picks=picks, notes=() if picks else (_nothing(group),))


def costs(group: Group, entry: Entry) -> tuple[tuple[str, str], ...]:
    """What deploying an entry takes, as far as it was measured."""
    shown = (
        ("RAM", _number(entry.figure("ram_usage_mb"), "MiB")),
        ("VRAM", _number(entry.figure("vram_usage_mb"), "MiB")),
        ("model size", _number(entry.figure("model_size_mb"), "MiB")),
        ("energy", _number(entry.figure("energy_per_sample_j"), "J per sample")),
        ("build, once for a host", _number(entry.figure("build_time_s"), "s")),
        ("load, at every start", _number(entry.figure("load_s"), "s")),
        ("first call, at every start", _number(entry.figure("first_call_ms"), "ms")),
        ("pays off", str(break_even(entry, group.baseline(entry)))),
    )
    return tuple((name, text) for name, text in shown if text)


def _pick(group: Group, goals: list[str]) -> Pick:
    """The cell that is the best by each of these."""
    advice = group.advice[goals[0]]
    assert advice.winner is not None
    entry = group.entry(advice.winner.row)
    notes = [note for goal in goals for note in group.advice[goal].notes]
    passed_over = len(advice.passed_over)
    doubted = (
        [f"{_count(passed_over, 'SUSPECT row')} passed over, because others are VALID."] if passed_over else []
    )
    headings = [_HEADINGS[goal] for goal in goals]
    ties = [line for goal in goals for line in _ties(group.advice[goal], goal, len(goals) > 1)]
    return Pick(
        heading=", ".join([headings[0], *(heading[0].lower() + heading[1:] for heading in headings[1:])]),
        entry=entry,
        sentence=_sentence(group, entry),
        notes=tuple(dict.fromkeys((*notes, *doubted, *ties))),
        costs=costs(group, entry),
    )


# ---- sentences


def _sentence(group: Group, best: Entry) -> str:
    median, tail = best.figure("latency_p50_ms"), best.figure("latency_p99_ms")
    parts = [
        f"{_number(best.figure('throughput_samples_sec'), 'samples/s')}",
        "" if median is None else f"{_number(median, 'ms')} per batch{_interval(best, 'latency_p50', '_ms')}",
        "" if tail is None else f"p99 {_number(tail, 'ms')}{_interval(best, 'latency_p99', '_ms')}",
        _speedup(group, best),
        _accuracy(best),
    ]
    return ", ".join(filter(None, parts)) + "."


def _speedup(group: Group, best: Entry) -> str:
    ratio = best.figure("speedup")
    if ratio is not None and best.values["control"] == best.recipe:
        return "it is the baseline itself"
    if ratio is not None:
        told = f"; {best.values['speedup_answer']}"
        return f"{ratio:.2f} times as fast as the baseline{_interval(best, 'speedup', '', told)}"
    unpaired = best.figure("speedup_unpaired")
    own = group.baseline(best)
    if own is not None and own.number == best.number:
        return "it is the baseline itself"
    return (
        "" if unpaired is None else f"{unpaired:.2f} times as fast as the baseline (unpaired, without an interval)"
    )


def _accuracy(best: Entry) -> str:
    """How right it is, beside the fp32 model's answers to the very same images."""
    top1 = best.figure("accuracy_top1")
    if top1 is None:
        agreement = best.figure("agreement_top1_pct")
        return "" if agreement is None else f"the same first answer as fp32 for {agreement:.2f} % of the images"
    theirs = best.figure("accuracy_top1_fp32")
    beside = "" if theirs is None else ", that of fp32" if theirs == top1 else f", fp32 has {theirs:.2f} %"
    return f"top-1 {top1:.2f} %{_interval(best, 'accuracy_top1', '', ' %')}{beside}"


def _ties(advice: Advice, goal: str, is_named: bool) -> list[str]:
    """What it cannot be told from; those that were compared with it by name, as far as they are few."""
    told = " ".join(recommend_table.ties(advice, Question(objective=goal)))
    equal = [found.row.cell for found in advice.ties if found.standing is not Standing.UNKNOWN]
    named = ", ".join(f"{cell.recipe} at batch {cell.batch_size}" for cell in equal[:_MOST_NAMED])
    more = f" and {len(equal) - _MOST_NAMED} more" if len(equal) > _MOST_NAMED else ""
    lead = f"{_HEADINGS[goal]}: " if is_named else ""
    return [f"{lead}{told}{f' No worse, as far as is known: {named}{more}.' if equal else ''}"]


def _nothing(group: Group) -> str:
    invalid = sum(row.is_invalid for row in group.members)
    missing = sum(row.figures is None for row in group.members)
    said = [f"{_count(invalid, 'row')} INVALID"] if invalid else []
    said += [f"{_count(missing, 'row')} not measured"] if missing else []
    why = f" ({', '.join(said)}: see the reasons)" if said else ""
    return f"Nothing that can be trusted was measured for {group.title}{why}."


# ---- numbers


def _interval(entry: Entry, name: str, unit: str, suffix: str = "") -> str:
    low, high = entry.values.get(f"{name}_low{unit}"), entry.values.get(f"{name}_high{unit}")
    if not isinstance(low, float | int) or not isinstance(high, float | int):
        return ""
    return f" (95 %: {number(low)} to {number(high)}{suffix})"


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


def number(value: float) -> str:
    """For reading: three digits that count or, of large ones, all before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 10 else 3
    return f"{value:.{digits - 1}f}" if abs(value) >= 1 else f"{value:.3g}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
