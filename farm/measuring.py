"""Measures one job: `measure` builds what is missing in a process of its own, then measures in this one."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from farm import allocator, building, control, datasets, devices, runtimes, scratch
from farm.datasets import Split
from farm.errors import CorruptArtifact, FarmError, OutOfMemory, Unsupported, memory_errors
from farm.measurement import Energy, Environment, Measurement, Memory, Outcome, Profile
from farm.passes import accuracy, energy, latency, profile
from farm.passes.memory import MemoryWatch
from farm.settings import Settings, load
from farm.spec import JobSpec
from farm.timing import Stopwatch

#: Distinct inputs together take at most so much.
_INPUT_BYTES = 2**30
#: A repeat answers for so many of the images that were timed, and for a whole batch.
_FEW = 16
_MAX_REASON_CHARS = 500


def measure(spec: JobSpec, settings: Settings | None = None) -> Measurement:
    """Measures one job here and now, without queue or database.

    Raises:
        Unsupported, OutOfMemory: this host or device cannot; that is the result.
        FarmError: something is missing or wrong; the message says what to do.
    """
    settings = settings or load()
    _require_allocator(spec)
    built_s = _built(spec, settings)
    try:
        return _with_or_without_control(spec, settings, built_s)
    except CorruptArtifact:  # damaged or deleted since it was looked at
        return _with_or_without_control(spec, settings, built_s + _built(spec, settings))


def _with_or_without_control(spec: JobSpec, settings: Settings, built_s: float) -> Measurement:
    """Out of memory counts only when it happens without the control too."""
    try:
        return measure_here(spec, settings, built_s)
    except OutOfMemory:
        if not spec.protocol.paired:
            raise
    measured = measure_here(spec, settings, built_s, alone=True)
    # The heap still holds what the first try left.
    missing = {**measured.missing, "ram_usage": "told by a process of its own only, and this one had tried before"}
    return measured.model_copy(update={"memory": None, "missing": missing})


def _require_allocator(spec: JobSpec) -> None:
    """Passes where this process allocates as the recipe asks; a library for it loads only at the start."""
    allocator.require(spec.recipe.allocator)
    preload = allocator.variables(spec.recipe.allocator).get("LD_PRELOAD")
    if preload and allocator.in_use() != spec.recipe.allocator:
        raise FarmError(f"{spec.recipe.allocator} must be there from a process's start: set LD_PRELOAD={preload}")


def _built(spec: JobSpec, settings: Settings) -> float:
    """Seconds that building took; 0.0 where nothing was missing."""
    here = building.environment_of(spec, settings)
    if not building.needs_build(spec, settings, here):
        return 0.0
    began = time.monotonic()
    _build_apart(spec, settings)
    return time.monotonic() - began


def _build_apart(spec: JobSpec, settings: Settings) -> None:
    """A build leaves its traces in a process (memory, threads): it gets one of its own.

    What it says goes to our stderr; how it ended is the last line of its stdout.
    """
    command = [sys.executable, "-m", "farm", "build", "--spec", "-"]
    with scratch.folder(settings) as temporary:
        done = subprocess.run(
            command,
            input=spec.model_dump_json(),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=scratch.environment(settings, temporary),
        )
    try:
        ended = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise FarmError(f"The build ended with status {done.returncode}; what it said is above.") from None
    kinds = {Outcome.UNSUPPORTED: Unsupported, Outcome.OUT_OF_MEMORY: OutOfMemory, Outcome.ERROR: FarmError}
    if ended["outcome"] != Outcome.OK:
        raise kinds[ended["outcome"]](ended["reason"])


def measure_here(
    spec: JobSpec,
    settings: Settings,
    build_spent_s: float = 0.0,
    *,
    isolation: str = "spawn",
    alone: bool = False,
    start_control: control.Starter = control.spawn,
) -> Measurement:
    """Measures a job whose artifacts are built, in this process.

    Args:
        spec: what to measure.
        settings: where things live.
        build_spent_s: what this job's build phase took, to be stored with it.
        isolation: how this process began, `fork` or `spawn`; a forked one cannot tell its memory.
        alone: without the live control that the protocol wants, because both together had too little memory.
        start_control: how the control is begun; forking it needs a process that has computed nothing yet.

    Raises:
        Unsupported, OutOfMemory, FarmError: as `measure`.
    """
    allocator.apply(spec.recipe.allocator)
    with contextlib.ExitStack() as beside, memory_errors():
        live = None
        if spec.protocol.paired and not alone:
            # Before anything is computed here: only then it can be forked.
            live = beside.enter_context(control.living(start_control, spec, settings))
            # It has the same history as the cell then: loaded, warmed up, taking turns.
            live.load()
        return _measured(spec, settings, build_spent_s, isolation, live)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job, loaded: ready to be timed."""

    here: Environment
    device: devices.Device
    made: building.Materials
    test: Split
    #: Distinct batches, float32 NCHW.
    inputs: list[np.ndarray]
    session: runtimes.Session
    #: Of where things lie in this process's memory.
    layout_seed: int
    load_s: float
    #: None where this process cannot tell its memory.
    memory: MemoryWatch | None
    on_device: Stopwatch
    end_to_end: Stopwatch


