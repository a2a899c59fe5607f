"""`python -m farm`: measure one job here and now, list what can be measured, look at the host."""

from __future__ import annotations

import ctypes.util
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from farm import allocator, catalogue, datasets, doctor, locks, models, neighbours, plugins, recipe, statistics
from farm import weights as given_weights
from farm.artifacts import ArtifactCache
from farm.devices import nvml
from farm.errors import FarmError, OutOfMemory, Unsupported, unknown
from farm.measurement import Measurement, Outcome
from farm.settings import load, preloaded
from farm.spec import JobSpec, changed, job, preset, validated
from farm.spec import eval_samples as samples_of
from farm.verdict import judge

HELP = """Measure one job here and now, list what can be measured, look at the host.

Exit codes: 0 it was measured, or is unsupported or out of memory, which are results; 1 it failed; 2 usage.

Examples:

  python -m farm recipes

  python -m farm measure --recipe channels_last+amp --batch-size 8

  python -m farm doctor
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help=HELP,
    pretty_exceptions_enable=False,
)
cache = typer.Typer(
    no_args_is_help=True, help="What was built: list it, or remove it.", pretty_exceptions_enable=False
)
app.add_typer(cache, name="cache")

USAGE = 2
#: Whoever waits longer for the device is told why.
_PATIENCE_S = 1.0
_WAITING = "waiting: another farm or command of this host measures on these processors or this GPU ..."


class ProtocolName(StrEnum):
    """The presets of `--protocol`."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


@app.command()
def measure(
    model: Annotated[str, typer.Option(help="Model; see `python -m farm models`.")] = "densenet121",
    recipe: Annotated[str, typer.Option(help="Way to run it; see `python -m farm recipes`.")] = "baseline",
    batch_size: Annotated[str, typer.Option(help="Images per call.")] = "1",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda.MODEL.")] = "cpu",
    dataset: Annotated[str, typer.Option(help="digits, synthetic or image_folder:NAME.")] = "digits",
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels; 64 for digits and 224 otherwise where not given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Processors to use; all where not given.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="pretrained|FILE", help="Published weights, or a file; trained here if not given."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the sha256 of the file of weights must be.")
    ] = None,
    eval_samples: Annotated[
        str | None, typer.Option(metavar="N|all", help="Test images of the accuracy pass.")
    ] = None,
    protocol: Annotated[ProtocolName, typer.Option(help="How long to measure.")] = ProtocolName.QUICK,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the protocol; may be repeated."),
    ] = None,
) -> None:
    """Measure one job in this process: a table for people, one JSON object on the last line.

    Examples:

      python -m farm measure --recipe channels_last+amp --batch-size 8

      python -m farm measure --recipe 'pruning(0.3)+int8_static+openvino'    # quoted: parentheses are the shell's

      python -m farm measure --recipe amp --set min_calls=100 --eval-samples 64

      python -m farm measure --model resnet18 --weights my.safetensors --sha256 HEX --dataset image_folder:mine

      python -m farm measure --recipe onnxruntime --dataset synthetic --image-size 224 | tail -1 | jq .latency_s
    """
    from farm.measuring import measure as measure_job

    given, file = given_weights.named(weights, sha256)
    samples = [] if eval_samples is None else [f"accuracy_samples={samples_of(eval_samples)}"]
    spec = job(
        model=model,
        recipe=recipe,
        batch_size=batch_size,  # type: ignore[arg-type]  # validated there, with an error for people
        device=device,
        dataset=dataset,
        image_size=image_size,
        threads=threads,
        weights=given,
        protocol=changed(preset(protocol.value)[0], [*(set_ or ()), *samples]),
    )
    if spec.weights is not None and file is not None:
        given_weights.keep(spec.weights, file, load().weights)
    _preload(spec)
    gpu = _see_one_gpu(spec)
    try:
        with _alone(spec.threads, gpu):
            typer.echo(f"measuring {spec.variant}, batch {spec.batch_size}, on {spec.device} ...", err=True)
            measured = measure_job(spec)
    except (Unsupported, OutOfMemory) as error:
        outcome = outcome_of(error)
        Console(stderr=True).print(f"{outcome}: {error}", markup=False, highlight=False)
        print(json.dumps({"outcome": outcome, "reason": str(error), "spec": spec.model_dump(mode="json")}))
        return
    summary = summarize(measured)
    Console().print(_table(summary))
    print(json.dumps(summary))


