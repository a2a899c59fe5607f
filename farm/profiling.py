"""What profilers tell, as operators and as a trace in Chrome's format; no library of any runtime is needed.

chrome://tracing and https://ui.perfetto.dev open such a trace. Its format:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.measurement import Operator


@dataclass(frozen=True, kw_only=True)
class Span:
    """One call of one operator."""

    #: Of the node or layer.
    name: str
    #: Its kind, such as `Conv`.
    operator: str
    #: What executed it, where that is told.
    provider: str | None = None
    seconds: float


def operators(spans: Iterable[Span], calls: int, *, on_device: bool = False) -> tuple[Operator, ...]:
    """The operators of `calls` calls of a model whose spans do not contain each other.

    Args:
        spans: of all calls.
        calls: how many there were.
        on_device: whether the seconds are a GPU's rather than the host's.
    """
    found: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for span in spans:
        found[span.operator, span.provider].append(span.seconds)
    place = "device" if on_device else "host"
    return tuple(
        Operator.model_validate(
            {"name": name, "provider": provider, "calls": len(seconds)}
            | {f"{place}_{kind}_s": sum(seconds) / calls for kind in ("total", "self")}
        )
        for (name, provider), seconds in found.items()
    )


def trace(events: Sequence[Mapping[str, Any]]) -> str:
    """Events of Chrome's format as a trace."""
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"))


def sequence(spans: Iterable[Span], note: str) -> str:
    """A trace of spans one after the other, for profilers that tell how long but not when.

    Args:
        spans: in order.
        note: says so to who looks at the trace; it becomes the name of the track.
    """
    events: list[dict[str, Any]] = [{"ph": "M", "name": "thread_name", "pid": 0, "tid": 0, "args": {"name": note}}]
    at_us = 0.0
    for span in spans:
        lasts_us = span.seconds * 1e6
        events.append(
            {"ph": "X", "name": span.name, "cat": span.operator, "pid": 0, "tid": 0, "ts": at_us, "dur": lasts_us}
            | {"args": {"provider": span.provider} if span.provider else {}}
        )
        at_us += lasts_us
    return trace(events)
