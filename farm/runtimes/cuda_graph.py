"""A CUDA graph: the eager model's kernels captured once, then started all together by one call.

A graph reads its input from the buffer it was captured with. The copy of a call's input into that buffer,
on the device, is part of the call and of its time: whoever deploys a graph pays it too. The output lies in
a buffer of the graph as well, and the next call overwrites it.

A graph lives in the process that captured it, so there is no artifact: capturing is part of loading.
Source of the method: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.errors import Unsupported
from farm.runtimes import Session, Support, Workload

if TYPE_CHECKING:
    import torch

    from farm.torch_session import Watch

SUPPORT = Support(
    summary="the eager model's kernels captured in a CUDA graph, replayed by one call",
    devices=("cuda",),
    precisions=("fp32", "tf32", "amp", "bf16", "fp16"),
    layouts=("nchw", "channels_last"),
    requires=("torch",),
    reasons=dict.fromkeys(("int8_static", "int8_dynamic"), "torch quantizes an exported graph only"),
)

#: Calls before the capture: libraries choose their kernels and take their memory in the first ones.
WARM_UP_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A graph and the buffers it was captured with; they must live as long as it."""

    graph: torch.cuda.CUDAGraph
    input: torch.Tensor
    output: torch.Tensor
    #: The operators that ran while the stream was capturing.
    watch: Watch
    #: Whether the stream was capturing when they had run.
    was_capturing: bool

    def replay(self, images: torch.Tensor) -> torch.Tensor:
        """Copies the images into the graph's input, starts it, and gives its output."""
        self.input.copy_(images)
        self.graph.replay()
        return self.output


def load(workload: Workload, folder: Path | None) -> Session:
    """Captures the model.

    Raises:
        Unsupported: it does what cannot be captured, such as waiting for the device.
    """
    import torch

    from farm import torch_session

    # A cached cast would belong to the warm-up and not to the graph.
    model = torch_session.prepared(workload, cache_casts=False)
    try:
        with torch.inference_mode():
            captured = capture(model, torch_session.example(workload))
    except RuntimeError as error:
        if "captur" not in str(error).lower():
            raise
        raise Unsupported(f"the model cannot be captured in a CUDA graph: {str(error).splitlines()[0]}") from None

    class GraphSession(torch_session.TorchSession):
        """A replayed graph."""

        def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
            """What was captured, and that a call runs nothing else."""
            return {
                "dtype_asked": torch_session.asked_dtype(workload),
                **_evidence(captured, self.watch(on_device), is_replayed=_is_replayed(captured, on_device)),
                "matmul_precision": torch.backends.cuda.matmul.fp32_precision,
                "channels_last": captured.input.is_contiguous(memory_format=torch.channels_last),
            }

    return GraphSession(workload, captured.replay)


def capture(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Captured:
    """Captures one call of the model with these images as the graph's input buffer."""
    import torch

    from farm import torch_session

    _warm_up(model, images)
    graph, watch = torch.cuda.CUDAGraph(), torch_session.Watch()
    with torch.cuda.graph(graph), watch:
        output = model(images)
        was_capturing = torch.cuda.is_current_stream_capturing()
    return Captured(graph=graph, input=images, output=output, watch=watch, was_capturing=was_capturing)


def _warm_up(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
    """Calls it on a side stream, as it will be captured on one."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            model(images)
    torch.cuda.current_stream().wait_stream(side)


def _is_replayed(captured: Captured, images: torch.Tensor) -> bool:
    """Whether a replay writes the output anew: what is spoiled before it is whole after it."""
    import torch

    with torch.inference_mode():
        captured.output.fill_(torch.nan)
        return bool(torch.isfinite(captured.replay(images)).all())


def _evidence(captured: Captured, call: Watch, *, is_replayed: bool) -> Mapping[str, Any]:
    """The convolutions of the capture, and whether a call is nothing but its replay.

    Args:
        captured: the graph.
        call: the operators of one more call.
        is_replayed: whether a replay wrote the output.
    """
    from farm.torch_session import CONVOLUTIONS

    convolutions = captured.watch.dtypes(*CONVOLUTIONS)
    run_eagerly = sum(call.dtypes(*CONVOLUTIONS).values())
    return {
        "dtype": next(iter(convolutions), "none seen"),
        "convolutions": convolutions,
        "captured_operators": captured.watch.seen.total(),
        "operators_per_call": call.seen.total(),
        "compiled": captured.was_capturing and is_replayed and not run_eagerly,
    }
