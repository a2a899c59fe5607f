"""What somebody might send, write or name to do harm: messages, specs, files, texts; seeded, always the same."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")


#: For `@given`: so many examples, the same in every run, and nothing remembered on the disk.
def seeded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """So many examples of a strategy, for what is to meet them all in one life."""
    found: list[T] = []

    @settings(seeded(count), phases=[Phase.generate])
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    assert len(found) >= count, "the strategy has too few examples"
    return found


#: Values that a place for a word, a number or a list does not expect.
NASTY: Sequence[Any] = (
    *("", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "\u202egnp.exe", "x" * 5000),
    *(
        "=1+1",
        "'; DROP TABLE jobs; --",
        "$(reboot)",
        "%s%n",
        "{{7*7}}",
        "<script>",
        "[red]x[/red]",
        "nan",
        "1e999",
    ),
    *(0, -1, 2**31, 2**63, 10**30, -0.0, 1e308, float("nan"), float("inf"), True, False, None),
    *([], {}, [None], [[[[]]]], {"": None}, {"__type__": "uuid", "__value__": "x"}),
    {"__type__": "decimal", "__value__": "x"},
    {"__type__": "datetime", "__value__": []},
    {"__proto__": {"admin": True}},
)

anything: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=30),
    st.integers(),
    st.floats(),
    st.lists(st.integers() | st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def bent(good: Mapping[str, Any], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """The mapping with a few of its places, however deep, replaced, taken away or added to."""
    places = _places(good)

    def apply(changes: list[tuple[tuple[str, ...], str, Any]]) -> dict[str, Any]:
        made = copy.deepcopy(dict(good))
        for place, how, value in changes:
            _change(made, place, how, value)
        return made

    change = st.tuples(st.sampled_from(places), st.sampled_from(("replace", "replace", "drop", "add")), anything)
    return st.lists(change, min_size=1, max_size=most).map(apply)


def _places(within: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, value in within.items():
        found.append((name,))
        if isinstance(value, Mapping):
            found += [(name, *deeper) for deeper in _places(value)]
    return found


def _change(made: dict[str, Any], place: Sequence[str], how: str, value: Any) -> None:
    within: Any = made
    for name in place[:-1]:
        within = within.get(name) if isinstance(within, dict) else None
    if not isinstance(within, dict):
        return  # an earlier change took that place away
    if how == "drop":
        within.pop(place[-1], None)
    else:
        within[f"{place[-1]}s" if how == "add" else place[-1]] = value


# ---- messages


def messages(good: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """Raw bytes for a queue: noise, good messages cut or with a byte changed, and such as are bent within."""
    text = json.dumps(good).encode()
    cut = st.integers(0, len(text) - 1).map(lambda at: text[:at])
    flipped = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 255)).map(
        lambda change: text[: change[0]] + bytes([text[change[0]] ^ change[1]]) + text[change[0] + 1 :]
    )
    inside = bent(good).map(lambda message: json.dumps(message).encode())
    body = st.one_of(anything, st.lists(anything, min_size=3, max_size=3)).map(
        lambda value: json.dumps({**good, "body": encoded(value)}).encode()
    )
    return st.one_of(st.binary(max_size=200), cut, flipped, inside, inside, body)


def encoded(value: Any) -> str:
    """A message's body."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def _with(**change: Any) -> Callable[[Mapping[str, Any]], bytes]:
    """A good message with these parts changed, a level deep."""

    def made(good: Mapping[str, Any]) -> bytes:
        merged = {
            key: {**good[key], **value} if isinstance(value, dict) and isinstance(good.get(key), dict) else value
            for key, value in change.items()
        }
        return json.dumps({**good, **merged}).encode()

    return made


def _body(value: Any) -> Callable[[Mapping[str, Any]], bytes]:
    return lambda good: json.dumps({**good, "body": encoded(value)}).encode()


def _raw(value: bytes) -> Callable[[Mapping[str, Any]], bytes]:
    return lambda good: value


