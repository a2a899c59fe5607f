"""Which cells a report shows, and what of them: the CSV's own columns, in groups that may be compared (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from farm.measurement import Environment
from farm.recipe import BASELINE
from results_store.collate import Row
from results_store.exporters import _table
from results_store.exporters.csv import COLUMNS as CSV
from results_store.pareto import front
from results_store.places import placed
from results_store.question import Question
from results_store.recommend import Advice, advise
from results_store.report.basis import GOALS

Value: TypeAlias = str | float | int | None

#: So many cells and groups are shown at most, so that a page of any run stays small; the CSV has all of them.
MAX_CELLS = 2500
MAX_GROUPS = 100

#: The CSV's columns that a page has, and how they are headed there.
COLUMNS: Mapping[str, str] = {
    "model": "model",
    "optimization_technique": "recipe",
    "batch_size": "batch",
    "device": "device",
    "verdict": "verdict",
    "outcome": "outcome",
    "throughput_samples_sec": "samples/s",
    "speedup": "speed-up",
    "speedup_low": "speed-up, low",
    "speedup_high": "speed-up, high",
    "speedup_answer": "against control",
    "speedup_unpaired": "speed-up, unpaired",
    "control": "control",
    "latency_p50_ms": "p50, ms",
    "latency_p50_low_ms": "p50 low, ms",
    "latency_p50_high_ms": "p50 high, ms",
    "latency_p90_ms": "p90, ms",
    "latency_p95_ms": "p95, ms",
    "latency_p99_ms": "p99, ms",
    "latency_p99_low_ms": "p99 low, ms",
    "latency_p99_high_ms": "p99 high, ms",
    "end_to_end_p50_ms": "end to end p50, ms",
    "end_to_end_p90_ms": "end to end p90, ms",
    "end_to_end_p95_ms": "end to end p95, ms",
    "end_to_end_p99_ms": "end to end p99, ms",
    "accuracy_top1": "top-1, %",
    "accuracy_top1_low": "top-1 low, %",
    "accuracy_top1_high": "top-1 high, %",
    "accuracy_top1_fp32": "top-1 of fp32, %",
    "accuracy_top5": "top-5, %",
    "accuracy_samples": "images",
    "agreement_top1_pct": "agrees with fp32, %",
    "ram_usage_mb": "RAM, MiB",
    "vram_usage_mb": "VRAM, MiB",
    "model_size_mb": "size, MiB",
    "cpu_utilization_pct": "CPU, %",
    "gpu_utilization_pct": "GPU, %",
    "energy_per_sample_j": "J per sample",
    "power_mean_w": "mean W",
    "arithmetic_limit_pct": "of the arithmetic limit, %",
    "bandwidth_limit_pct": "of the bandwidth limit, %",
    "build_time_s": "build, s",
    "load_s": "load, s",
    "first_call_ms": "first call, ms",
    "repeats_measured": "repeats",
    "repeats_wanted": "of",
    "repeats_doubted": "doubted",
    "remeasured": "measured again",
    "environment_key": "environment",
    "job_id": "job",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the CSV on the page."""

    #: Its place in the page's data.
    number: int
    row: Row
    #: By the CSV's names.
    values: Mapping[str, Value]

    @property
    def recipe(self) -> str:
        """As the user writes it."""
        return str(self.row.cell.recipe)

    @property
    def batch(self) -> int:
        """Samples per call."""
        return self.row.cell.batch_size

    @property
    def is_usable(self) -> bool:
        """It was measured and is not INVALID: it may be in an answer, a ranking and a chart."""
        return self.row.is_usable

    @property
    def is_suspect(self) -> bool:
        """Measured, with a doubt that is to be shown wherever it is."""
        return self.values["verdict"] == "SUSPECT"

    def figure(self, name: str) -> float | None:
        """The value of a column of numbers; None where the CSV's cell is empty."""
        value = self.values[name]
        return None if value is None or isinstance(value, str) else float(value)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the baseline: over its live control, else over the baseline's row."""
        paired = self.figure("speedup")
        return self.figure("speedup_unpaired") if paired is None else paired


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of one model on one device in one environment class, which may be compared with each other."""

    number: int
    model: str
    device: str
    environment_key: str | None
    #: None where nothing was measured.
    environment: Environment | None
    #: Those on the page, in the order of the matrix.
    entries: tuple[Entry, ...]
    #: All of the run's.
    members: tuple[Row, ...]
    #: What is recommended of all of them, by what the reader may want; its rows are among the entries.
    advice: Mapping[str, Advice]

    @property
    def title(self) -> str:
        """The model and the device as they were asked for."""
        return f"{self.model} on {self.device}"

    @property
    def place(self) -> str:
        """The hardware, and the class where that tells more."""
        if self.environment is None:
            return "not measured anywhere"
        threads = f"{self.environment.threads} thread{'s' * (self.environment.threads != 1)}"
        return f"{self.environment.device_model}, {threads}, environment {self.environment.key}"

    @property
    def usable(self) -> tuple[Entry, ...]:
        """What may be in an answer and a chart."""
        return tuple(entry for entry in self.entries if entry.is_usable)

    @property
    def batches(self) -> tuple[int, ...]:
        """Every batch size, the smallest first."""
        return tuple(sorted({entry.batch for entry in self.entries}))

    @property
    def recipes(self) -> tuple[str, ...]:
        """Every recipe, in the order of the matrix."""
        return tuple(dict.fromkeys(entry.recipe for entry in self.entries))

    def at(self, batch: int) -> tuple[Entry, ...]:
        """Usable entries of a batch size, those of the highest throughput first."""
        found = [entry for entry in self.usable if entry.batch == batch]
        return tuple(sorted(found, key=lambda entry: -(entry.figure("throughput_samples_sec") or 0.0)))

    def baseline(self, entry: Entry) -> Entry | None:
        """The baseline with the allocator and the batch size of an entry; None where the group has none to use."""
        wanted = control_of(entry.row)
        return next((e for e in self.usable if e.batch == entry.batch and e.recipe == wanted), None)

    def entry(self, row: Row) -> Entry:
        """The entry of a row that is on the page."""
        return next(entry for entry in self.entries if entry.row is row)


def control_of(row: Row) -> str:
    """The recipe that a row is compared with: the baseline with its allocator."""
    allocators = [choice for choice in row.cell.recipe.choices if choice.axis == "allocator"]
    return str(allocators[0]) if allocators else BASELINE


def grouped(rows: Sequence[Row]) -> tuple[Group, ...]:
    """The rows in groups that may be compared, in the order of the matrix; at most `MAX_CELLS` in all."""
    found = _groups(rows)
    shown = found[:MAX_GROUPS]
    quota = None if sum(map(len, shown)) <= MAX_CELLS else max(1, MAX_CELLS // len(shown))
    groups: list[Group] = []
    first = 0
    for number, members in enumerate(shown):
        groups.append(_group(number, members, first, quota))
        first += len(groups[-1].entries)
    return tuple(groups)


def entry(row: Row, number: int) -> Entry:
    """A row with the values that the CSV has of it, after its rounding."""
    return Entry(number=number, row=row, values={name: _as_in_csv(CSV[name](row)) for name in COLUMNS})


def _group(number: int, members: list[Row], first: int, quota: int | None) -> Group:
    """A group whose entries are numbered from `first` on, at most `quota` of them."""
    advice = {goal: advise(members, Question(objective=goal)) for goal in GOALS}
    chosen = [found.winner.row for found in advice.values() if found.winner is not None]
    kept = members if quota is None else _foremost(members, quota, chosen)
    measured = [row for row in members if row.figures is not None]
    return Group(
        number=number,
        model=members[0].cell.model,
        device=members[0].cell.device,
        environment_key=measured[0].environment_key if measured else None,
        environment=measured[0].figures.environment if measured and measured[0].figures else None,
        entries=tuple(entry(row, first + place) for place, row in enumerate(kept)),
        members=tuple(members),
        advice=advice,
    )


def _as_in_csv(value: Value) -> Value:
    text = _table.text(value)
    if text == "":
        return None
    return text if isinstance(value, str) else int(text) if isinstance(value, int) else float(text)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each model in each place."""
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row.cell.model, []).append(row)
    found = [members for of_model in by_model.values() for members in placed(of_model).values()]
    order = {id(row): number for number, row in enumerate(rows)}
    return sorted(found, key=lambda members: order[id(members[0])])


