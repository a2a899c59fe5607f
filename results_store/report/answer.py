"""The answer of a group in one sentence: which recipe to deploy, how sure that is, and what it costs (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from results_store.collate import MIN_REPEATS
from results_store.report.cells import Entry, Group
from results_store.report.costs import break_even

#: So many that cannot be told from the best one are named.
_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a group's rows say."""

    group: Group
    #: The highest throughput of what may be trusted and is no less right than the baseline; None without any.
    best: Entry | None
    sentence: str
    #: What to know beside it, each a sentence.
    notes: tuple[str, ...] = ()
    #: What the best one costs: (what, how much), where it is known.
    costs: tuple[tuple[str, str], ...] = ()


def answer(group: Group) -> Told:
    """The answer of a group; INVALID rows are in none, SUSPECT ones are marked."""
    ranked = _ranked(group)
    if not ranked:
        return Told(group=group, best=None, sentence=_nothing(group))
    best = ranked[0]
    return Told(
        group=group,
        best=best,
        sentence=_sentence(group, best),
        notes=tuple(filter(None, (*_quickest(group, best), _trusted(ranked), _ties(ranked), _few_repeats(best)))),
        costs=costs(group, best),
    )


def costs(group: Group, entry: Entry) -> tuple[tuple[str, str], ...]:
    """What deploying an entry takes, as far as it was measured."""
    shown = (
        ("build", _number(entry.figure("build_time_s"), "s")),
        ("load", _number(entry.figure("load_s"), "s")),
        ("first call", _number(entry.figure("first_call_ms"), "ms")),
        ("pays off", str(break_even(entry, group.baseline(entry)))),
        ("RAM", _number(entry.figure("ram_usage_mb"), "MiB")),
        ("VRAM", _number(entry.figure("vram_usage_mb"), "MiB")),
        ("model size", _number(entry.figure("model_size_mb"), "MiB")),
        ("energy", _number(entry.figure("energy_per_sample_j"), "J per sample")),
    )
    return tuple((name, text) for name, text in shown if text)


def keeps_accuracy(entry: Entry, baseline: Entry | None) -> bool:
    """Whether top-1 is not under the baseline's 95 % interval; nothing is said against what is not known."""
    own = entry.figure("accuracy_top1")
    least = None if baseline is None else baseline.figure("accuracy_top1_low")
    return own is None or least is None or own >= least


def _ranked(group: Group) -> list[Entry]:
    """Usable entries that keep the baseline's accuracy, those of the highest throughput first."""
    found = [
        entry
        for entry in group.usable
        if entry.figure("throughput_samples_sec") is not None and keeps_accuracy(entry, group.baseline(entry))
    ]
    return sorted(found, key=lambda entry: -(entry.figure("throughput_samples_sec") or 0.0))


# ---- sentences


def _sentence(group: Group, best: Entry) -> str:
    parts = [
        f"{best.recipe} at batch {best.batch} has the highest throughput on {group.device}: "
        f"{_number(best.figure('throughput_samples_sec'), 'samples/s')}",
        f"{_number(best.figure('latency_p50_ms'), 'ms')} per batch{_interval(best, 'latency_p50', '_ms')}",
        _speedup(group, best),
        _accuracy(group, best),
    ]
    doubt = " This row is SUSPECT: " + _doubts(best) + "." if best.is_suspect else ""
    return ", ".join(filter(None, parts)) + "." + doubt


def _speedup(group: Group, best: Entry) -> str:
    ratio = best.figure("speedup")
    if ratio is not None:
        return f"{ratio:.2f} times as fast as the baseline{_interval(best, 'speedup', '', _answer(best))}"
    unpaired = best.figure("speedup_unpaired")
    own = group.baseline(best)
    if unpaired is None or (own is not None and own.number == best.number):
        return ""
    return f"{unpaired:.2f} times as fast as the baseline (unpaired, without an interval)"


def _answer(best: Entry) -> str:
    return f"; {best.values['speedup_answer']}"


