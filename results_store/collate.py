"""Makes rows from a run: one per cell and environment class, in base units, judged, nothing rounded.

Every cell of the matrix has a row, measured or not. Only the samples of one cell are in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property, partial
from itertools import groupby
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, TypeAlias

from farm import drift, plugins, roofline, statistics
from farm.errors import BadInput
from farm.measurement import Environment, Measurement, Outcome, Profile
from farm.recipe import BASELINE
from farm.spec import Cell
from farm.verdict import Level, Reason, Verdict, judge, over_repeats
from results_store import exporters
from results_store.records import run_id_of
from results_store.store import JobResult, State, Store

#: Gives the verdict over one measurement.
_Judge: TypeAlias = Callable[[Measurement], Verdict]

#: An id of a run, as the store makes it: a folder has its name.
_RUN_ID = re.compile(r"[0-9A-Za-z-]+")

#: With fewer repeats a spread is a guess.
MIN_REPEATS = 3
#: Outcome of a row none of whose jobs has ended.
PENDING = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Seconds per batch; each is the median over repeats, None below its floor on samples."""

    mean: float | None
    std: float | None
    min: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    #: 95 % interval of p50, over repeats and samples.
    p50_low: float | None
    p50_high: float | None
    #: As those of p50, from the repeats that reach the percentile's floor.
    p90_low: float | None = None
    p90_high: float | None = None
    p95_low: float | None = None
    p95_high: float | None = None
    p99_low: float | None = None
    p99_high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of the test images, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float


