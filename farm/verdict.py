"""The rules that judge a measurement (pure): VALID, SUSPECT or INVALID, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from farm import catalogue, limits, roofline, statistics
from farm.measurement import Grown, Measurement, Telemetry

_END_TO_END = "end to end"
#: An interval so many times wider than its target makes a figure worthless.
_BY_FAR = 5.0
#: Page faults per call must differ between halves by more than both: the number, and the share of the larger …
_FAULTS_APART = 20.0
_FAULTS_SHARE = 0.2
#: … and weigh something: at this price each (a generous one) by more than this share of the interval's target.
_FAULT_S = 2e-6
_FAULTS_WEIGHT = 0.5


#: A call that is so many times the median and takes such a share of the window held everything up.
_STALL_TIMES, _STALL_SHARE = 10, 0.05
#: So many of an 8-bit recipe's convolutions may stay as they were: the first and the last often do.
_EXACT_SHARE = 0.1
#: Others may have so much of a processor before a figure is doubted, and refused: one processor that is late
#: keeps all waiting, so it is not a share of them; on a large host every system's own noise adds up.
_TAKEN_SUSPECT, _TAKEN_INVALID = 0.1, 0.3
_NOISE_SUSPECT, _NOISE_INVALID = 0.01, 0.03
#: Clocks under this share of the expected make a figure worthless.
_CLOCK_SHARE = 0.75
#: With all processors busy a CPU's clock is expected to be no less than its base, or this share of its highest.
_ALL_BUSY_SHARE = 2 / 3
#: Of an idle processor no clock can be expected: the measurement has to use so much of one.
_BUSY = 0.5
#: Reasons for a GPU's lower clocks that are no fault.
_HARMLESS = ("idle", "application clock setting")


class Level(StrEnum):
    """How far a measurement can be trusted."""

    VALID = "VALID"
    SUSPECT = "SUSPECT"
    INVALID = "INVALID"

    @property
    def severity(self) -> int:
        """As a number to sort by: 0 is valid."""
        return list(Level).index(self)


#: What others or the host did to a measurement, so that the next one may be spared it.
_MENDABLE = frozenset({"contaminated", "throttled", "unstable"})
#: Up to this share of a cell's repeats may have a doubt that passes: of ten that nothing disturbs, each doubted
#: with 5 %, three are in 1.2 % of cells.
_FEW_REPEATS = 0.2


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a measurement is not simply valid."""

    #: As in the table of verdicts: `fallback`, `too_few_samples`, `unstable`, `implausible`, …
    code: str
    level: Level
    #: A sentence with the figures that decided.
    text: str
    #: It would be found again however often this is measured.
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all rules together say."""

    reasons: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        """The worst of the reasons; valid without any."""
        return max(
            (reason.level for reason in self.reasons), key=lambda level: level.severity, default=Level.VALID
        )

    @property
    def severity(self) -> int:
        """That of the level."""
        return self.level.severity


def judge(measurement: Measurement) -> Verdict:
    """The verdict over one measurement, computed from what was stored."""
    return Verdict(reasons=tuple(reason for rule in RULES for reason in rule(measurement)))


def mendable(verdict: Verdict) -> bool:
    """Whether measuring again may help: others or the host spoilt it, and it is not worthless anyway."""
    mends = [_can_pass(reason) for reason in verdict.reasons]
    levels = [reason.level for reason in verdict.reasons]
    return any(mends) and all(mends[n] for n, level in enumerate(levels) if level is Level.INVALID)


def over_repeats(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict over the repeats of a cell: each reason once, the worst first.

    A doubt that passes (a neighbour, a drift, a clock: measured again it may be gone) counts where more than a
    fifth of the repeats have one. The figure is of all repeats, and its interval has their spread; were one
    enough, rules that doubt one undisturbed repeat in twenty would doubt 40 % of the cells of ten. Whatever lasts,
    and whatever makes a repeat INVALID, counts wherever it was found.
    """
    verdicts = list(verdicts)
    shaken = sum(any(map(passes, verdict.reasons)) for verdict in verdicts)
    few = shaken <= _FEW_REPEATS * len(verdicts)
    found: dict[tuple[str, Level], Reason] = {}
    for reason in (reason for verdict in verdicts for reason in verdict.reasons):
        if not passes(reason):
            found[reason.code, reason.level] = reason
        elif not few:
            text = reason.text if len(verdicts) == 1 else f"{reason.text} ({shaken} of {len(verdicts)} repeats)"
            found.setdefault((reason.code, reason.level), replace(reason, text=text))
    return Verdict(reasons=tuple(sorted(found.values(), key=lambda reason: -reason.level.severity)))