def _foremost(rows: list[Row], most: int, chosen: Sequence[Row]) -> list[Row]:
    """What matters most, in the matrix's order: what is recommended, the front, their baselines, then others."""
    ahead = _on_front(rows)
    first = {number for number, row in enumerate(rows) if any(row is one for one in chosen)}
    batches = {rows[number].cell.batch_size for number in ahead | first}

    def rank(number: int) -> tuple[bool, bool, bool, bool, bool, float]:
        row = rows[number]
        throughput = row.figures.throughput if row.figures else None
        is_own = str(row.cell.recipe) == control_of(row)
        is_needed = is_own and row.cell.batch_size in batches
        return (
            not row.is_usable,
            number not in first,
            number not in ahead,
            not is_needed,
            not is_own,
            -(throughput or 0.0),
        )

    return [rows[number] for number in sorted(sorted(range(len(rows)), key=rank)[:most])]


def _on_front(rows: list[Row]) -> set[int]:
    """Which are on the front of throughput and accuracy."""
    points = {
        number: (row.figures.throughput, row.figures.top1.value if row.figures.top1 else 0.0)
        for number, row in enumerate(rows)
        if row.figures is not None and row.figures.throughput is not None and row.is_usable
    }
    numbers = list(points)
    return {numbers[n] for n in front(list(points.values()), (1, 1))}
