"""torch.compile's Inductor with freezing, as an ahead-of-time package: built once, loaded at once.

Source of the method: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.errors import Unsupported
from farm.runtimes import Session, Support, Workload

SUPPORT = Support(
    summary="torch.compile's Inductor with freezing, as an ahead-of-time package",
    precisions=("fp32", "tf32", "amp", "bf16", "fp16"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    reasons=dict.fromkeys(("int8_static", "int8_dynamic"), "torch quantizes an exported graph only"),
)

FILE = "model.pt2"

#: Operators of the uncompiled model: a compiled graph calls none of them through the dispatcher.
UNCOMPILED = ("batch_norm", "native_batch_norm", "conv2d", "convolution", "relu", "relu_", "cat")


def build(workload: Workload, folder: Path) -> Mapping[str, Any]:
    """Exports the whole graph (there are no graph breaks: export refuses them) and compiles it."""
    import torch
    import torch._inductor
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    from farm import torch_session

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unsupported("compile needs a C++ compiler: apt-get install g++") from error
    model = torch_session.prepared(workload, cache_casts=False)
    with torch.no_grad():
        program = torch.export.export(model, (torch_session.example(workload),))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / FILE), inductor_configs={"freezing": True}
        )
    return {"graph_breaks": 0, "graph_nodes": len(program.graph.nodes)}


def load(workload: Workload, folder: Path | None) -> Session:
    """The compiled package from its file."""
    import torch
    import torch._inductor

    from farm import torch_session

    assert folder is not None
    package = torch._inductor.aoti_load_package(str(folder / FILE))

    class CompiledSession(torch_session.TorchSession):
        """A compiled graph."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """That the model's own operators no longer run, and the dtype of the buffers that replace them."""
            watch = self.watch(on_device)
            uncompiled = watch.dtypes(*UNCOMPILED)
            return {
                "dtype_asked": torch_session.asked_dtype(workload),
                "dtype": next(iter(watch.dtypes("empty")), "none seen"),
                "buffers": watch.dtypes("empty"),
                "compiled": not uncompiled,
                "uncompiled_operators": sum(uncompiled.values()),
                "channels_last": on_device.is_contiguous(memory_format=torch.channels_last),
            }

    return CompiledSession(workload, package)
