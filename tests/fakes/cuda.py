"""A stand-in for what the farm calls of torch.cuda, on the CPU.

Its graphs are graphs: what ran while one was captured runs again in a replay, on the same tensors and with
the output in the same memory, and nothing else does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Stream:
    """A stream; the first is the default one."""

    made: int = 0

    def __init__(self) -> None:
        self.cuda_stream = Stream.made
        self.waited_for: list[Stream] = []
        Stream.made += 1

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class CUDAGraph(TorchDispatchMode):
    """Records operators; each is run again by a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.recorded.append((func, args, kwargs or {}, output))
        return output

    def replay(self) -> None:
        self.replays += 1
        # Below the dispatcher's modes, as a driver is.
        with torch.utils._python_dispatch._disable_current_modes(), torch.inference_mode():
            for func, args, kwargs, output in self.recorded:
                made = func(*args, **kwargs)
                if isinstance(made, torch.Tensor) and made is not output:
                    output.copy_(made)


class Cuda:
    """The patched surface, and what was seen of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Stream.made = 0
        self.current = self.default = Stream()
        self.is_capturing = False
        #: What capturing raises, where the driver refuses.
        self.refusal: str | None = None
        for name, stand_in in {
            "Stream": Stream,
            "CUDAGraph": CUDAGraph,
            "graph": self.graph,
            "stream": self.stream,
            "set_stream": self.set_stream,
            "current_stream": lambda: self.current,
            "is_current_stream_capturing": lambda: self.is_capturing,
            "synchronize": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph: CUDAGraph) -> Iterator[None]:
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        self.is_capturing = True
        with self.stream(Stream()), graph:
            yield
        self.is_capturing = False
