"""Log lines: one sentence for people and, as fields, what it is about. Every door sets them up here.

As `text` a line is the sentence and, behind it, the fields that tell lines apart; as `json` it is one object with
all of them. A job's id is in every line about it, from its submission to its row: see docs/observability.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, TextIO, TypeAlias

Format: TypeAlias = Literal["text", "json"]

#: What a line can be about: `extra=` of a call, `about` around it, or what all lines of the process have.
FIELDS = ("run", "job", "attempt", "worker", "device", "phase", "outcome", "duration_s")

#: Those that a line of text shows: a worker and its device are the same in all of its log.
_SHOWN = ("run", "job", "attempt", "phase", "outcome", "duration_s")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

#: What would begin a line of its own, or make a terminal do things.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: A field's value that cannot stand without quotes.
_QUOTED = re.compile(r'[\s"=]|^$')

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


def set_up(level: str, format: Format, stream: TextIO | None = None, **always: Any) -> None:
    """Writes the lines of this process, those of libraries among them; where that was set up before, nothing.

    Args:
        level: of the least important line that is written.
        format: how lines look.
        stream: where to; stderr by default.
        always: fields of every line.
    """
    logging.basicConfig(level=level, handlers=[handler(format, stream, **always)])


def handler(format: Format, stream: TextIO | None = None, **always: Any) -> logging.Handler:
    """Writes lines in this format to a stream, by default stderr."""
    made = logging.StreamHandler(stream)
    made.setFormatter(_Text(_TEXT) if format == "text" else _json())
    made.addFilter(_Fields(always))
    return made


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Every line of this thread has these fields until the `with` is left."""
    before = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(before)


def note(**fields: Any) -> None:
    """As `about`, until the `with` of the `about` around is left."""
    _about.set({**_about.get(), **fields})


def noted() -> dict[str, Any]:
    """The fields that lines have just now, to hand them on to another process."""
    return dict(_about.get())


class _Fields(logging.Filter):
    """Gives every line its fields; a call's own come first."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._always = always

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in {**self._always, **_about.get()}.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class _Text(logging.Formatter):
    """A line for people: no text in it, whoever wrote that, can look like a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = {name: getattr(record, name, None) for name in _SHOWN}
        if fields["job"] is not None:
            del fields["run"]  # the job's id begins with it
        shown = [f"{name}={_value(value)}" for name, value in fields.items() if value is not None]
        return " ".join([_one_line(super().formatMessage(record)), *shown])


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if _QUOTED.search(text) else _one_line(text)


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _json() -> logging.Formatter:
    # Imported by those who want it: the module is in measuring processes too.
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="ts",
    )