def passes(reason: Reason) -> bool:
    """Whether it is a doubt, no more, that another measurement may not have."""
    return reason.level is Level.SUSPECT and _can_pass(reason)


def _can_pass(reason: Reason) -> bool:
    return reason.code in _MENDABLE and not reason.lasting


def fallback(measurement: Measurement) -> Iterator[Reason]:
    """It ran elsewhere, in another dtype, or uncompiled: the figure belongs to another recipe."""
    evidence = measurement.evidence
    for what in ("provider", "dtype", "allocator"):
        asked, found = evidence.get(f"{what}_asked"), evidence.get(what)
        if asked is not None and asked != found:
            yield _invalid("fallback", f"asked for {what} {asked}, ran with {found}")
    # A library may have the provider, and give it nothing to do.
    nodes, asked = evidence.get("nodes"), evidence.get("provider_asked")
    if isinstance(nodes, Mapping) and nodes and asked is not None and asked not in nodes:
        yield _invalid("fallback", f"no node ran on {asked}, but on {', '.join(nodes)}")
    if evidence.get("compiled") is False:
        yield _invalid("fallback", "the graph was not compiled")
    yield from _uncompressed(evidence.get("compression"))


def _uncompressed(found: Mapping[str, Any] | None) -> Iterator[Reason]:
    if found is None:
        return
    after, before = found["parameters"], found["parameters_before"]
    if found.get("rounded_tensors") == 0:
        yield _invalid("fallback", "nothing was rounded to 8 bits in fine-tuning")
    elif "rounded_tensors" not in found and not (found["removed_channels"] and after < before):
        yield _invalid("fallback", f"no channels were removed: {after:,} parameters of {before:,} are left")
    elif after > found.get("parameters_allowed", after):
        yield _invalid(
            "fallback", f"the student has {after:,} parameters, {found['parameters_allowed']:,} allowed"
        )


def partial_fallback(measurement: Measurement) -> Iterator[Reason]:
    """A part of the graph ran elsewhere."""
    breaks, elsewhere = (measurement.evidence.get(key) or 0 for key in ("graph_breaks", "nodes_elsewhere"))
    if breaks:
        yield _suspect("fallback", f"the graph broke at {breaks} places")
    if elsewhere:
        yield _suspect("fallback", f"{elsewhere} nodes ran on another provider")
    exact, int8 = (measurement.evidence.get(key) or 0 for key in ("exact_convolutions", "int8_convolutions"))
    if int8 and exact > _EXACT_SHARE * (exact + int8):
        yield _suspect("fallback", f"{exact} of {exact + int8} convolutions did not run in 8 bits")


def too_few_samples(measurement: Measurement) -> Iterator[Reason]:
    """Fewer calls than the protocol's minimum, or than a median needs."""
    for name, samples in _figures(measurement):
        if len(samples) < measurement.spec.protocol.min_calls:
            yield _invalid(
                "too_few_samples",
                f"{len(samples)} calls ({name}), the protocol's minimum is {measurement.spec.protocol.min_calls}",
            )
        elif len(samples) < statistics.FLOORS[50]:
            yield _suspect(
                "too_few_samples",
                f"{len(samples)} calls ({name}), a median is stated from {statistics.FLOORS[50]} on",
            )
    yield from _percentiles_unstated(measurement)


def _percentiles_unstated(measurement: Measurement) -> Iterator[Reason]:
    """A percentile that the protocol names has too few calls; the median is told of apart."""
    calls = len(measurement.samples.device_ns)
    for q in measurement.spec.protocol.percentiles:
        if q != 50 and calls < statistics.FLOORS[q]:
            text = f"{calls} calls (device), p{q} is stated from {statistics.FLOORS[q]} on: raise max_s"
            yield _suspect("too_few_samples", text)


