"""Runtimes, one file each: what executes a model.

A plug-in is a module `farm/runtimes/<name>.py` with

- `SUPPORT`: a `Support`, readable without importing the plug-in's heavy library, so imports of torch
  and the like stand inside the functions;
- `build(workload, folder)`, only where there is something to keep: makes the artifact's files in
  `folder` and returns facts worth storing (graph breaks, opset, …);
- `load(workload, folder)`: a `Session`, from the artifact alone where there is one (`folder` is None
  where the runtime has no `build`).

A session that has a `profile` besides is asked for it, as `ProfilesItself` says; torch's profiler watches
the others, and sees the kernels of any library on a GPU, but on a CPU torch's operators only.

`docs/adding-a-runtime.md` shows a whole one in 20 lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from farm import plugins
from farm.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from farm.measurement import Profile

__path__ = extend_path(__path__, __name__)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A word that a runtime takes in parentheses, such as `compile(max-autotune)`."""

    summary: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    #: Modules that must be importable, beside the runtime's own.
    requires: tuple[str, ...] = ()
    #: False where nothing can be kept: the model is then made anew in each measuring process.
    is_built: bool = True


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a runtime can do, known without loading it."""

    #: One sentence for `python -m farm recipes`.
    summary: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[str, ...] = ("fp32",)
    layouts: tuple[str, ...] = ("nchw",)
    allocators: tuple[str, ...] = ("pinned_malloc", "system_malloc", "jemalloc")
    #: What may stand in parentheses, by its word.
    modes: Mapping[str, Mode] = field(default_factory=dict)
    #: Devices of a precision that not all of the runtime's devices have, by its name.
    only_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Modules that must be importable; they are looked for, not imported.
    requires: tuple[str, ...] = ()
    #: The same for one precision, by its name.
    requires_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Why a precision, a layout or an allocator is missing, by its name: shown when somebody asks for it.
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a runtime is asked to run."""

    recipe: Recipe
    #: `cpu` or `cuda`.
    device: str
    #: (batch, channels, height, width) of every input.
    shape: tuple[int, int, int, int]
    #: Processors the measuring process may use.
    threads: int
    #: Makes the fp32 model on the CPU, in evaluation mode, with its weights.
    model: Callable[[], Any]
    #: Training images to calibrate a quantization with, float32 (samples, channels, height, width); never test
    #: images.
    calibration: Callable[[], np.ndarray]
    #: The weights' own file, counted as the model's size where there is no other artifact.
    weights: Path


class Session(Protocol):
    """A loaded model, ready to be timed."""

    def to_device(self, host: np.ndarray) -> Any:
        """A float32 array of the workload's shape (NCHW), laid out on the device as the runtime wants it."""

    def run(self, on_device: Any) -> Any:
        """One call, input on the device to output on the device; may return before the work is done."""

    def to_host(self, output: Any) -> np.ndarray:
        """The output as a float32 array of (batch, classes)."""

    def evidence(self, on_device: Any) -> Mapping[str, Any]:
        """What was observed to run, by asking the library and watching one more call.

        Called after everything was timed. The verdict reads these keys, where they are given:
        `provider_asked` and `provider`; `dtype_asked` and `dtype`; `compiled` (bool, for runtimes that
        compile) and `graph_breaks`; `nodes_elsewhere` (nodes that another provider took).
        """


@runtime_checkable
class ProfilesItself(Protocol):
    """A session whose library has a profiler of its own."""

    def profile(self, on_device: Any, calls: int) -> Profile:
        """Where so many calls spend their time, as the library tells; `farm.profiling` helps to say it.

        Called last of all, once: it may load the model anew with the profiler on. Whatever it raises becomes
        the reason why there is no profile, and the measurement stands.
        """


#: What a plug-in must have, and of which kind.
CONTRACT: Mapping[str, Any] = {"SUPPORT": Support, "load": Callable}


def names() -> tuple[str, ...]:
    """The names of all runtimes."""
    return plugins.names(__name__)


def support(name: str) -> Support:
    """What a runtime can do."""
    found: Support = plugins.load(__name__, name).SUPPORT
    return found


def module(name: str) -> Any:
    """The plug-in itself."""
    return plugins.load(__name__, name)


def is_built(recipe: Recipe) -> bool:
    """Whether the recipe's runtime has something to build and to keep."""
    mode = None if recipe.mode is None else support(recipe.runtime).modes[recipe.mode]
    return hasattr(module(recipe.runtime), "build") and (mode is None or mode.is_built)