#: Made by hand: what has brought down consumers of queues before, or might.
MESSAGES: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {
    "nothing at all": _raw(b""),
    "a pickle that runs code": _raw(b"cos\nsystem\n(S'touch pwned'\ntR."),
    "a megabyte": _raw(b'{"body": "' + b"x" * 2**20 + b'"}'),
    "no end of brackets": _raw(b"[" * 60_000),
    "a body with no end of brackets": lambda good: json.dumps(
        {**good, "body": base64.b64encode(b"[" * 40_000).decode()}
    ).encode(),
    "a body that is a bad decimal": _body([[{"__type__": "decimal", "__value__": "x"}], {}, None]),
    "a body that is a bad date": _body([[{"__type__": "datetime", "__value__": [1]}], {}, None]),
    "a body of numbers": _body(5),
    "a body that is compressed": _with(headers={"compression": "zlib"}),
    "a compression that nobody knows": _with(headers={"compression": ["zlib"]}),
    "another task": _with(headers={"task": "os.system"}),
    "a task that is no word": _with(headers={"task": ["farm.measure"]}),
    "yaml": _with(**{"content-type": "application/x-yaml"}),
    "a reply to somebody": _with(properties={"reply_to": {"a": 1}, "correlation_id": 5}),
    "headers of other kinds": _with(headers={"root_id": {}, "parent_id": [], "argsrepr": 5, "origin": None}),
    "priorities of other kinds": _with(properties={"priority": "high", "delivery_mode": []}),
    "a job that is a path": _body([["../../../etc/passwd"], {}, None]),
    "a job that nobody submitted": _body([["20200101-000000-ffff.000000"], {}, None]),
}

# ---- specs

#: A job as it is submitted.
SPEC: Mapping[str, Any] = {
    "model": "resnet18",
    "recipe": "channels_last+amp",
    "batch_size": 1,
    "device": "cpu",
    "dataset": "digits",
    "image_size": 64,
    "threads": 1,
    "dataset_digest": None,
    "weights": None,
    "protocol": {"name": "test", "min_calls": 11, "percentiles": [50], "paired": False, "telemetry_s": 0.5},
    "repeat": 0,
}

#: The text of a cell's row after somebody edited it; what is named is taken for the text that was there.
ROWS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "no JSON": lambda spec: "rm -rf /",
    "nothing": lambda spec: "",
    "null": lambda spec: "null",
    "no end of brackets": lambda spec: "[" * 100_000,
    "a model that is a path": lambda spec: json.dumps({**spec, "model": "../../../etc/passwd"}),
    "a dataset elsewhere": lambda spec: json.dumps({**spec, "dataset": "image_folder:../../../etc"}),
    "weights that are a path": lambda spec: json.dumps({**spec, "weights": "/etc/passwd"}),
    "something to run": lambda spec: json.dumps({**spec, "command": "touch pwned"}),
    "a batch of another size": lambda spec: json.dumps({**spec, "batch_size": spec["batch_size"] + 1}),
    "a protocol without end": lambda spec: json.dumps(
        {**spec, "protocol": {**spec["protocol"], "measure_deadline_s": 1e308}}
    ),
}

# ---- matrix files and flags

#: Matrix files made by hand.
FILES: Mapping[str, bytes] = {
    "no text": b"\xff\xfe\x00\x01",
    "no TOML": b"optimizations = [",
    "no end of brackets": b"optimizations = " + b"[" * 20_000,
    "a number with no end": b"repeats = " + b"9" * 10_000,
    "not a number": b'optimizations = ["baseline"]\nimage-size = nan\n',
    "a date": b'optimizations = ["baseline"]\nseed = 1979-05-27\n',
    "a table for a list": b"[optimizations]\nname = 1\n",
    "something to run": b'optimizations = ["baseline"]\ncommand = "touch pwned"\n',
    "a folder with NUL in its name": b'optimizations = ["baseline"]\ndataset = "image_folder:a\\u0000b"\n',
    "weights with NUL in their name": b'optimizations = ["baseline"]\nweights = "a\\u0000b.pt"\n',
    "five million cells": b"optimizations = ['baseline']\nmodels = [%s]\nbatch-sizes = [%s]\n"
    % (b",".join([b"'resnet18','resnet34'"] * 500), b",".join(b"%d" % n for n in range(1, 5001))),
}