def wide_interval(measurement: Measurement) -> Iterator[Reason]:
    """The median's interval stayed wider than the protocol's target; beside a live control, the speed-up's."""
    target = measurement.spec.protocol.target_half_width
    for name, samples in _claims(measurement):
        width = statistics.relative_half_width(samples)
        if width is None or width <= target:
            continue
        text = f"the median is known to ±{width:.1%} ({name}), the target is ±{target:.1%}"
        # Beside a control the speed-up is the claim, and nothing protects the end-to-end figure from the host.
        is_severe = width > _BY_FAR * target and not (measurement.control and name == _END_TO_END)
        reason = _invalid("unstable", text) if is_severe else _suspect("unstable", text)
        # Slow calls use up the time with the fewest that there may be, however often.
        yield replace(
            reason, lasting=len(samples) <= max(measurement.spec.protocol.min_calls, statistics.FLOORS[50])
        )


def _claims(measurement: Measurement) -> tuple[tuple[str, Sequence[float]], ...]:
    """What the protocol's target is about: beside a control the speed-up, whatever the host does to both alike."""
    device, end_to_end = _figures(measurement)
    return (device if measurement.control is None else ("speed-up", measurement.speedups), end_to_end)


def drift(measurement: Measurement) -> Iterator[Reason]:
    """The window's halves differ by more than the target, and by more than chance explains."""
    target = measurement.spec.protocol.target_half_width
    for name, samples in _claims(measurement):
        change = statistics.change_within(samples, target)
        if change is not None:
            yield _suspect("unstable", f"the second half of the window was {change:+.1%} off the first ({name})")


def end_to_end_sooner(measurement: Measurement) -> Iterator[Reason]:
    """Host to host took less than its part on the device: the two figures are not of one state of the host."""
    if measurement.control is not None:  # the speed-up is the claim, and its windows took turns
        return
    part_ns, whole_ns = measurement.samples.device_ns, measurement.samples.end_to_end_ns
    part, whole = (statistics.percentile_interval(samples, 50) for samples in (part_ns, whole_ns))
    if part is None or whole is None or whole[1] >= part[0]:
        return
    change = float(np.median(whole_ns) / np.median(part_ns)) - 1
    # Each may be off by the target, and be as good as was asked.
    if change < -2 * measurement.spec.protocol.target_half_width:
        yield _suspect("unstable", f"end to end took {change:+.1%} beside its part on the device")


def held_up(measurement: Measurement) -> Iterator[Reason]:
    """One call was so long that it weighs on mean and throughput: the process was stopped or swapped out."""
    for name, samples in _figures(measurement):
        if len(samples) < statistics.FLOORS[50]:
            continue
        longest, median = max(samples), float(np.median(samples))
        if longest > _STALL_TIMES * median and longest - median > _STALL_SHARE * sum(samples):
            text = f"one call took {longest / 1e6:.1f} ms, {longest / median:.0f} times the median ({name})"
            yield _suspect("unstable", f"{text}: the process was held up")


def unsettled_heap(measurement: Measurement) -> Iterator[Reason]:
    """Page faults per call changed within the window: the heap was still growing or shrinking."""
    first, second = measurement.usage.faults_by_half
    apart, samples = abs(first - second), measurement.samples.device_ns
    if not samples or apart <= max(_FAULTS_APART, _FAULTS_SHARE * max(first, second)):
        return
    call_s = float(np.median(samples)) / 1e9
    if apart * _FAULT_S > _FAULTS_WEIGHT * measurement.spec.protocol.target_half_width * call_s:
        yield _suspect("unstable", f"page faults per call went from {first:.0f} to {second:.0f}")


def contaminated(measurement: Measurement) -> Iterator[Reason]:
    """Others used the measurement's processors: steady load slows every call alike, so no interval shows it."""
    found = measurement.contention
    if found is None:
        why = measurement.missing.get(
            "contention", "was not recorded when this was measured; --again measures anew"
        )
        yield replace(_suspect("contaminated", f"who else used the processors {why}"), lasting=True)
    elif found.taken > max(_TAKEN_SUSPECT, _NOISE_SUSPECT * found.processors):
        is_limited = (found.held_back_s or 0.0) > found.others_s + found.steal_s
        who = "a limit on processor time took" if is_limited else "others had"
        text = f"{who} {found.taken:.2f} of the measurement's {found.processors} processors"
        if not is_limited and found.steal_s > found.others_s:
            text += ", most of it other machines of the same hypervisor (steal)"
        severe = found.taken > max(_TAKEN_INVALID, _NOISE_INVALID * found.processors)
        reason = _invalid("contaminated", text) if severe else _suspect("contaminated", text)
        # a container's limit does so every time
        yield replace(reason, lasting=is_limited)