def _preload(spec: JobSpec) -> None:
    """Starts this process anew where the recipe's allocator must be there from the beginning."""
    wanted = allocator.variables(spec.recipe.allocator)
    preload = wanted.get("LD_PRELOAD")
    # Only once: where it cannot be loaded, another try would be no better.
    if preload and preloaded() != preload:
        sys.stdout.flush()
        command = [sys.executable, "-m", "farm", *sys.argv[1:]]
        os.execve(command[0], command, {**os.environ, **wanted})  # noqa: S606  # no shell is wanted


@contextmanager
def _alone(threads: int | None = None, gpu: nvml.Gpu | None = None) -> Iterator[None]:
    """Holds processors and a GPU as a farm's worker does; waits while another measures there, and says so.

    Args:
        threads: how many processors; None is all of them.
        gpu: the GPU, where one is used.

    Raises:
        BadInput: more processors are asked for than there are.
        FarmError: the directory of the locks cannot be used.
    """
    waiting = threading.Timer(_PATIENCE_S, typer.echo, [_WAITING], {"err": True})
    uuid, whole = (None, None) if gpu is None else (gpu.uuid, gpu.facts.part_of)
    hold = locks.hold(load().lock_dir, threads or len(locks.processors()), uuid, part_of=whole)
    with ExitStack() as held:
        waiting.start()
        try:
            processors = held.enter_context(hold).processors
        finally:
            waiting.cancel()
        os.sched_setaffinity(0, processors)
        yield


def _see_one_gpu(spec: JobSpec) -> nvml.Gpu | None:
    """Only the GPU that is described can be used: CUDA may count them in another order than the driver.

    Returns:
        The GPU; None for a CPU, and where there is none.

    Raises:
        BadInput: another model is asked for than there are.
    """
    there = nvml.among(nvml.gpus(), load().visible_gpu) if spec.device_kind == "cuda" else ()
    found = [gpu for gpu in there if spec.device in ("cuda", f"cuda.{gpu.model}")]
    if there and not found:
        raise unknown("GPU", spec.device, ["cuda", *(f"cuda.{gpu.model}" for gpu in there)])
    if not found:
        return None
    os.environ["CUDA_VISIBLE_DEVICES"] = found[0].uuid
    return found[0]


@app.command(hidden=True)
def build(spec: Annotated[str, typer.Option(help="A JobSpec as JSON; `-` reads it from standard input.")]) -> None:
    """Build what a job needs and does not find in the cache; how that ended is JSON on the last line."""
    from farm.building import build as build_job

    text = sys.stdin.read() if spec == "-" else spec
    ended: dict[str, Any] = {"outcome": Outcome.OK}
    try:
        ended["build_spent_s"] = build_job(validated(JobSpec, json.loads(text)), load())
    except FarmError as error:
        ended = {"outcome": outcome_of(error), "reason": str(error)}
    print(json.dumps(ended))


@app.command()
def recipes() -> None:
    """List the choices that recipes are made of, whether each can run here, and the datasets.

    A recipe is at most one choice of each axis, joined by +:

      python -m farm measure --recipe channels_last+amp+compile
    """
    # Folded and not cut: a choice is there to be copied.
    columns = [Column(name, overflow="fold") for name in ("axis", "choice", "what it does", "here")]
    table = Table(*columns, title="Recipes: at most one choice of each axis")
    table.add_row("", recipe.BASELINE, "fp32, NCHW, eager, pinned malloc", "yes")
    described = catalogue.described()
    devices = ("cpu", "cuda") if nvml.gpus() else ("cpu",)
    for axis in recipe.AXES:
        for name in (choice for choice, of in catalogue.choices().items() if of == axis):
            rows = {text: what for text, what in described.items() if text.partition("(")[0] == name}
            for text, what in rows.items():
                table.add_row(axis, text, what, catalogue.why_not(text, devices) or "yes")
            if not rows:
                table.add_row(axis, name, "cannot be loaded (see above)", "no")
    console = Console()
    console.print(table)
    console.print(f"models: {len(models.names())}, listed by python -m farm models")
    for name, plugin in plugins.loadable(datasets.__name__).items():
        console.print(f"dataset {name}: {plugin.SUPPORT.summary}")


@app.command("models")
def list_models() -> None:
    """List the models by where they come from: torchvision, files of this project, installed packages.

    Examples:

      python -m farm models

      python -m farm measure --model mobilenet_v3_small --image-size 64
    """
    console = Console()
    for source, found in models.by_source().items():
        console.print(f"{source} ({len(found)}): " + ", ".join(found), markup=False, highlight=False)
    for name in models.ambiguous():
        Console(stderr=True).print(f"warning: {models.clash(name)}", markup=False, highlight=False)