class Answer(StrEnum):
    """Whether two things differ."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "no difference found"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speedup:
    """How many times as fast as the live control, with its 95 % interval over repeats."""

    value: float
    low: float
    high: float
    #: That many repeats, each in a process of its own.
    repeats: int
    #: Against its control, among all of its run.
    answer: Answer = Answer.UNKNOWN

    def answered(self, comparisons: int = 1, bias: float = 0.0) -> Speedup:
        """The same with its answer, for the level of so many comparisons (Bonferroni) and beyond a bias.

        Args:
            comparisons: how many are made together.
            bias: how far the log-ratio of A/A pairs is from 0. Few repeats claim nothing.
        """
        if self.repeats < MIN_REPEATS:
            return self
        low, high = self.deciding(comparisons)
        found = Answer.FASTER if low > bias else Answer.SLOWER if high < -bias else Answer.SAME
        return replace(self, answer=found)

    def deciding(self, comparisons: int = 1) -> tuple[float, float]:
        """The interval of the log-ratio that decides one of so many answers: wider than what is shown."""
        middle = math.log(self.value)
        half = (math.log(self.high) - middle) * statistics.widening(self.repeats, comparisons)
        return middle - half, middle + half


@dataclass(frozen=True, kw_only=True, slots=True)
class ByRepeat:
    """One value of each repeat that is not INVALID: what decides whether two rows differ."""

    #: Median seconds per batch, device figure.
    p50_s: tuple[float, ...] = ()
    #: Samples per second.
    throughput: tuple[float, ...] = ()
    #: How many times as fast as the live control.
    speedup: tuple[float, ...] = ()
    energy_per_sample_j: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a cell's repeats measured in one environment class; medians over repeats unless said otherwise."""

    device: Latency
    end_to_end: Latency
    #: Samples ÷ total time of the measured window, device figure.
    throughput: float | None
    #: Its 95 % interval over repeats; of a single repeat, that of its mean call.
    throughput_low: float | None = None
    throughput_high: float | None = None
    by_repeat: ByRepeat = ByRepeat()
    #: Of the repeats that are not INVALID; None where none of them had a live control.
    speedup: Speedup | None
    #: Recipe of the live control; None without one.
    control: str | None
    #: p50 of the baseline of the same batch size, device and class ÷ ours; not paired, so without an interval.
    speedup_unpaired: float | None
    ram_bytes: float | None
    vram_allocator_bytes: float | None
    vram_process_bytes: float | None
    #: Processor time ÷ (wall time × threads).
    cpu_utilization: float | None
    #: Share of the time in which the GPU computed anything, as its driver told the supervisor.
    gpu_utilization: float | None
    energy_per_sample_j: float | None
    power_mean_w: float | None
    #: Of the GPU, in the mean of the timed windows.
    gpu_clock_hz: float | None = None
    #: Of the device's limits (`farm/roofline.py`).
    arithmetic_share: float | None = None
    bandwidth_share: float | None = None
    page_faults_per_call: float
    first_call_s: float
    warmup_s: float
    load_s: float
    #: Making the artifact, whenever that was.
    build_s: float | None
    #: What this run's own attempts spent on it, all together; None where there is none.
    build_spent_s: float | None
    #: These and the next from the repeats with the most samples: only the first answers the whole test part.
    top1: Share | None
    top5: Share | None
    #: Of the fp32 baseline, for the very same samples.
    baseline_top1: Share | None = None
    agreement: Share | None
    accuracy_samples: int
    logits_relative_error: float | None
    model_size_bytes: int
    parameters: int
    macs: int | None
    #: Proof that the recipe ran, of the last repeat.
    evidence: dict[str, Any]
    environment: Environment
    #: When the last repeat was started, seconds since the epoch.
    measured_at: float
    #: The first repeat's.
    began_at: float
    #: Why a metric is empty in every repeat, by its name.
    missing: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One cell in one environment class."""

    run_id: str
    cell: Cell
    #: `ok` where any repeat was measured; else how its jobs ended, `cancelled`, or `pending`.
    outcome: str
    #: Why repeats are missing; empty where none is.
    reason: str
    #: Over the measured repeats; None without any.
    verdict: Verdict | None
    repeats_wanted: int
    repeats_measured: int
    #: Of them, those whose own verdict is not VALID.
    repeats_doubted: int
    #: Of those measured, taken over from earlier runs.
    repeats_adopted: int
    attempts: int
    #: Measurements that were made again because others or the host had spoilt them; the best ones are shown.
    remeasured: int
    #: Repeats that are still to be measured, or to be measured again: the row may change.
    repeats_pending: int = 0
    #: Class of the worker that made the results; None without results.
    environment_key: str | None
    #: Key and id of the first repeat's job.
    job_key: str
    job_id: str
    #: Of every repeat: what to look for in logs and in the store.
    job_ids: tuple[str, ...]
    #: None where nothing was measured.
    figures: Figures | None

    @property
    def is_invalid(self) -> bool:
        """Shown with its reason, but in no ranking and no ratio."""
        return self.verdict is not None and self.verdict.level is Level.INVALID

    @property
    def is_usable(self) -> bool:
        """It was measured and is not INVALID: it may be recommended, ranked and drawn."""
        return self.figures is not None and not self.is_invalid


class Rows(Sequence[Row]):
    """Rows in the order of the matrix, made when the first one is asked for, and all in memory from then on."""

    def __init__(self, make: Callable[[], Iterable[Row]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> tuple[Row, ...]:
        return tuple(self._make())

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: Any) -> Any:
        return self._made[index]


@dataclass(frozen=True, kw_only=True)
class Collated:
    """A run as exporters get it."""

    run_id: str
    #: For people: its name and its id.
    title: str
    #: In the order of the matrix; `BadInput` where what was measured cannot be read any more.
    rows: Sequence[Row]
    #: Reads every job of the matrix, with its raw samples, by cell and repeat; few are in memory at once.
    jobs: Callable[[], Iterator[JobResult]]
    #: As `jobs`, those that were measured.
    measured: Callable[[], Iterator[JobResult]]
    #: What a measurement says of itself, and what the run's controls say of it.
    verdict: Callable[[Measurement], Verdict]
    #: Reads the profile of a row, without its trace; None where there is none.
    profile: Callable[[Row], Profile | None]
    #: Reads the trace of that profile: JSON of some MiB in Chrome's format.
    trace: Callable[[Row], str | None]
    #: Reads the repeats of its controls, as `measured`.
    controls: Callable[[], Iterator[JobResult]]


def collate(store: Store, run_id: str) -> Collated:
    """The run of this id, to be read when it is asked for, for as long as the store is open.

    Raises:
        BadInput: its id in the store is none: somebody has changed it.
    """
    if _RUN_ID.fullmatch(run_id) is None:
        raise BadInput(f"The run {run_id!r} is written nowhere: its id in the store was changed.")
    judged_by = _judge_of_run(store, run_id)
    return Collated(
        run_id=run_id,
        title=store.run(run_id).title,
        rows=Rows(partial(_all_rows, store, run_id, judged_by)),
        jobs=partial(store.results, run_id),
        measured=partial(_measured, store, run_id),
        verdict=judged_by,
        # only a first repeat is profiled, and that is the job that a row names
        profile=lambda row: store.profile(row.job_id),
        trace=lambda row: store.trace(row.job_id),
        controls=partial(store.controls, run_id),
    )


def exporter(name: str) -> ModuleType:
    """The exporter of this name.

    Raises:
        BadInput: no such exporter, or it cannot be loaded.
    """
    return plugins.load(exporters.__name__, name)


def export(collated: Collated, folder: Path, name: str = "csv") -> Path:
    """Writes a run with an exporter into a folder, which is made where it is missing; returns what was written.

    Raises:
        BadInput: no such exporter, the folder cannot be written, or what was measured cannot be read any more.
    """
    writer = exporter(name)
    path: Path = folder / writer.FILE
    if not getattr(writer, "BY_JOB", False):
        len(collated.rows)  # now, so that what cannot be read leaves no folder behind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writer.write(collated, path)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written: {error.strerror}. Choose another folder with --output-dir."
        ) from None
    return path


def _measured(store: Store, run_id: str) -> Iterator[JobResult]:
    return (result for result in store.results(run_id) if result.measurement is not None)


def _shared(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, of which equal parts are one object: what they say is large, and much of it is of few kinds."""
    kept: dict[Any, Any] = {}

    def one(part: Any) -> Any:
        return kept.setdefault(part, part)

    for row in rows:
        cell = row.cell
        texts = {name: sys.intern(value) for name, value in cell if isinstance(value, str)}
        parts = {"protocol": one(cell.protocol), "recipe": one(cell.recipe)}
        shared = replace(row, cell=cell.model_copy(update={**texts, **parts}))
        if row.figures is not None:
            where = row.figures.environment
            figures = replace(
                row.figures,
                environment=kept.setdefault(where.canonical(), where),
                evidence={sys.intern(name): _as_kept(found, kept) for name, found in row.figures.evidence.items()},
                missing=_as_kept(row.figures.missing, kept),
            )
            shared = replace(shared, figures=figures)
        yield shared


