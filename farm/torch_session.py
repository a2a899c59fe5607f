"""What the runtimes on torch share: laying out tensors, autocast, and watching what really ran."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farm.devices import cuda
from farm.precision import PRECISIONS
from farm.runtimes import Workload

#: Precisions that the model itself is cast to.
CAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Watch(TorchDispatchMode):
    """Counts the operators that reach torch's dispatcher, each with the dtype of its output."""

    #: Else those raise where they are watched, and who calls one may take another way then, as torchao does.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        dtype = str(output.dtype).removeprefix("torch.") if isinstance(output, torch.Tensor) else ""
        self.seen[(func.name().removeprefix("aten::").partition(".")[0], dtype)] += 1
        return output

    def dtypes(self, *names: str) -> dict[str, int]:
        """How often these operators ran in each dtype."""
        counts: collections.Counter[str] = collections.Counter()
        for (name, dtype), times in self.seen.items():
            if name in names:
                counts[dtype] += times
        return dict(counts.most_common())


#: The names under which a convolution reaches the dispatcher.
CONVOLUTIONS = ("conv2d", "_convolution", "convolution", "mkldnn_convolution", "cudnn_convolution")


class TorchSession:
    """A callable on tensors, with the layout of its recipe."""

    def __init__(self, workload: Workload, call: Callable[[torch.Tensor], torch.Tensor]) -> None:
        multiply_as_asked(workload)
        self.workload = workload
        self.module = call
        self.run = torch.inference_mode()(call)

    def to_device(self, host: np.ndarray) -> torch.Tensor:
        """The array on the device, in the recipe's memory format."""
        return to_device(self.workload, torch.from_numpy(host))

    def to_host(self, output: torch.Tensor) -> np.ndarray:
        """The logits as float32; waits for the device."""
        logits: np.ndarray = output.float().cpu().numpy()
        return logits

    def evidence(self, on_device: torch.Tensor) -> Mapping[str, Any]:
        """Operators and dtypes of one more call."""
        watch = self.watch(on_device)
        return {
            "dtype_asked": asked_dtype(self.workload),
            "dtype": next(iter(watch.dtypes(*CONVOLUTIONS)), "none seen"),
            "convolutions": watch.dtypes(*CONVOLUTIONS),
            "weight_dtypes": self.weight_dtypes(),
            "matmul_precision": torch.backends.cuda.matmul.fp32_precision,
            "batch_norms": sum(watch.dtypes("batch_norm", "native_batch_norm").values()),
            "channels_last": on_device.is_contiguous(memory_format=torch.channels_last),
        }

    def weight_dtypes(self) -> dict[str, int]:
        """How many values the model has in each dtype; of a frozen graph, among its constants."""
        module = self.module
        if isinstance(module, torch.jit.ScriptModule):
            found = [node.t("value") for node in module.graph.nodes() if _is_tensor_constant(node)]
        else:
            found = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
        counts: collections.Counter[str] = collections.Counter()
        for tensor in found:
            counts[_stored_dtype(tensor)] += tensor.numel()
        return dict(counts.most_common())

    def watch(self, on_device: torch.Tensor) -> Watch:
        """One more call, watched."""
        watch = Watch()
        with torch.inference_mode(), watch:
            self.run(on_device)
        return watch


def kernels(call: Callable[[], Any]) -> list[str]:
    """The names of the GPU kernels that one call starts, whichever library starts them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as watch:
        call()
        torch.cuda.synchronize()
    return [event.name for event in watch.events() or () if event.device_type == torch.autograd.DeviceType.CUDA]


def _is_tensor_constant(node: Any) -> bool:
    return bool(node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t")


def _stored_dtype(tensor: torch.Tensor) -> str:
    """What a weight is stored in: torchao's quantized ones say float of themselves and hold integers."""
    held = getattr(tensor, "qdata", tensor)
    return str(held.dtype).removeprefix("torch.")


def asked_dtype(workload: Workload) -> str:
    """The dtype that the recipe's convolutions must run in."""
    return PRECISIONS[workload.recipe.precision].dtypes[workload.device]


def memory_format(workload: Workload) -> torch.memory_format:
    """The memory format of the recipe's layout."""
    return torch.channels_last if workload.recipe.layout == "channels_last" else torch.contiguous_format


def to_device(workload: Workload, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the workload's device, in its memory format and, where the model is cast, its dtype."""
    dtype = CAST.get(workload.recipe.precision, torch.float32)
    return tensor.to(device=workload.device, dtype=dtype, memory_format=memory_format(workload))


def multiply_as_asked(workload: Workload) -> None:
    """TF32 where the recipe asks for it: a setting of the process, which a graph from elsewhere reads, too."""
    if workload.recipe.precision == "tf32":
        cuda.allow_tf32(True)


def prepared(workload: Workload, *, cache_casts: bool = True) -> torch.nn.Module:
    """The model on its device, in the layout and the precision of the recipe.

    Args:
        workload: what to run.
        cache_casts: False where the graph is recorded: a cached cast would be baked in.
    """
    precision = workload.recipe.precision
    model = workload.model().to(device=workload.device, memory_format=memory_format(workload))
    multiply_as_asked(workload)
    if precision == "amp":
        dtype = getattr(torch, PRECISIONS["amp"].dtypes[workload.device])
        return Autocast(model, workload.device, dtype, cache_casts).eval()
    return model.to(CAST[precision]) if precision in CAST else model


class Autocast(torch.nn.Module):
    """A model that runs under autocast."""

    def __init__(self, model: torch.nn.Module, device: str, dtype: torch.dtype, cache_casts: bool) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.cache_casts = cache_casts

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        with torch.autocast(self.device, self.dtype, cache_enabled=self.cache_casts):
            return self.model(images)


def example(workload: Workload) -> torch.Tensor:
    """An input of the workload's shape on its device, for tracing and export."""
    return to_device(workload, torch.zeros(workload.shape))