@app.command("doctor")
def examine_host(
    should_measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Also compute for about 20 s, to see neighbours disturb."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The same as one JSON object on the last line.")] = False,
) -> None:
    """Say what on this host makes numbers worse, what mends it, and how many workers to start.

    Run it while nothing else runs here.

    Examples:

      python -m farm doctor

      python -m farm doctor --no-measure --json | tail -1 | jq '.findings[] | select(.level == "warning")'
    """
    processors = tuple(sorted(os.sched_getaffinity(0)))
    host = _host(processors)
    findings = doctor.examine(host)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for finding in findings:
        console.print(_told(finding))
    told: dict[str, Any] = {"findings": [asdict(finding) for finding in findings]}
    if should_measure:
        is_busy = doctor.is_busy(findings)
        if is_busy:
            console.print("Others use this host now: what follows is about them, too.")
        usable = doctor.usable(host)
        with _alone():
            found = [neighbours.measure(usable, threads) for threads in neighbours.shares(len(usable))]
        at_most = None if usable == processors else len(usable)
        workers = neighbours.advice(found, is_busy, at_most)
        told |= {"neighbours": [asdict(one) for one in found], "workers": workers}
        for one in found:
            console.print(str(one))
        console.print(f"Workers to start here: {told['workers']}")
    if as_json:
        print(json.dumps(told))


def _host(processors: tuple[int, ...]) -> doctor.Host:
    """This host, with the tools that are installed on it."""
    there = {name for name in doctor.COMPILERS if shutil.which(name)}
    if ctypes.util.find_library(doctor.JEMALLOC):
        there.add(doctor.JEMALLOC)
    return doctor.Host(processors=processors, scratch=load().scratch, gpus=nvml.states(), tools=frozenset(there))


def _told(finding: doctor.Finding) -> str:
    """A finding on a line, and beneath it what it does and what mends it."""
    lines = [
        f"{finding.level:<8} {finding.check}: {finding.found}",
        finding.effect,
        finding.mend and f"→ {finding.mend}",
    ]
    return "\n         ".join(filter(None, lines))


@cache.command("list")
def cache_list() -> None:
    """List what was built: trained weights, reference answers, exported, quantized and compiled models.

    Example:

      python -m farm cache list
    """
    found = sorted(ArtifactCache(load().artifacts).entries(), key=lambda entry: (entry.kind, -entry.size_bytes))
    table = Table("kind", "artifact", "MiB", "took", "facts", title="Built artifacts")
    for entry in found:
        took = "" if entry.build_s is None else f"{entry.build_s:.1f} s"
        facts = ", ".join(
            f"{name} {value}" for name, value in entry.facts.items() if isinstance(value, (int, str))
        )
        table.add_row(entry.kind, entry.key[-24:][:12], f"{entry.size_bytes / 2**20:,.1f}", took, facts)
    console = Console()
    console.print(table)
    console.print(f"{len(found)} artifacts, {sum(entry.size_bytes for entry in found) / 2**20:,.1f} MiB")


@cache.command("clear")
def cache_clear(
    kind: Annotated[
        str | None, typer.Argument(help="Only these: weights, reference, a compression's or a runtime's.")
    ] = None,
) -> None:
    """Remove what was built; it is built again when it is needed. What is being built now stays.

    Examples:

      python -m farm cache clear

      python -m farm cache clear onnxruntime
    """
    whole = ArtifactCache(load().artifacts)
    kinds = sorted({entry.kind for entry in whole.entries()})
    if kind is not None and kind not in kinds:
        raise unknown("kind of artifact", kind, kinds)
    count, size = whole.clear(kind)
    print(f"{count} artifacts removed, {size / 2**20:,.1f} MiB")


def outcome_of(error: FarmError) -> Outcome:
    """How an attempt ended that raised this."""
    if isinstance(error, Unsupported):
        return Outcome.UNSUPPORTED
    return Outcome.OUT_OF_MEMORY if isinstance(error, OutOfMemory) else Outcome.ERROR


