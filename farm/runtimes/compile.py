"""torch.compile's Inductor with freezing, as an ahead-of-time package: built once, loaded at once.

Source of the method: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import contextlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from farm.errors import Unsupported
from farm.runtimes import Mode, Session, Support, Workload, _cuda_toolkit

SUPPORT = Support(
    summary="torch.compile's Inductor with freezing, as an ahead-of-time package",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16", "int8_static"),
    layouts=("nchw", "channels_last"),
    modes={
        "max-autotune": Mode(summary="the same, with the fastest of several kernels for each operator"),
        "reduce-overhead": Mode(
            summary="compiled in the measuring process and replayed as a CUDA graph",
            devices=("cuda",),
            is_built=False,
        ),
    },
    only_on={"int8_static": ("cpu",)},
    requires=("torch",),
    requires_for={"int8_static": ("torchao",)},
    reasons={"int8_dynamic": "torchao quantizes the Linear layers of an eager model only"},
)

FILE = "model.pt2"

#: A call of one of torch's own kernels in the compiled graph's source.
_CALL = re.compile(r"aoti_torch_(?:cpu|cuda)_+(\w*(?:conv|linear|mm)\w*)\(")

#: Quantized activations have no sign.
DTYPES = {"uint8": "int8"}

#: What a compiled graph calls through the dispatcher. On a CPU its convolutions make their buffers so; on a GPU it
#: makes its own, and convolutions (torch/csrc/inductor/aoti_torch, `aoti_torch_empty_strided` and the C shims).
COMPILED = ("empty", "empty_strided", "_convolution")

#: Operators of the uncompiled model: a compiled graph calls none of them through the dispatcher.
UNCOMPILED = ("batch_norm", "native_batch_norm", "conv2d", "convolution", "relu", "relu_", "cat")


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Exports the whole graph (there are no graph breaks: export refuses them) and compiles it."""
    import torch
    import torch._inductor

    _require_compiler()
    with torch.no_grad(), warnings.catch_warnings(), _toolkit(workload.device):
        # Of the compiler's own code.
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        program, facts = _exported(workload)
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / FILE), inductor_configs=_options(workload)
        )
    return {"graph_breaks": 0, "graph_nodes": len(program.graph.nodes), **facts, **_compiled(Path(path))}


def _require_compiler() -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unsupported("compile needs a C++ compiler: apt-get install g++") from error


def _toolkit(device: str) -> AbstractContextManager[None]:
    """What C++ for this device is compiled with, beside the compiler."""
    return _cuda_toolkit.visible() if device == "cuda" else contextlib.nullcontext()


def _options(workload: Workload) -> dict[str, Any]:
    import torch._inductor

    if workload.recipe.mode is None:
        return {"freezing": True}
    # A package replays no CUDA graphs.
    found = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
    return {**found, "freezing": True}


def _exported(workload: Workload) -> tuple[Any, dict[str, Any]]:
    """The graph to compile, and facts about it."""
    import torch

    from farm import torch_session

    if workload.recipe.precision == "int8_static":
        return _quantized(workload)
    model = torch_session.prepared(workload, cache_casts=False)
    return torch.export.export(model, (torch_session.example(workload),)), {}