def prepare(spec: JobSpec, settings: Settings, *, tell_memory: bool = False) -> Prepared:
    """Loads what a job needs; memory is watched from before the model on, where it is to be told.

    Raises:
        Unsupported, OutOfMemory, FarmError: as `measure`.
    """
    here = building.environment_of(spec, settings)
    device = devices.open_device(spec.device_kind, here.threads, here.device_uuid)
    layout_seed = secrets.randbits(32)
    layout = allocator.Layout(layout_seed)
    layout.draw()
    plugin = runtimes.module(spec.recipe.runtime)
    made = building.materials(spec, settings, here)
    test = building.test_part(spec, settings, made.weights.facts["classes"])
    inputs = distinct_inputs(test, spec)
    memory = MemoryWatch(device) if tell_memory else None
    began = time.perf_counter()
    session = plugin.load(made.workload, None if made.artifact is None else made.artifact.folder)
    load_s = time.perf_counter() - began
    on_device, end_to_end = latency.stopwatches(session, device, inputs, layout)
    return Prepared(
        here=here,
        device=device,
        made=made,
        test=test,
        inputs=inputs,
        session=session,
        layout_seed=layout_seed,
        load_s=load_s,
        memory=memory,
        on_device=on_device,
        end_to_end=end_to_end,
    )


def _measured(
    spec: JobSpec, settings: Settings, build_spent_s: float, isolation: str, live: control.LiveControl | None
) -> Measurement:
    started_at = time.time()
    ready = prepare(spec, settings, tell_memory=isolation == "spawn")
    made = ready.made
    first_call_s = ready.on_device.once()
    ready.end_to_end.once()
    taken = None if ready.memory is None else ready.memory.read()
    timed = latency.run(ready.on_device, ready.end_to_end, spec.protocol, live, seed=int(spec.key[:8], 16))
    used, unmetered = _energy(ready.on_device, spec, ready.here)
    answers = accuracy.run(ready.session, *_asked(ready, spec), batch_size=spec.batch_size)
    evidence = _evidence(ready.session, ready.on_device.inputs[0])
    profiled, unprofiled = _profiled(ready.session, ready.device, ready.on_device.inputs[0], spec)
    return Measurement(
        spec=spec,
        environment=ready.here,
        started_at=started_at,
        ended_at=time.time(),
        isolation=isolation,
        samples=timed.samples,
        timed_from=timed.timed_from,
        timed_until=timed.timed_until,
        control=timed.control,
        usage=timed.usage,
        contention=timed.contention,
        hardware=devices.hardware(ready.here.device_uuid),
        energy=used,
        memory=taken,
        accuracy=answers,
        first_call_s=first_call_s,
        warmup_s=timed.warmup_s,
        warmup_steady=timed.warmup_steady,
        load_s=ready.load_s,
        build_s=made.build_s,
        build_spent_s=build_spent_s,
        model_size_bytes=made.model_size_bytes,
        parameters=made.cost["parameters"],
        macs=made.cost["macs"],
        evidence={**_provenance(ready, spec), **evidence},
        profile=profiled,
        missing=_missing(ready, spec, timed, taken) | unmetered | unprofiled,
    )


def _asked(ready: Prepared, spec: JobSpec) -> tuple[Split, np.ndarray]:
    """The images of the accuracy pass, and the baseline's logits for them.

    A cell's first repeat takes the whole test part; the others, which load the same artifact, a few of the images
    that were timed: enough to see that they answer alike.
    """
    reference = ready.made.reference_logits
    if spec.repeat == 0:
        return ready.test, reference
    few = np.arange(min(len(ready.test.images), len(ready.inputs) * spec.batch_size, max(_FEW, spec.batch_size)))
    return datasets.drawn(ready.test, few), reference[few]