def summarize(measured: Measurement) -> dict[str, Any]:
    """What one measurement says: figures in base units, with verdict, evidence and environment."""
    verdict = judge(measured)
    batch = measured.spec.batch_size
    device_s = [ns / 1e9 for ns in measured.samples.device_ns]
    end_to_end_s = [ns / 1e9 for ns in measured.samples.end_to_end_ns]
    answers, memory = measured.accuracy, measured.memory
    return {
        "outcome": Outcome.OK,
        "verdict": verdict.level,
        "reasons": [str(reason) for reason in verdict.reasons],
        "model_variant": measured.spec.variant,
        "latency_s": {
            "device": statistics.summarize(device_s),
            "end_to_end": statistics.summarize(end_to_end_s),
        },
        "speedup": _speedup(measured),
        "throughput_samples_per_s": batch * len(device_s) / sum(device_s),
        "calls": {"device": len(device_s), "end_to_end": len(end_to_end_s)},
        "first_call_s": measured.first_call_s,
        "warmup_s": measured.warmup_s,
        "load_s": measured.load_s,
        "build_s": measured.build_s,
        "build_spent_s": measured.build_spent_s,
        "peak_memory_bytes": None if memory is None else memory.peak_bytes - memory.floor_bytes,
        "model_size_bytes": measured.model_size_bytes,
        "parameters": measured.parameters,
        "macs": measured.macs,
        "accuracy": {
            "samples": answers.samples,
            "top1": None if answers.top1_correct is None else answers.top1_correct / answers.samples,
            "top1_interval": None
            if answers.top1_correct is None
            else statistics.wilson(answers.top1_correct, answers.samples),
            "agreement_top1": answers.agreeing / answers.samples,
            "logits_relative_error": answers.logits_relative_error,
        },
        "energy": None
        if measured.energy is None
        else {
            "per_sample_j": measured.energy.per_sample_j,
            "mean_w": measured.energy.mean_w,
            "scope": measured.energy.scope,
        },
        "page_faults_per_call": measured.usage.faults_per_call,
        "evidence": measured.evidence,
        "missing": measured.missing,
        "spec": measured.spec.model_dump(mode="json"),
        "environment": measured.environment.model_dump(mode="json"),
    }


def _speedup(measured: Measurement) -> dict[str, Any] | None:
    """The paired speed-up over the live control; None where there was none."""
    found = statistics.paired_ratio([measured.speedups])
    if found is None or measured.control is None:
        return None
    ratio, low, high = found
    rounds = len(measured.speedups)
    return {"ratio": ratio, "interval": [low, high], "rounds": rounds, "control": str(measured.control.recipe)}


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['model_variant']}, batch {summary['spec']['batch_size']}", show_header=False)
    for figure in ("device", "end_to_end"):
        latency = summary["latency_s"][figure]
        shown = [f"{name} {_ms(latency[name])}" for name in ("p50", "p90", "p99", "mean")]
        table.add_row(f"latency, {figure.replace('_', ' ')}", ", ".join(shown))
    table.add_row("throughput", f"{summary['throughput_samples_per_s']:,.1f} samples/s")
    if summary["speedup"] is not None:
        table.add_row("speed-up", _faster(summary["speedup"]))
    build_s = summary["build_s"]
    costs = f"load {summary['load_s']:.2f} s, first call {_ms(summary['first_call_s'])}"
    table.add_row("cost", costs if build_s is None else f"build {build_s:.1f} s, {costs}")
    table.add_row("memory", _memory(summary["peak_memory_bytes"]))
    table.add_row("model size", _size(summary))
    table.add_row("accuracy", _accuracy(summary["accuracy"]))
    if "note" in summary["evidence"]:
        table.add_row("note", summary["evidence"]["note"])
    table.add_row("verdict", ": ".join(filter(None, [str(summary["verdict"]), "; ".join(summary["reasons"])])))
    return table


def _faster(speedup: dict[str, Any]) -> str:
    low, high = speedup["interval"]
    times = f"{speedup['ratio']:.3f} times as fast as its control, {speedup['control']}"
    return f"{times} (95 % interval {low:.3f} to {high:.3f}, in one process)"


def _memory(peak_bytes: int | None) -> str:
    return "not measured" if peak_bytes is None else f"{peak_bytes / 2**20:,.1f} MiB above the process's floor"


def _size(summary: dict[str, Any]) -> str:
    macs = "" if summary["macs"] is None else f", {summary['macs'] / 1e9:,.2f} G multiply-accumulates per image"
    text = f"{summary['model_size_bytes'] / 2**20:,.2f} MiB, {summary['parameters'] / 1e6:,.2f} M parameters{macs}"
    done = summary["evidence"].get("compression")
    if done is None:
        return text
    before = f"{done['parameters_before'] / 1e6:,.2f} M parameters, {done['macs_before'] / 1e9:,.2f} G before"
    return f"{text} ({before}; {done['removed_channels']:,} of {done['channels_before']:,} channels removed)"


def _accuracy(answers: dict[str, Any]) -> str:
    agreement = f"agrees with fp32 on {answers['agreement_top1']:.2%} of {answers['samples']} samples"
    if answers["top1"] is None:
        return f"no real labels; {agreement}"
    low, high = answers["top1_interval"]
    return f"top-1 {answers['top1']:.2%} (95 % interval {low:.2%} to {high:.2%}); {agreement}"


def _ms(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds * 1e3:,.2f} ms"


def main() -> None:
    """The door: errors become messages and exit codes."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("farm").setLevel(logging.INFO)
    try:
        app()
    except FarmError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