def _as_kept(value: Any, kept: dict[Any, Any]) -> Any:
    """A value of JSON, or the equal one that came before it; so are its parts."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        made: Any = {sys.intern(name): _as_kept(part, kept) for name, part in value.items()}
    elif isinstance(value, list):
        made = [_as_kept(part, kept) for part in value]
    else:
        return value
    return kept.setdefault(hashlib.sha256(json.dumps(value).encode()).digest(), made)


def _judge_of_run(store: Store, run_id: str) -> _Judge:
    """What a measurement says of itself, and what the run's controls say of it; those are read when needed."""

    @cache
    def marks() -> drift.Marks:
        return drift.Marks(control.measurement for control in store.controls(run_id) if control.measurement)

    return lambda m: Verdict(reasons=(*judge(m).reasons, *marks().drifted(m)))


def _all_rows(store: Store, run_id: str, judged_by: _Judge) -> list[Row]:
    cells = groupby(store.results(run_id), key=lambda result: result.cell_ordinal)
    rows = list(_shared(row for _, results in cells for row in _rows(list(results), judged_by)))
    return _with_answers(_with_speedups(_with_batches_compared(rows)))


# ---- one row


def _rows(results: list[JobResult], judged_by: _Judge) -> Iterator[Row]:
    """The rows of one cell. Results of different classes are never pooled."""
    classes: dict[tuple[str | None, str | None], list[JobResult]] = {}
    unended = [result for result in results if result.environment_key is None]
    for result in results:
        if result.environment_key is not None:
            classes.setdefault(_class(result, results), []).append(result)
    if not classes:
        yield _row(unended, len(results), judged_by)
    for place, members in enumerate(classes.values(), start=1):
        # what is missing would come from the class that the cell went to last
        together = [*members, *unended] if place == len(classes) else members
        yield _row(together, len(results), judged_by)