def shared_cores(measurement: Measurement) -> Iterator[Reason]:
    """The other halves of the measurement's cores were busy: a core that computes two things does each slower."""
    found = measurement.contention
    if found is None or not found.beside_s or not found.wall_s:
        return
    busy = found.beside_s / found.wall_s
    if busy > max(_TAKEN_INVALID, _NOISE_INVALID * found.processors):
        text = f"{busy:.2f} processors that share a core with the measurement's {found.processors} were busy (SMT)"
        yield replace(_suspect("contaminated", text), lasting=True)  # whoever is there has that processor


def busy_partner(measurement: Measurement) -> Iterator[Reason]:
    """Cell or control computed while the other was timed, though it should have been idle."""
    found = measurement.control
    if found is None:
        return
    for who, share in (("cell", found.cell_idle_share), ("control", found.control_idle_share)):
        if share > _TAKEN_SUSPECT:
            text = f"the idle {who} used {share:.2f} of a processor while its partner was timed"
            found_so = _invalid("contaminated", text) if share > _TAKEN_INVALID else _suspect("contaminated", text)
            # a runtime whose threads spin does so every time
            yield replace(found_so, lasting=True)


def crowded_gpu(measurement: Measurement) -> Iterator[Reason]:
    """Another process was on the measurement's GPU. Processes are counted: a container does not know their ids."""
    if measurement.spec.device_kind == "cpu":
        return
    seen = measurement.telemetry
    before = None if seen is None else seen.facts.get("gpu_processes")
    during = None if seen is None else seen.gauges.get("gpu_processes")
    if before is None or during is None or during.max < 1:
        yield replace(_suspect("contaminated", "who else used the GPU could not be observed"), lasting=True)
        return
    ours = 1 if measurement.control is None else 2
    if during.max > before + ours:
        text = f"{during.max - before - ours:.0f} other processes came to the GPU while it was measured"
        yield _invalid("contaminated", text)
    elif before > 0:
        yield _suspect("contaminated", f"{before:.0f} other processes were on the GPU already before ours")


def throttled(measurement: Measurement) -> Iterator[Reason]:
    """The device ran slower than it can: too hot, too little power, or held down."""
    seen = measurement.telemetry
    if seen is None:
        return
    held = {flag: count for flag, count in seen.flags.items() if flag not in _HARMLESS}
    if held:
        found = ", ".join(f"{flag} in {count} of {seen.readings} readings" for flag, count in held.items())
        reason = _suspect("throttled", f"the GPU's clocks were held down: {found}")
        # A model that draws more power than the GPU may have does so every time.
        yield replace(reason, lasting=set(held) == {"software power cap"})
    # Before and after the timed windows the device idles, and clocks are low.
    clock = None if measurement.timed_from is None else _clock(measurement, seen)
    if clock is not None and clock[0] < _CLOCK_SHARE * clock[1]:
        text = f"the clock was {clock[0] / 1e9:.2f} GHz in the mean, {clock[1] / 1e9:.2f} GHz are expected"
        if measurement.spec.device_kind == "cpu" or held or "clock_reasons" in seen.missing:
            yield _invalid("throttled", text)
        elif "application clock setting" not in seen.flags:
            text += ", and the driver gives no reason: is it locked (nvidia-smi -rgc)?"
            yield replace(_suspect("throttled", text), lasting=True)


def _clock(measurement: Measurement, seen: Telemetry) -> tuple[float, float] | None:
    """The device's mean clock and the expected one, in hertz; None where either is not known."""
    known = measurement.hardware
    found = seen.gauges.get("frequency_hz" if measurement.spec.device_kind == "cpu" else "gpu_sm_clock_hz")
    if known is None or found is None:
        return None
    if measurement.spec.device_kind == "cpu":
        expected = known.base_hz or (known.highest_hz and _ALL_BUSY_SHARE * known.highest_hz)
        is_telling = _rate(seen.counters.get("cpu_s")) >= _BUSY
    else:
        expected = min(filter(None, (known.sm_set_hz, known.sm_highest_hz)), default=None)
        is_telling = "idle" not in seen.flags
    return (found.mean, expected) if expected and is_telling else None


def _rate(counter: Grown | None) -> float:
    return 0.0 if counter is None else counter.rate