def _evidence(session: runtimes.Session, on_device: Any) -> dict[str, Any]:
    """What the runtime observed, where it can be stored."""
    found = session.evidence(on_device)
    try:
        stored: dict[str, Any] = json.loads(json.dumps(dict(found), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FarmError(f"The runtime's evidence cannot be stored as JSON ({error}): {found!r:.200}") from None
    return stored


def _profiled(
    session: runtimes.Session, device: devices.Device, on_device: Any, spec: JobSpec
) -> tuple[Profile | None, dict[str, str]]:
    """The profile of a cell's first repeat, or why there is none. What was timed stands without it."""
    if spec.repeat or not spec.protocol.profile:
        return None, {}
    try:
        return profile.run(session, device, on_device, on_gpu=spec.device_kind == "cuda"), {}
    except Exception as error:
        # Broad: whatever a profiler raises costs the profile and nothing else.
        return None, {"profile": " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON_CHARS]}


def _provenance(ready: Prepared, spec: JobSpec) -> dict[str, object]:
    """Where weights and artifact come from, where they lie, and how the recipe's arithmetic is done here."""
    made = ready.made
    known: dict[str, object] = {"weights": made.weights.facts["origin"], "layout_seed": ready.layout_seed}
    if spec.recipe.allocator == "jemalloc" or allocator.in_use() != "glibc":
        asked = "jemalloc" if spec.recipe.allocator == "jemalloc" else "glibc"
        known |= {"allocator_asked": asked, "allocator": allocator.in_use()}
    for artifact in made.built:
        if "rebuilt_because" in artifact.facts:
            known["rebuilt_because"] = artifact.facts["rebuilt_because"]
    if made.compressed is not None:
        known["compression"] = _compressed(made.compressed.facts)
    if made.artifact is not None:
        known["build"] = dict(made.artifact.facts)
        if "graph_breaks" in made.artifact.facts:
            known["graph_breaks"] = made.artifact.facts["graph_breaks"]
    if spec.recipe.precision == "amp":
        known["amp"] = ready.device.amp_evidence()
    return known


def _compressed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a compression did, and what it left of the model."""
    before, after = facts["cost_before"], facts["cost"]
    others = {name: fact for name, fact in facts.items() if name not in ("cost", "cost_before")}
    return {
        **others,
        "parameters": after["parameters"],
        "parameters_before": before["parameters"],
        "macs": after["macs"],
        "macs_before": before["macs"],
        "removed_channels": before["channels"] - after["channels"],
        "channels_before": before["channels"],
    }


def _energy(watch: Stopwatch, spec: JobSpec, here: Environment) -> tuple[Energy | None, dict[str, str]]:
    """The energy pass, and why there is none."""
    try:
        return energy.run(watch, spec, here), {}
    except Unsupported as error:
        return None, {"energy": str(error)}


def _missing(ready: Prepared, spec: JobSpec, timed: latency.Latency, taken: Memory | None) -> dict[str, str]:
    """Why metrics are empty that this job could not have."""
    test = ready.test
    reasons = {"ram_usage": "told by a cell's first repeat"} if ready.memory is None else ready.memory.missing
    if spec.device_kind != "cpu" and (why := _no_vram(taken)):
        reasons = {**reasons, "vram_usage": why}
    if timed.contention is None:
        reasons["contention"] = "cannot be told by this kernel"
    if spec.protocol.paired and timed.control is None:
        reasons["control"] = "the cell and its control together had too little memory"
    if test.labels is None:
        reasons["accuracy_top1"] = reasons["accuracy_top5"] = f"{spec.dataset} has no real labels"
    elif len(test.classes) <= accuracy.TOO_FEW_FOR_TOP5:
        reasons["accuracy_top5"] = f"{spec.dataset} has only {len(test.classes)} classes"
    if spec.device_kind == "cpu":
        reasons["vram_usage"] = reasons["gpu_utilization"] = "measured on a CPU"
    else:
        reasons["gpu_utilization"] = "only a worker watches it"
    return reasons


def _no_vram(taken: Memory | None) -> str:
    """Why a GPU's memory is not told; empty where it is."""
    if taken is None:
        return "told by a cell's first repeat"
    if taken.vram_process_bytes is None and taken.vram_allocator_bytes is None:
        return "the driver does not tell, or others left the GPU meanwhile"
    return ""


def distinct_inputs(test: Split, spec: JobSpec) -> list[np.ndarray]:
    """Different batches of the job's size, float32 NCHW, made from the test images."""
    batch_bytes = spec.batch_size * 3 * spec.image_size**2 * 4
    count = max(1, min(spec.protocol.distinct_inputs, _INPUT_BYTES // batch_bytes))
    indices = np.arange(count * spec.batch_size) % len(test.images)
    return [
        accuracy.filled(test.images[np.unique(chosen)], spec.batch_size)
        for chosen in indices.reshape(count, spec.batch_size)
    ]
