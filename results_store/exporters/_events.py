"""TensorBoard's event files: what a point, a histogram and a text are in its records.

TensorBoard's own writer, because it needs no deep-learning framework; tensorboardX imports torch where that is.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary  # type: ignore[import-untyped]
from tensorboard.plugins.text import metadata as text_metadata  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboard.util import tensor_util  # type: ignore[import-untyped]

_BINS = 64
#: The format of the records; TensorBoard looks at it.
_VERSION = "brain.Event:2"


def scalar(tag: str, value: float) -> Any:
    """A point, kept with the precision of a float32."""
    return Summary.Value(tag=tag, simple_value=value)


def histogram(tag: str, values: Sequence[float]) -> Any:
    """How these values, at least one, are distributed: bins of equal width from the least to the greatest."""
    array = np.asarray(values, dtype=np.float64)
    counts, edges = np.histogram(array, bins=_BINS)
    made = HistogramProto(
        min=array.min(),
        max=array.max(),
        num=array.size,
        sum=array.sum(),
        sum_squares=np.square(array).sum(),
        # the bin before the first has a limit too, and nothing in it
        bucket_limit=edges.tolist(),
        bucket=[0.0, *counts.tolist()],
    )
    return Summary.Value(tag=tag, histo=made)


def text(tag: str, markdown: str) -> Any:
    """A text, shown as Markdown."""
    return Summary.Value(
        tag=tag,
        metadata=text_metadata.create_summary_metadata(display_name="", description=""),
        tensor=tensor_util.make_tensor_proto(np.array([markdown.encode()], dtype=object)),
    )


def event(step: int, when: float, values: Iterable[Any]) -> Any:
    """Everything that is known at one step; `when` is in seconds since the epoch."""
    return Event(step=step, wall_time=when, summary=Summary(value=values))


def save(events: Iterable[Any], folder: Path) -> None:
    """Writes a new event file into a folder, which is made where it is missing. Each tag's steps must grow."""
    folder.mkdir(parents=True, exist_ok=True)
    # the time in the name, as TensorBoard has it: one that is looking on goes from older files to newer ones
    with (folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}").open("wb") as file:
        records = RecordWriter(file)
        for one in (Event(wall_time=time.time(), file_version=_VERSION), *events):
            records.write(one.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