def _accuracy(group: Group, best: Entry) -> str:
    top1 = best.figure("accuracy_top1")
    if top1 is None:
        agreement = best.figure("agreement_top1_pct")
        return "" if agreement is None else f"the same first answer as fp32 for {agreement:.2f} % of the images"
    baseline = group.baseline(best)
    theirs = None if baseline is None or baseline.number == best.number else baseline.figure("accuracy_top1")
    beside = "" if theirs is None else f", the baseline's is {theirs:.2f} %"
    return f"top-1 {top1:.2f} %{_interval(best, 'accuracy_top1', '', ' %')}{beside}"


def _quickest(group: Group, best: Entry) -> list[str]:
    """The shortest time for a call of the smallest batch, where that is another row than the best."""
    smallest = [entry for entry in _ranked(group) if entry.batch == group.batches[0]]
    timed = [(p50, entry) for entry in smallest if (p50 := entry.figure("latency_p50_ms")) is not None]
    if not timed:
        return []
    p50, entry = min(timed, key=lambda pair: pair[0])
    if entry.number == best.number:
        return []
    tail = entry.figure("latency_p99_ms")
    shown = f", p99 {_number(tail, 'ms')}" if tail is not None else ""
    mark = " (SUSPECT)" if entry.is_suspect else ""
    return [
        f"The shortest answer is {entry.recipe}'s{mark} at batch {entry.batch}: "
        f"{_number(p50, 'ms')}{_interval(entry, 'latency_p50', '_ms')}{shown}."
    ]


def _trusted(ranked: list[Entry]) -> str:
    """The best row that is VALID, where the best of all is not."""
    valid = next((entry for entry in ranked if not entry.is_suspect), None)
    if not ranked[0].is_suspect:
        return ""
    if valid is None:
        return "No row here is VALID."
    speed = _number(valid.figure("throughput_samples_sec"), "samples/s")
    return f"The best row that is VALID is {valid.recipe} at batch {valid.batch}: {speed}."


def _ties(ranked: list[Entry]) -> str:
    """Others whose interval of the time per sample overlaps the best one's."""
    own = _per_sample(ranked[0])
    if own is None:
        return ""
    same = [
        f"{entry.recipe} at batch {entry.batch}"
        for entry in ranked[1:]
        if (other := _per_sample(entry)) is not None and other[0] <= own[1]
    ]
    if not same:
        return ""
    more = f" and {len(same) - _MOST_NAMED} more" if len(same) > _MOST_NAMED else ""
    return f"Its interval overlaps that of {', '.join(same[:_MOST_NAMED])}{more}: which is faster cannot be told."


def _few_repeats(best: Entry) -> str:
    if best.row.repeats_measured >= MIN_REPEATS:
        return ""
    return (
        f"Measured in {_count(best.row.repeats_measured, 'repeat')}, which claims no difference between recipes: "
        "processes differ. The standard protocol measures ten, each beside the baseline."
    )


def _nothing(group: Group) -> str:
    invalid = sum(entry.row.is_invalid for entry in group.entries)
    missing = sum(entry.row.figures is None for entry in group.entries)
    said = [f"{_count(invalid, 'row')} INVALID"] if invalid else []
    said += [f"{_count(missing, 'row')} not measured"] if missing else []
    why = f" ({', '.join(said)}: see the reasons)" if said else ""
    return f"Nothing that can be trusted was measured for {group.title}{why}."


# ---- numbers


def _per_sample(entry: Entry) -> tuple[float, float] | None:
    low, high = entry.figure("latency_p50_low_ms"), entry.figure("latency_p50_high_ms")
    return None if low is None or high is None else (low / entry.batch, high / entry.batch)


def _interval(entry: Entry, name: str, unit: str, suffix: str = "") -> str:
    low, high = entry.figure(f"{name}_low{unit}"), entry.figure(f"{name}_high{unit}")
    if low is None or high is None:
        return ""
    return f" (95 %: {number(low)} to {number(high)}{suffix})"


def _doubts(entry: Entry) -> str:
    found = entry.row.verdict.reasons if entry.row.verdict else ()
    return "; ".join(" ".join(str(reason).split()) for reason in found)


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