#: Flags made by hand.
FLAGS: Sequence[tuple[str, ...]] = (
    ("--optimizations", "baseline", "--models", "../../etc/passwd"),
    ("--optimizations", "baseline;reboot"),
    ("--optimizations", "pruning(" + "9" * 400 + ")"),
    ("--optimizations", "baseline", "--set", "build_deadline_s=inf"),
    ("--optimizations", "baseline", "--set", "min_calls=" + "9" * 5000),
    ("--optimizations", "baseline", "--weights", "~nobody-has-this-name/weights.pt"),
    ("--optimizations", "baseline", "--sha256", "0" * 64),
)

_KEYS = (
    *("models", "optimizations", "batch-sizes", "devices", "set", "dataset", "image-size", "threads", "repeats"),
    *("protocol", "seed", "weights", "sha256", "eval-samples", "isolation"),
)

_LITERALS = (
    *('"baseline"', '["baseline"]', '"quick"', '"digits"', "1", "[1, 2]", "64", '"cpu"', '["min_calls=5"]'),
    *("1e400", "nan", "-inf", "0x7fffffffffffffffffffffff", "-1", "true", "1979-05-27", "'''", "{a = 1}", "[[1]]"),
    *('"\\u0000"', '"../x"', '"image_folder:../x"', '"image_folder:x"', '"~x/y.pt"', '"/dev/null"', "[]", '""'),
    *('["pruning(1e999)"]', '["percentiles=50+x"]', '"' + "x" * 5000 + '"', "9" * 50),
)

#: The content of a matrix file: likely keys with unlikely values, or noise.
files: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=100),
    st.lists(
        st.tuples(st.sampled_from(_KEYS) | st.text(max_size=8), st.sampled_from(_LITERALS) | st.text(max_size=12)),
        max_size=6,
    ).map(lambda lines: "\n".join(f"{key} = {value}" for key, value in lines).encode(errors="replace")),
)

#: Flags of `submit-matrix`: a command line cannot carry NUL, but bytes that are no text it can.
_word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
_words = (
    *("baseline", "baselin", "1,2", "-1", "0", "9" * 30, "nan", "all", "none", "quick", "digits", "x" * 5000, ","),
    *("image_folder:../x", "image_folder:x", "~x/y.pt", "/dev/null", ".", "\udcff", "min_calls=5", "min_s=1e999"),
    *("=", "percentiles=", "pruning(2)", "compile(x)", "cuda.h200", "cuda.", "=1+1"),
)
flags: st.SearchStrategy[list[str]] = st.lists(
    st.tuples(st.sampled_from(("matrix", "workers", "no-such-flag", *_KEYS)), st.sampled_from(_words) | _word),
    max_size=5,
).map(lambda given: [f"--{name}={value}" for name, value in given])

# ---- texts

#: What a spreadsheet may take for a formula, and what may hide one from a look at the first character.
FORMULAS: Sequence[str] = (
    *("=1+1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://127.0.0.1/"&A1,"x")', "+1+1", "-1+1", "@SUM(1+1)"),
    *("\t=1+1", "\r=1+1", "\n=1+1", "\r\n=1+1", "  =1+1", "\u00a0=1+1", "\ufeff=1+1", "\u200b=1+1"),
    *("＝1+1", "＋1+1", "－1+1", "＠SUM(1+1)", "harmless;=1+1", "harmless\t=1+1", 'harmless";=1+1', "\x00=1+1"),
)

#: As a spreadsheet sees it, whatever stands before it that nobody sees.
STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
