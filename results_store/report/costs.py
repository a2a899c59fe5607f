"""What a recipe costs before its first answer, and after how many samples that has paid off (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from results_store.report.cells import Entry


class Pays(StrEnum):
    """When the time that a recipe saves has made up for what it takes longer to start."""

    AT_ONCE = "at once"
    AFTER = "after"
    NEVER = "never"
    UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """The number of samples from which on a recipe has been quicker than its baseline, start included."""

    pays: Pays
    #: With `AFTER`.
    samples: int | None = None
    #: From the ends of the speed-up's interval; None where it has none, `high` also where it may never pay.
    low: int | None = None
    high: int | None = None
    #: Why it is not known, or what limits it; empty where there is nothing to say.
    why: str = ""

    def __str__(self) -> str:
        if self.pays is not Pays.AFTER or self.samples is None:
            return f"{self.pays}: {self.why}" if self.why else str(self.pays)
        if self.low is None:
            return f"after {self.samples:,} samples"
        high = "never" if self.high is None else f"{self.high:,}"
        return f"after {self.samples:,} samples ({self.low:,} to {high})"


def start_s(entry: Entry) -> float | None:
    """Seconds until the first answer: build, load and first call; None where it was not measured."""
    load_s, first_ms = entry.figure("load_s"), entry.figure("first_call_ms")
    if load_s is None or first_ms is None:
        return None
    return (entry.figure("build_time_s") or 0.0) + load_s + first_ms / 1e3


def break_even(entry: Entry, baseline: Entry | None) -> BreakEven:
    """From the start-up of both, and from what a sample takes less by the entry's speed-up.

    Args:
        entry: a usable one.
        baseline: of the same batch size and allocator; None where there is none.
    """
    ratio, p50_ms, own_s = entry.ratio, entry.figure("latency_p50_ms"), start_s(entry)
    theirs_s = None if baseline is None else start_s(baseline)
    if baseline is not None and baseline.number == entry.number:
        return BreakEven(pays=Pays.UNKNOWN, why="it is the baseline")
    if ratio is None or p50_ms is None or own_s is None:
        return BreakEven(pays=Pays.UNKNOWN, why="no speed-up over a baseline was measured")
    if theirs_s is None:
        return BreakEven(pays=Pays.UNKNOWN, why="what the baseline takes to start was not measured")
    if ratio <= 1:
        return BreakEven(pays=Pays.NEVER, why="it is no faster than the baseline")
    if own_s <= theirs_s:
        return BreakEven(pays=Pays.AT_ONCE)

    def after(times: float | None) -> int | None:
        """Samples at this speed-up; None where it saves nothing."""
        if times is None or times <= 1:
            return None
        return math.ceil((own_s - theirs_s) / (p50_ms / 1e3 * (times - 1) / entry.batch))

    low, high = entry.figure("speedup_high"), entry.figure("speedup_low")
    return BreakEven(pays=Pays.AFTER, samples=after(ratio), low=after(low), high=after(high))