def impossibly_fast(measurement: Measurement) -> Iterator[Reason]:
    """More multiply-accumulates a second than the device can do: it was not all computed, or not all timed."""
    peak = limits.operations_per_s(measurement.spec.recipe, measurement.environment, measurement.hardware)
    if peak is None or measurement.macs is None:
        return
    for name, samples in _figures(measurement):
        if not samples:
            continue
        rate = 2 * measurement.macs * measurement.spec.batch_size / (float(np.median(samples)) / 1e9)
        if rate > peak:
            text = f"{rate / 1e12:.3g} Top/s ({name}), the device can do {peak / 1e12:.3g} at the very most"
            yield _invalid("implausible", text)


def beyond_bandwidth(measurement: Measurement) -> Iterator[Reason]:
    """More bytes a second than the device's memory and its caches can move: nobody read the weights."""
    share = roofline.bandwidth_share(measurement)
    if share is not None and share > limits.CACHES_TIMES:
        text = f"weights, input and output moved {share:.0f} times as fast as the device's memory can"
        yield _invalid("implausible", text)


def implausible(measurement: Measurement) -> Iterator[Reason]:
    """Outputs that cannot be, or that are better than they should."""
    answers = measurement.accuracy
    if not answers.finite:
        yield _invalid("implausible", "some outputs were NaN or infinite")
    if measurement.spec.repeat or answers.top1_correct is None or answers.baseline_top1_correct is None:
        return  # a repeat answers for a few images: too few for shares of right answers
    lowest, highest = statistics.wilson(answers.baseline_top1_correct, answers.samples)
    if answers.classes is not None and lowest <= 1 / answers.classes:
        text = (
            f"the fp32 model itself is no better than chance ({answers.classes} classes): it was not trained well"
        )
        yield _suspect("implausible", text)
    top1 = answers.top1_correct / answers.samples
    if top1 > highest:
        yield _suspect("implausible", f"top-1 {top1:.2%} is above the fp32 baseline's interval (to {highest:.2%})")


def accuracy_lost(measurement: Measurement) -> Iterator[Reason]:
    """The answers are not those of the model any more."""
    answers, allowed = measurement.accuracy, catalogue.tolerance(measurement.spec.recipe)
    is_first = measurement.spec.repeat == 0  # the others answer for a few images only
    if is_first and answers.top1_correct is not None and answers.baseline_top1_correct is not None:
        lost = answers.baseline_top1_correct - answers.top1_correct
        if lost > allowed.top1_drop * answers.samples:
            share = f"{lost} of {answers.samples} samples ({lost / answers.samples:.2%})"
            text = f"top-1 fell by {share}, {allowed.top1_drop:.2%} are allowed"
            # A single sample of a few decides nothing.
            yield _invalid("accuracy_lost", text) if lost > 1 else _suspect("accuracy_lost", text)
    agreement = answers.agreeing / answers.samples
    # The interval's end, so that a handful of samples does not decide.
    if statistics.wilson(answers.agreeing, answers.samples)[1] < allowed.agreement:
        text = f"agrees with fp32 on {agreement:.2%} of the samples, {allowed.agreement:.0%} are expected"
        yield _suspect("accuracy_lost", text)
    error, bound = answers.logits_relative_error, allowed.logits_error
    if error is not None and bound is not None and error > bound:
        text = f"logits are off the fp32 baseline's by {error:.1%}, {bound:.0%} are expected at most"
        yield _suspect("accuracy_lost", text)


#: Every rule, in the order in which reasons are shown.
RULES: tuple[Callable[[Measurement], Iterator[Reason]], ...] = (
    fallback,
    partial_fallback,
    too_few_samples,
    wide_interval,
    drift,
    end_to_end_sooner,
    held_up,
    unsettled_heap,
    contaminated,
    shared_cores,
    busy_partner,
    crowded_gpu,
    throttled,
    impossibly_fast,
    beyond_bandwidth,
    implausible,
    accuracy_lost,
)


def _figures(measurement: Measurement) -> tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]]:
    samples = measurement.samples
    return (("device", samples.device_ns), (_END_TO_END, samples.end_to_end_ns))


def _suspect(code: str, text: str) -> Reason:
    return Reason(code=code, level=Level.SUSPECT, text=text)


def _invalid(code: str, text: str) -> Reason:
    return Reason(code=code, level=Level.INVALID, text=text)