def _class(result: JobResult, results: list[JobResult]) -> tuple[str | None, str | None]:
    """The class of the worker, and of the measuring process where the two should ever differ."""
    measured = (
        r.measurement for r in (result, *results) if r.environment_key == result.environment_key and r.measurement
    )
    first = next(measured, None)
    return result.environment_key, first.environment.key if first else None


def _row(results: list[JobResult], wanted: int, judged_by: _Judge) -> Row:
    measured = [result for result in results if result.measurement is not None]
    adopted = [result for result in measured if not _is_own(result)]
    others = [result for result in results if result.measurement is None]
    judged = [(m, judged_by(m)) for r in measured if (m := r.measurement)]
    first = min(results, key=lambda result: result.spec.repeat)
    return Row(
        run_id=first.run_id,
        cell=first.spec.cell,
        outcome=outcome(results),
        reason="; ".join(dict.fromkeys(filter(None, (_why(result, bool(measured)) for result in others)))),
        verdict=over_repeats(verdict for _, verdict in judged) if judged else None,
        repeats_wanted=wanted,
        repeats_measured=len(measured),
        repeats_doubted=sum(verdict.level is not Level.VALID for _, verdict in judged),
        repeats_adopted=len(adopted),
        attempts=sum(result.attempts for result in results),
        remeasured=sum(result.remeasured for result in results),
        repeats_pending=sum(result.state.is_open for result in results),
        environment_key=next((result.environment_key for result in results), None),
        job_key=first.spec.key,
        job_id=first.job_id,
        job_ids=tuple(result.job_id for result in sorted(results, key=lambda result: result.spec.repeat)),
        figures=_figures(measured, [m for m, v in judged if v.level is not Level.INVALID]) if measured else None,
    )


def _why(result: JobResult, is_measured: bool) -> str:
    """Why a repeat is missing, or is not there yet; how it ended where a measured row would not say so."""
    if result.reason or result.state.is_open or not is_measured:
        return result.reason
    return str(Outcome.CANCELLED if result.state is State.CANCELLED else result.outcome or "")


def _is_own(result: JobResult) -> bool:
    """Whether it was measured in this run, and not adopted from another."""
    return result.measured_by is not None and run_id_of(result.measured_by) == result.run_id


def outcome(results: list[JobResult]) -> str:
    """The best that any repeat came to."""
    # what is being measured again has been measured
    kept = {str(Outcome.OK) for r in results if r.measurement is not None}
    ended = kept | {str(r.outcome) for r in results if r.state in (State.DONE, State.FAILED)}
    for outcome in Outcome:
        if outcome.is_result and outcome in ended:
            return str(outcome)
    if any(result.state.is_open for result in results):
        return PENDING
    return next((str(o) for o in Outcome if o in ended), str(Outcome.CANCELLED))


# ---- figures


