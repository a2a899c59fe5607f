"""The farm's errors: each message says what was asked, what is possible and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

#: How the libraries say that the disk is full, or that memory ran out.
_NO_ROOM = ("no space left on device", "disk quota exceeded")
_NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "failed to allocate",
    "bad_alloc",
    # statuses of cuBLAS and cuDNN
    "alloc_failed",
    "allocation_failed",
)


class FarmError(Exception):
    """Something the user or the operator can mend; its text is the message to show."""


class BadInput(FarmError, ValueError):
    """What was asked for does not exist or cannot be combined (exit code 2)."""


class BrokenPlugin(BadInput):
    """A plug-in's file cannot be loaded, or lacks what its folder's contract asks for."""


class Unreachable(FarmError):
    """The broker or the database does not answer (exit code 3)."""


class Unsupported(FarmError):
    """This host, device or library cannot run the recipe: a result, written down once."""


class OutOfMemory(FarmError):
    """The device's memory did not suffice: a result, written down once."""


class ControlDied(FarmError):
    """The live control ended in mid-measurement: a crash, and worth another try."""


class CorruptArtifact(FarmError):
    """A file in the artifact cache is not what was written there."""


def unknown(kind: str, asked: str, possible: Iterable[str]) -> BadInput:
    """The error for a name that is not registered, with the nearest one that is."""
    names = sorted(possible)
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return BadInput(f"Unknown {kind} {asked!r}.{hint} Possible: {shorten(names)}.")


def shorten(names: list[str], most: int = 24) -> str:
    """The names in one line, cut after `most` of them."""
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def ran_out_of_room(text: str) -> bool:
    """Whether an error's text says that the disk is full."""
    return any(sign in text.lower() for sign in _NO_ROOM)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns every library's way of saying that memory ran out into `OutOfMemory`."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"host memory ran out: {error}".removesuffix(": ")) from None
    except Exception as error:
        # Broad: ONNX Runtime's errors are no RuntimeError, and OpenVINO's say what it was in their last line.
        lines = [line for line in str(error).splitlines() if any(sign in line.lower() for sign in _NO_MEMORY)]
        if isinstance(error, FarmError) or not lines:
            raise
        raise OutOfMemory(lines[0].strip()) from None
