"""Names of runs: which are possible, and how the matrix asked for differs from the one under a name (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from farm.errors import BadInput
from farm.spec import Matrix, completed

MAX_CHARS = 64

_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_CHARS - 1}}}")
#: A run's id, or the beginning of one.
_ID = re.compile(r"[0-9]{1,8}|[0-9]{8}-[0-9]{0,6}|[0-9]{8}-[0-9]{6}-[0-9a-f]{0,4}")
_LATEST = "latest"


def check(name: str) -> str:
    """The name, where a run may have it: it is a folder among the results, too.

    Raises:
        BadInput: it may not; says why.
    """
    if _NAME.fullmatch(name) is None:
        raise BadInput(
            f"--name {name!r}: lower-case letters, digits, '.', '_' and '-' are possible, a letter or a digit "
            f"first, {MAX_CHARS} characters at most."
        )
    if name == _LATEST:
        raise BadInput(f"--name {name}: that is the newest run, whatever its name. Take another name.")
    if _ID.fullmatch(name) is not None:
        raise BadInput(f"--name {name}: that may be the beginning of a run's id. Put a letter into it.")
    return name


def folder(run_id: str, name: str | None) -> str:
    """The folder of a run among the results: its name, or else its id.

    A name that no run can have was not written by a farm, and might lead elsewhere.
    """
    return name if name is not None and _NAME.fullmatch(name) else run_id


def title(run_id: str, name: str | None) -> str:
    """A run for people: its name and its id, or its id."""
    return run_id if name is None else f"{name} ({run_id})"


def differences(stored: str, asked: Matrix) -> list[str]:
    """`field: stored -> asked` for each field in which the two differ; none where they are equal.

    Args:
        stored: the matrix of a run, as JSON, perhaps of an older farm.
        asked: the one to compare with.
    """
    before = dict(_flat(completed(json.loads(stored))))
    after = dict(_flat(asked.model_dump(mode="json")))
    fields = [*after, *(field for field in before if field not in after)]
    return [
        f"{field}: {_shown(before.get(field))} -> {_shown(after.get(field))}"
        for field in fields
        if before.get(field) != after.get(field)
    ]


def _flat(fields: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """The fields, those of the protocol as `protocol.min_s`."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