def _figures(results: list[JobResult], trusted: list[Measurement]) -> Figures:
    """What these jobs measured; a ratio only from those measurements that can be trusted."""
    found = [result.measurement for result in results if result.measurement is not None]
    memories = [m.memory for m in found if m.memory is not None]
    fullest = _fullest(found)
    own = [r.measurement for r in results if r.measurement is not None and _is_own(r)]
    latest = max(found, key=lambda m: m.started_at)
    each = [throughput(m) for m in found]
    low, high = _throughput_interval(found)
    ratios = [[ratio for ratio in m.speedups if _can_be(ratio)] for m in trusted]
    device = _latency([m.samples.device_ns for m in found])
    end_to_end = _latency([m.samples.end_to_end_ns for m in found])
    paired = speedup(ratios)
    return Figures(
        device=device,
        end_to_end=end_to_end,
        throughput=_median(each),
        throughput_low=low,
        throughput_high=high,
        by_repeat=_by_repeat(trusted, ratios),
        speedup=paired,
        control=next((str(m.control.recipe) for m in found if m.control), None),
        speedup_unpaired=None,
        ram_bytes=_median(memory.peak_bytes - memory.floor_bytes for memory in memories),
        vram_allocator_bytes=_median(memory.vram_allocator_bytes for memory in memories),
        vram_process_bytes=_median(memory.vram_process_bytes for memory in memories),
        cpu_utilization=_median(map(_cpu_utilization, found)),
        gpu_utilization=_median(_mean_of(m, "gpu_utilization") for m in found),
        energy_per_sample_j=_median(m.energy.per_sample_j for m in found if m.energy and _can_be(m.energy.joules)),
        power_mean_w=_median(m.energy.mean_w for m in found if m.energy and _can_be(m.energy.joules)),
        gpu_clock_hz=_median(_mean_of(m, "gpu_sm_clock_hz") for m in found),
        arithmetic_share=_median(map(roofline.arithmetic_share, found)),
        bandwidth_share=_median(map(roofline.bandwidth_share, found)),
        page_faults_per_call=median(m.usage.faults_per_call for m in found),
        first_call_s=median(m.first_call_s for m in found),
        warmup_s=median(m.warmup_s for m in found),
        load_s=median(m.load_s for m in found),
        build_s=_median(m.build_s for m in found),
        build_spent_s=None if latest.build_s is None else sum(m.build_spent_s for m in own),
        top1=_share(fullest, lambda m: m.accuracy.top1_correct),
        top5=_share(fullest, lambda m: m.accuracy.top5_correct),
        baseline_top1=_share(fullest, lambda m: m.accuracy.baseline_top1_correct),
        agreement=_share(fullest, lambda m: m.accuracy.agreeing),
        accuracy_samples=fullest[0].accuracy.samples,
        logits_relative_error=_median(m.accuracy.logits_relative_error for m in fullest),
        model_size_bytes=latest.model_size_bytes,
        parameters=latest.parameters,
        macs=latest.macs,
        evidence=latest.evidence,
        environment=latest.environment,
        measured_at=latest.started_at,
        began_at=min(m.started_at for m in found),
        missing=_missing(found)
        | _few_answers(fullest)
        | _unstated(latency=device, end_to_end=end_to_end)
        | _unpaired(found, paired),
    )


def _fullest(found: list[Measurement]) -> list[Measurement]:
    """The repeats that answered for the most samples."""
    most = max(m.accuracy.samples for m in found)
    return [m for m in found if m.accuracy.samples == most]


def _few_answers(fullest: list[Measurement]) -> dict[str, str]:
    """Why the accuracy is of so few samples, where it is of the timed inputs only."""
    timed = fullest[0].spec.protocol.distinct_inputs * fullest[0].spec.batch_size
    if any(m.spec.repeat == 0 for m in fullest) or fullest[0].accuracy.samples > timed:
        return {}
    why = "only of the inputs that were timed: the first repeat, which answers all the others, was not measured"
    return {"accuracy": why}


def _unstated(**latencies: Latency) -> dict[str, str]:
    """Why percentiles are empty, by their columns' names."""
    return {
        f"{name}_p{q}_ms": f"stated from {floor} calls in a repeat on"
        for name, latency in latencies.items()
        for q, floor in statistics.FLOORS.items()
        if getattr(latency, f"p{q}") is None
    }


def _unpaired(found: list[Measurement], paired: Speedup | None) -> dict[str, str]:
    """Why there is no speed-up, where no repeat says itself why it had no live control."""
    if paired is not None or any("control" in m.missing for m in found):
        return {}
    had_one = any(m.control is not None for m in found)
    return {"speedup": "every repeat is INVALID" if had_one else "the protocol has no live control"}


def _can_be(value: float) -> bool:
    """Whether something can take so much: a broken counter or clock may say 0, less, or what is no number."""
    return 0 < value < math.inf


