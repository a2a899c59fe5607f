"""Turns what the user wrote, flags and a matrix file, into a checked matrix; nothing is contacted or written."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from farm import weights
from farm.errors import BadInput, unknown
from farm.spec import ISOLATIONS, PRESETS, Matrix, changed, eval_samples, preset, validated

#: Keys of a matrix file that hold lists, with what their items are; on the command line they take commas.
LISTS: Mapping[str, type] = {"models": str, "optimizations": str, "batch_sizes": int, "devices": str, "set": str}
#: Keys of a matrix file that hold one value.
SCALARS: Mapping[str, type | tuple[type, ...]] = {
    "dataset": str,
    "image_size": int,
    "threads": int,
    "min_vram_mb": int,
    "repeats": int,
    "protocol": str,
    "seed": int,
    "weights": str,
    "sha256": str,
    "eval_samples": (int, str),
    "isolation": str,
}

_EXAMPLE = "matrices/densenet121-cpu.toml is an example."
_KINDS = {str: "text", int: "a whole number", (int, str): "a whole number or 'all'"}
_WHERE = re.compile(r"^([a-z][a-z_0-9]*)(?:\.\d+)*: ", re.MULTILINE)


def matrix(flags: Mapping[str, Any], file: Path | None = None) -> Matrix:
    """The matrix that a file and the flags, which override it, describe.

    Args:
        flags: by the name of the matrix's field; None and the empty list stand for a flag that was not given.
        file: a TOML file whose keys are the flags' names.

    Raises:
        BadInput: naming what was asked, what is possible and, for a name, the nearest.
    """
    given = _merged(flags, file)
    if "optimizations" not in given:
        raise BadInput(
            "Nothing to measure: name recipes with --optimizations, such as "
            f"--optimizations baseline,channels_last+amp, or a file with --matrix. {_EXAMPLE}"
        )
    given.setdefault("protocol", "standard")
    given["weights"], _ = weights.named(given.get("weights"), given.pop("sha256", None))
    settings = [
        *given.pop("set", []),
        *_samples(given.pop("eval_samples", None)),
        *_isolation(given.pop("isolation", None)),
    ]
    if settings:
        given |= _changed(given, settings)
    try:
        return validated(Matrix, given)
    except BadInput as error:
        raise BadInput(_WHERE.sub(lambda match: f"{flag(match[1])}: ", str(error))) from None


def weights_file(flags: Mapping[str, Any], file: Path | None = None) -> Path | None:
    """The file of weights that a request names; None where it names none."""
    given = _merged(flags, file)
    return weights.named(given.get("weights"), given.get("sha256"))[1]


def flag(field: str) -> str:
    """The flag of a matrix's field, such as `--batch-sizes`."""
    return f"--{field.replace('_', '-')}"


def split(texts: Iterable[str]) -> list[str]:
    """The items of a flag that takes commas and may be repeated."""
    return [item.strip() for text in texts for item in text.split(",") if item.strip()]


def read_file(path: Path) -> dict[str, Any]:
    """The content of a matrix file by the names of the matrix's fields, keys and types checked.

    Raises:
        BadInput: it cannot be read, is not TOML, or holds keys or types that do not belong there.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"Matrix file {path}: {_why(error)}.{_nearby(path)}") from None
    except (ValueError, RecursionError) as error:  # TOML's own errors, and what Python does not take
        raise BadInput(f"Matrix file {path} is not valid TOML: {error}. {_EXAMPLE}") from None
    found: dict[str, Any] = {}
    for key, value in content.items():
        field = _field(path, key)
        if field in found:
            raise BadInput(f"Matrix file {path}: {key!r} is there twice, with '-' and with '_'; keep one.")
        found[field] = _checked(path, key, field, value)
    return found


def _merged(flags: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    written, said = read_file(file) if file else {}, _given(flags)
    if "weights" in said:
        written.pop("sha256", None)  # it was that of the file's weights
    return {**written, **said}


def _samples(asked: int | str | None) -> list[str]:
    """What `--eval-samples` means for the protocol."""
    return [] if asked is None else [f"accuracy_samples={eval_samples(str(asked))}"]


def _isolation(asked: str | None) -> list[str]:
    """What `--isolation` means for the protocol."""
    if asked is not None and asked not in ISOLATIONS:
        raise unknown("isolation", asked, ISOLATIONS)
    return [] if asked is None else [f"isolation={asked}"]


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, those that take commas taken apart; `--models ""` was given, and is empty."""
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    return {name: split(value) if name in LISTS else value for name, value in given.items()}


def _changed(given: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """The protocol with what `--set` changes; the number of repeats stays the preset's, where none was given."""
    protocol, repeats = preset(given["protocol"])
    return {"protocol": changed(protocol, settings), "repeats": given.get("repeats", repeats)}


def _field(path: Path, key: str) -> str:
    field = key.replace("-", "_")
    possible = [name.replace("_", "-") for name in (*LISTS, *SCALARS)]
    if field == "name":
        raise BadInput(
            f"Matrix file {path}: {key!r} is no part of what is measured: one file may stand for several runs. "
            "Take it out, and name the run with --name."
        )
    if field not in LISTS and field not in SCALARS:
        raise BadInput(f"Matrix file {path}: {unknown('key', key, possible)}")
    return field


def _checked(path: Path, key: str, field: str, value: Any) -> Any:
    """The value where it has the key's type; one item may stand for a list of one."""
    if field in SCALARS:
        if not _is(SCALARS[field], value):
            raise BadInput(
                f"Matrix file {path}: {key} must be {_KINDS[SCALARS[field]]}, not {value!r}.{_hint(field)}"
            )
        return value
    kind = LISTS[field]
    items = value if isinstance(value, list) else [value]
    wrong = [item for item in items if not _is(kind, item)]
    if wrong:
        raise BadInput(f"Matrix file {path}: {key} must be a list of {_plural(kind)}; {wrong[0]!r} is none.")
    return split(items) if kind is str else items


def _is(kind: type | tuple[type, ...], value: Any) -> bool:
    # bool is a subclass of int, and `batch-sizes = [true]` is a mistake.
    return isinstance(value, kind) and not isinstance(value, bool)


def _plural(kind: type) -> str:
    return "names" if kind is str else "whole numbers"


def _hint(field: str) -> str:
    return f" Possible: {', '.join(PRESETS)}." if field == "protocol" else ""


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _nearby(path: Path) -> str:
    beside = {other.name: other for other in path.parent.glob("*.toml")} if path.parent.is_dir() else {}
    near = [beside[name] for name in difflib.get_close_matches(path.name, beside)]
    found = sorted({str(other) for other in (*near, *Path("matrices").glob("*.toml"))})
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{hint} There are: {', '.join(found[:8])}." if found else ""