def _quantized(workload: Workload) -> tuple[Any, dict[str, Any]]:
    """The exported graph with weights and activations in 8 bits, calibrated on training images."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as inductor

    from farm import torch_session

    example = torch_session.example(workload)
    graph = torch.export.export(torch_session.prepared(workload), (example,)).module()
    _tell_calls_apart(graph)
    quantizer = inductor.X86InductorQuantizer()
    quantizer.set_global(inductor.get_default_x86_inductor_quantization_config())
    observed = prepare_pt2e(graph, quantizer)
    images, size = workload.calibration(), workload.shape[0]
    for start in range(0, len(images), size):
        observed(torch_session.to_device(workload, torch.from_numpy(images[start : start + size])))
    program = torch.export.export(convert_pt2e(observed), (example,))
    return program, {"calibration_samples": len(images)}


def _tell_calls_apart(graph: Any) -> None:
    """Gives each call of a module that is called more than once (ResNet's ReLU) a path of its own.

    torchao's quantizer takes nodes of one path for one call, and refuses those with several outputs.
    """
    calls: Counter[Any] = Counter()
    for node in graph.graph.nodes:
        stack = dict(node.meta.get("nn_module_stack") or {})
        if node.op == "call_function" and stack:
            last = list(stack)[-1]
            path, kind = stack[last]
            calls[path, node.target] += 1
            if calls[path, node.target] > 1:
                node.meta["nn_module_stack"] = stack | {last: (f"{path}@{calls[path, node.target]}", kind)}


def _compiled(package: Path) -> dict[str, Any]:
    """What the compiled graph's own source calls: fused loops, and convolutions by kind."""
    with zipfile.ZipFile(package) as archive:
        sources = [
            archive.read(name).decode(errors="replace") for name in archive.namelist() if name.endswith(".cpp")
        ]
    calls = Counter(found for text in sources for found in _CALL.findall(text))
    int8 = sum(times for name, times in calls.items() if name.startswith("qconv"))
    exact = sum(times for name, times in calls.items() if "conv" in name) - int8
    return {"compiled_regions": 1, "convolutions_compiled": {"int8": int8, "other": exact}}


def load(workload: Workload, folder: Path | None) -> Session:
    """The compiled package from its file or, where a mode keeps none, the model compiled here."""
    return _compiled_here(workload) if folder is None else _packaged(workload, folder / FILE)


def _packaged(workload: Workload, file: Path) -> Session:
    import torch
    import torch._inductor

    from farm import torch_session

    counted = _compiled(file)["convolutions_compiled"]

    class PackagedSession(torch_session.TorchSession):
        """A compiled graph."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """That the model's own operators no longer run, and the dtype of the buffers that replace them."""
            watch = self.watch(on_device)
            uncompiled, buffers = watch.dtypes(*UNCOMPILED), watch.dtypes(*COMPILED)
            found = {
                "dtype_asked": torch_session.asked_dtype(workload),
                "dtype": next((DTYPES.get(dtype, dtype) for dtype in buffers), "none seen"),
                "buffers": buffers,
                "compiled": not uncompiled,
                "uncompiled_operators": sum(uncompiled.values()),
                "matmul_precision": torch.backends.cuda.matmul.fp32_precision,
                "channels_last": on_device.is_contiguous(memory_format=torch.channels_last),
            }
            if workload.recipe.precision == "int8_static":
                found |= {"int8_convolutions": counted["int8"], "exact_convolutions": counted["other"]}
            return found

    return PackagedSession(workload, torch._inductor.aoti_load_package(str(file)))


def _compiled_here(workload: Workload) -> Session:
    import torch
    import torch._inductor
    from torch._inductor.compile_fx import compile_fx

    from farm import torch_session

    _require_compiler()
    if workload.device == "cuda":
        _cuda_toolkit.require_pythons_headers()
    options = {
        **torch._inductor.list_mode_options(workload.recipe.mode),
        "freezing": True,
        # Else what it cannot capture would run without a graph, with nothing but a log line.
        "triton.cudagraph_or_error": True,
    }
    regions: list[Counter[str]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        regions.append(Counter(_convolution_dtypes(graph)))
        return compile_fx(graph, inputs, config_patches=options)

    class CompiledSession(torch_session.TorchSession):
        """A graph that was compiled in this process."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """What the compiler was given: nothing else can run, for a part that it refuses is an error."""
            dtypes = sum(regions, Counter())
            return {
                "dtype_asked": torch_session.asked_dtype(workload),
                "dtype": next(iter(dict(dtypes.most_common())), "none seen"),
                "convolutions": dict(dtypes),
                "compiled": bool(regions),
                "compiled_regions": len(regions),
                "graph_breaks": max(0, len(regions) - 1),
                "channels_last": on_device.is_contiguous(memory_format=torch.channels_last),
            }

    call = torch.compile(torch_session.prepared(workload), backend=backend, fullgraph=True, dynamic=False)
    return CompiledSession(workload, call)


def _convolution_dtypes(graph: Any) -> list[str]:
    """The dtype of every convolution's output in a graph that is about to be compiled."""
    called = (node for node in graph.graph.nodes if node.op == "call_function" and "conv" in str(node.target))
    values = (node.meta.get("example_value") for node in called)
    return [str(value.dtype).removeprefix("torch.") for value in values if hasattr(value, "dtype")]