def _by_repeat(trusted: list[Measurement], ratios: list[list[float]]) -> ByRepeat:
    medians = (statistics.percentile(m.samples.device_ns, 50) for m in trusted)
    return ByRepeat(
        p50_s=tuple(ns / 1e9 for ns in medians if ns),
        throughput=tuple(filter(None, map(throughput, trusted))),
        speedup=tuple(math.exp(median(map(math.log, rounds))) for rounds in ratios if rounds),
        energy_per_sample_j=tuple(m.energy.per_sample_j for m in trusted if m.energy and _can_be(m.energy.joules)),
    )


def speedup(repeats: Sequence[Sequence[float]]) -> Speedup | None:
    """The speed-up over a live control, from the ratios of each repeat's rounds; None without any."""
    used = [ratios for ratios in repeats if ratios]
    found = statistics.paired_ratio(used)
    return None if found is None else Speedup(value=found[0], low=found[1], high=found[2], repeats=len(used))


def _latency(repeats: list[tuple[int, ...]]) -> Latency:
    seconds = [[ns / 1e9 for ns in samples] for samples in repeats]
    summaries = [statistics.summarize(samples) for samples in seconds]
    over_repeats = {name: _median(summary[name] for summary in summaries) for name in summaries[0]}
    ends: dict[str, float | None] = {}
    for q in statistics.FLOORS:
        # a median has its interval below its floor too
        found = statistics.median_interval(seconds) if q == 50 else statistics.percentile_over_repeats(seconds, q)
        ends[f"p{q}_low"], ends[f"p{q}_high"] = found or (None, None)
    return Latency(**over_repeats, **ends)


def throughput(measurement: Measurement) -> float | None:
    """Samples per second over the measured window, of the device figure; None without any call that took time."""
    samples = measurement.samples.device_ns
    taken_s = sum(samples) / 1e9
    return measurement.spec.batch_size * len(samples) / taken_s if taken_s > 0 else None


def _throughput_interval(found: list[Measurement]) -> tuple[float | None, float | None]:
    """Over repeats; that of a single one says nothing of what varies between processes."""
    each = [value for m in found if (value := throughput(m)) is not None]
    if len(each) > 1:
        return statistics.median_interval([[value] for value in each]) or (None, None)
    samples = next((m.samples.device_ns for m in found if len(m.samples.device_ns) > 1), None)
    if samples is None:
        return None, None
    _, least_ns, most_ns = statistics.mean_interval(samples)
    per_call = 1e9 * found[0].spec.batch_size
    return per_call / most_ns if most_ns > 0 else None, per_call / least_ns if least_ns > 0 else None


def _cpu_utilization(measurement: Measurement) -> float | None:
    usage, threads = measurement.usage, measurement.environment.threads
    return usage.cpu_s / (usage.wall_s * threads) if usage.wall_s else None


def _mean_of(measurement: Measurement, gauge: str) -> float | None:
    """What the supervisor read of a quantity in the timed windows, in the mean."""
    seen = measurement.telemetry and measurement.telemetry.gauges.get(gauge)
    return seen.mean if seen else None


def _missing(found: list[Measurement]) -> dict[str, str]:
    """Why a metric is empty: where no repeat has it, what the first of them says."""
    first, *others = sorted(found, key=lambda m: m.spec.repeat)
    return {name: why for name, why in first.missing.items() if all(name in m.missing for m in others)}


