"""Paths that are made from ids and names: always beneath the folder that they are meant for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from farm.errors import BadInput


def inside(root: Path, name: str) -> Path:
    """The path of this name in a folder.

    Only the name is looked at: what its user has put there, a link to another disk for example, is followed.

    Raises:
        BadInput: it would lie anywhere else: the name is empty or absolute, or goes upwards.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise BadInput(
            f"{name!r} is no name for something in {root}: it has to be a name, and no path out of there."
        )
    return root.joinpath(*parts)
