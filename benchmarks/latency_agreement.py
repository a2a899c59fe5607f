"""Does the farm's latency agree with independent loops? Measured with all alive at once, in turns.

Three processes hold the same model. One times a window with the farm's own stopwatch, one with a bare loop
around the library's own call, one with `torch.utils.benchmark`, over the same artifact; windows take turns in
an order drawn at random. A set of three processes gives the median of the paired ratios of the windows' medians.
Two fresh processes differ by a percent or two however they measure (where their memory happens to lie), so many
sets are taken; the figures are their medians, with intervals over sets, and should be within 2 % of 1.

    python -m benchmarks.latency_agreement --windows 168 --processes 24 --batch-size 8
    python -m benchmarks.latency_agreement --recipes baseline,compile,onnxruntime,openvino --processes 12

"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import alternating
from benchmarks.figures import Figure, print_last
from farm.spec import JobSpec, Protocol, job

GOAL = 0.02


def bare_call(spec: JobSpec) -> Callable[[], Any]:
    """Nothing of the farm but weights, artifact and images (what is in them decides speed too)."""
    import secrets

    from farm import allocator, building, measuring
    from farm.settings import load

    settings = load()
    allocator.Layout(secrets.randbits(32)).draw()  # as the farm's own process
    made = building.materials(spec, settings, building.environment_of(spec, settings))
    images = measuring.distinct_inputs(building.test_part(spec, settings), spec)[0]
    return BARE[spec.recipe.runtime](made, images, spec)


def timer_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The same call, timed by `torch.utils.benchmark`."""
    import torch
    from torch.utils.benchmark import Timer

    call = bare_call(spec)
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())

    def window() -> list[int]:
        with torch.inference_mode():
            measured = timer.blocked_autorange(min_run_time=alternating.WINDOW_S)
        return [round(seconds * 1e9) for seconds in measured.times]

    return window


def bare_window(spec: JobSpec) -> Callable[[], list[int]]:
    """The same call in a loop."""
    import torch

    call = bare_call(spec)

    def window() -> list[int]:
        samples: list[int] = []
        end = time.perf_counter() + alternating.WINDOW_S
        with torch.inference_mode():
            while time.perf_counter() < end or len(samples) < alternating.CALLS:
                before = time.perf_counter_ns()
                call()
                samples.append(time.perf_counter_ns() - before)
        return samples

    return window


def _tensor(images: np.ndarray, spec: JobSpec) -> Any:
    import torch

    layout = torch.channels_last if spec.recipe.layout == "channels_last" else torch.contiguous_format
    return torch.tensor(images).to(memory_format=layout)


def _eager(made: Any, images: np.ndarray, spec: JobSpec) -> Callable[[], Any]:
    batch = _tensor(images, spec)
    model = made.workload.model()
    if spec.recipe.layout == "channels_last":
        import torch

        model = model.to(memory_format=torch.channels_last)
    return lambda: model(batch)


def _torchscript(made: Any, images: np.ndarray, spec: JobSpec) -> Callable[[], Any]:
    import torch

    batch = _tensor(images, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its deprecation is known
        model = torch.jit.load(str(made.artifact.folder / "model.pt"))
    return lambda: model(batch)


def _compile(made: Any, images: np.ndarray, spec: JobSpec) -> Callable[[], Any]:
    import torch._inductor

    batch = _tensor(images, spec)
    model = torch._inductor.aoti_load_package(str(made.artifact.folder / "model.pt2"))
    return lambda: model(batch)


def _onnxruntime(made: Any, images: np.ndarray, spec: JobSpec) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else its threads take the processors from the other process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    file = str(made.artifact.folder / "model.onnx")
    model = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: model.run(None, {"images": images})


def _openvino(made: Any, images: np.ndarray, spec: JobSpec) -> Callable[[], Any]:
    import openvino

    hint = {"fp32": "f32", "int8_static": "f32", "bf16": "bf16"}[spec.recipe.precision]
    model = openvino.Core().compile_model(
        made.artifact.folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint}
    )
    request = model.create_infer_request()
    batch = openvino.Tensor(images, shared_memory=True)
    return lambda: request.infer([batch], share_outputs=True)


BARE: Mapping[str, Callable[[Any, np.ndarray, JobSpec], Callable[[], Any]]] = {
    "eager": _eager,
    "torchscript": _torchscript,
    "compile": _compile,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def agreement(spec: JobSpec, windows: int, processes: int) -> list[Figure]:
    """Farm ÷ each of the loops for one spec, over this many rounds of windows and sets of processes."""
    ways = [(alternating.farm_window, spec), (bare_window, spec), (timer_window, spec)]
    count, context = -(-windows // processes), alternating.warm()
    # The first round warms up.
    by_processes = [alternating.rounds(ways, count + 1, seed, context)[1:] for seed in range(processes)]
    print(f"{spec.variant}, batch {spec.batch_size}, {spec.image_size} pixels, {windows} rounds of windows")
    figures = []
    for number, name in ((1, "bare loop"), (2, "torch.utils.benchmark")):
        ratios = np.array([np.median(medians[:, 0] / medians[:, number]) for medians in by_processes])
        median, low, high = alternating.interval(ratios)
        print("  median of each set of processes:", ", ".join(f"{ratio:.4f}" for ratio in ratios))
        text = f"{median:.4f} ({low:.4f} to {high:.4f})"
        print(f"  farm ÷ {name}: {text}", flush=True)
        named = f"{spec.recipe}: farm ÷ {name}"
        figures.append(Figure(name=named, result=text, goal=f"1 ± {GOAL}", reached=abs(median - 1) <= GOAL))
    return figures


def main() -> None:
    """Builds what is missing, measures, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--windows", type=int, default=168, help="of each kind, over all processes")
    arguments.add_argument("--processes", type=int, default=24, help="sets of fresh processes")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--recipes", default="baseline", help="joined by commas")
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--dataset", default="digits")
    given = arguments.parse_args()
    from farm.measuring import measure

    protocol = Protocol(name="once", paired=False, warmup_max_s=0.5, min_s=0.1, max_s=0.2, accuracy_samples=64)
    shared = {"model": given.model, "dataset": given.dataset, "batch_size": given.batch_size, "protocol": protocol}
    figures = []
    for recipe in given.recipes.split(","):
        spec = job(recipe=recipe, **shared)
        measure(spec)
        figures += agreement(spec, given.windows, given.processes)
    print_last(figures)


if __name__ == "__main__":
    main()