def _share(found: list[Measurement], count: Callable[[Measurement], int | None]) -> Share | None:
    """The middle repeat's share. Repeats see the same images, so together they know no more than one."""
    counts = [
        (n / m.accuracy.samples, n, m.accuracy.samples)
        for m in found
        if (n := count(m)) is not None and m.accuracy.samples
    ]
    if not counts:
        return None
    value, right, samples = sorted(counts)[(len(counts) - 1) // 2]
    low, high = statistics.wilson(right, samples)
    return Share(value=value, low=low, high=high)


def _median(values: Iterable[float | None]) -> float | None:
    """The median of those that there are."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


# ---- batches of different sizes


def _with_batches_compared(rows: list[Row]) -> list[Row]:
    """The rows, with those in doubt whose larger batch took less than a smaller one, beyond noise."""
    trusted: dict[Any, list[Row]] = {}
    for row in rows:
        if row.figures is not None and not row.is_invalid:
            trusted.setdefault(_all_but_batch(row), []).append(row)
    return [_beside_smaller(row, trusted.get(_all_but_batch(row), [])) for row in rows]


def _beside_smaller(row: Row, others: list[Row]) -> Row:
    smaller = (other for other in others if other.cell.batch_size < row.cell.batch_size)
    slower = next((other for other in smaller if _took_less(row, other)), None)
    if slower is None or row.verdict is None:
        return row
    text = f"{_took(row)} in total, {_took(slower)}"
    reason = Reason(code="implausible", level=Level.SUSPECT, text=text)
    return replace(row, verdict=Verdict(reasons=(*row.verdict.reasons, reason)))


def _took_less(row: Row, other: Row) -> bool:
    """Whether it took less time than the other one, beyond noise."""
    if row.figures is None or other.figures is None:
        return False
    most, least = row.figures.device.p50_high, other.figures.device.p50_low
    return most is not None and least is not None and most < least


def _took(row: Row) -> str:
    seconds = row.figures.device.p50 if row.figures else None
    return f"batch {row.cell.batch_size} took {(seconds or 0.0) * 1e3:.3g} ms"


def _all_but_batch(row: Row) -> Any:
    measured_in = row.figures.environment.key if row.figures else None
    return row.cell.model_copy(update={"batch_size": None}), row.environment_key, measured_in


# ---- speed-up without a live control


def _with_speedups(rows: list[Row]) -> list[Row]:
    baselines = {_control(row): _p50(row) for row in rows if _is_baseline(row)}
    return [_with_speedup(row, baselines.get(_control(row))) for row in rows]


def _with_speedup(row: Row, baseline_s: float | None) -> Row:
    own_s = _p50(row)
    if row.figures is None or not own_s or not baseline_s:
        return row
    return replace(row, figures=replace(row.figures, speedup_unpaired=baseline_s / own_s))


def _with_answers(rows: list[Row]) -> list[Row]:
    """Rows that say whether they are faster or slower than their control, corrected for how many of them do.

    What a cell that is its own control deviates by, be it chance or not, is the bias that theirs may have, too.
    """
    paired = [row for row in rows if row.figures is not None and row.figures.speedup is not None]
    shown = _shown(paired)
    return [
        replace(row, figures=replace(row.figures, speedup=found.answered(len(paired), _bias(row, shown))))
        if row.figures is not None and (found := row.figures.speedup) is not None
        else row
        for row in rows
    ]


def _shown(paired: Iterable[Row]) -> dict[Any, float]:
    """How far the log-ratio of rows that are their own control is from 0: by what is controlled, and by device."""
    shown: dict[Any, float] = {}
    for row in paired:
        if _is_own_control(row) and row.figures is not None and row.figures.speedup is not None:
            for place in (_control(row), _device(row)):
                shown[place] = max(shown.get(place, 0.0), abs(math.log(row.figures.speedup.value)))
    return shown


def _bias(row: Row, shown: Mapping[Any, float]) -> float:
    """That of the same model and batch size where it was measured, else the largest of the device."""
    return shown.get(_control(row), shown.get(_device(row), 0.0))


def _device(row: Row) -> tuple[str, str | None]:
    return row.cell.device, row.environment_key


def _is_own_control(row: Row) -> bool:
    return row.figures is not None and row.figures.control == str(row.cell.recipe)


def _p50(row: Row) -> float | None:
    """Median latency of a row that may enter a ratio."""
    return None if row.figures is None or row.is_invalid else row.figures.device.p50


def _is_baseline(row: Row) -> bool:
    return str(row.cell.recipe.without("allocator")) == BASELINE


def _control(row: Row) -> tuple[Cell, str, str | None]:
    """What a recipe and its baseline have in common: all but the recipe, of which only the allocator."""
    return (
        row.cell.model_copy(update={"recipe": None}),
        row.cell.recipe.allocator,
        row.environment_key,
    )
