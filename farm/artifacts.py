"""The artifact cache: what builds made, by content, whole or not at all, made once for everybody.

An artifact is a folder `<kind>-<key>` with its files and a `manifest.json` of their digests. A build
happens in a folder beside it that is renamed when it is complete; a lock per artifact makes others wait.
A build that failed in the library leaves `<kind>-<key>.failed.json`, so that no repeat tries it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farm.errors import BadInput, CorruptArtifact, FarmError
from farm.inside import inside

MANIFEST = "manifest.json"

_KEY = re.compile(r"[a-z0-9_]+-[0-9a-f]{24}")

#: What libraries say of troubles that pass: a build that met one may well succeed another time.
_PASSING = ("no space left", "can't allocate memory", "out of memory", "bad_alloc", "not enough memory")

#: Fills the folder and returns facts worth storing.
Builder = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One built thing."""

    folder: Path
    #: What the builder found worth storing.
    facts: Mapping[str, Any]
    #: What making it took, whenever that was.
    build_s: float
    #: All its files together.
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What lies in the cache under one key."""

    key: str
    kind: str
    #: All its files together.
    size_bytes: int
    #: None, and no facts, where its manifest cannot be read.
    build_s: float | None
    facts: Mapping[str, Any]


class _Manifest(BaseModel):
    """`manifest.json` of an artifact."""

    model_config = ConfigDict(extra="forbid")

    #: Digest of every file, by its path in the folder.
    files: dict[str, str] = Field(min_length=1)
    facts: dict[str, Any]
    build_s: float = Field(ge=0)


class _Failure(BaseModel):
    """`<artifact>.failed.json`."""

    model_config = ConfigDict(extra="forbid")

    reason: str


def key_of(kind: str, content: Mapping[str, Any]) -> str:
    """The artifact's name: its kind and the digest of everything that decides what is in it."""
    text = json.dumps(content, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class ArtifactCache:
    """A folder of artifacts, shared by all processes of a host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: str) -> bool:
        """Whether nothing is left to build: the artifact is there and intact, or its build failed for good."""
        try:
            self.get(key)
        except CorruptArtifact:
            return False
        except FarmError:
            return True
        return True

    def get(self, key: str) -> Artifact:
        """The artifact, every file checked against its digest.

        Raises:
            CorruptArtifact: it is not there, or a file is not what was written.
            FarmError: its build failed earlier, with the reason from then.
        """
        self._raise_failure(key)
        folder = inside(self.root, key)
        try:
            manifest = _Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            wrong = [name for name, digest in manifest.files.items() if _digest(inside(folder, name)) != digest]
            size = sum((folder / name).stat().st_size for name in manifest.files)
        except (OSError, ValidationError, BadInput) as error:
            why = str(error).splitlines()[0]
            raise CorruptArtifact(f"Artifact {folder} cannot be read ({why}).") from None
        if wrong:
            raise CorruptArtifact(f"Artifact {folder} is corrupt: {', '.join(wrong)}.")
        return Artifact(folder=folder, facts=manifest.facts, build_s=manifest.build_s, size_bytes=size)

    def entries(self) -> list[Entry]:
        """Every artifact, whether it is intact or not."""
        if not self.root.is_dir():
            return []
        folders = (path for path in sorted(self.root.iterdir()) if path.is_dir() and _KEY.fullmatch(path.name))
        return [_entry(folder) for folder in folders]

    def clear(self, kind: str | None = None) -> tuple[int, int]:
        """Removes the artifacts, or those of a kind, and the notes of failed builds; (how many, their bytes).

        What is being built at this moment is left alone.
        """
        removed = []
        for entry in self.entries():
            if kind in (None, entry.kind):
                with self._lock(entry.key, wait=False) as ours:
                    if ours:
                        shutil.rmtree(self.root / entry.key)
                        removed.append(entry.size_bytes)
        for note in self.root.glob("*.failed.json"):
            if kind is None or note.name.startswith(f"{kind}-"):
                note.unlink(missing_ok=True)
        return len(removed), sum(removed)

    def ensure(self, key: str, build: Builder) -> tuple[Artifact, float]:
        """The artifact, built now if need be, and the seconds spent on that. A corrupt one is made anew."""
        with self._lock(key):
            try:
                return self.get(key), 0.0
            except CorruptArtifact as error:
                known = {"rebuilt_because": str(error)} if (self.root / key).exists() else {}
                return self._build(key, build, known)

    def _build(self, key: str, build: Builder, facts: Mapping[str, Any]) -> tuple[Artifact, float]:
        for left in self.root.glob(f"{key}.building-*"):  # by a build that was killed: we hold the lock
            _remove(left)
        folder = Path(tempfile.mkdtemp(prefix=f"{key}.building-", dir=self.root))
        began = time.monotonic()
        try:
            found = {**build(folder), **facts}
            spent = time.monotonic() - began
            files = {p.relative_to(folder).as_posix(): _digest(p) for p in folder.rglob("*") if p.is_file()}
            manifest = _Manifest(files=files, facts=found, build_s=spent)
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            _remove(self.root / key)
            folder.replace(self.root / key)
        except (OSError, MemoryError, FarmError):
            raise  # the user or the operator can mend it: it may well succeed another time
        except Exception as error:
            if any(sign in str(error).lower() for sign in _PASSING):
                raise
            self._remember(key, _Failure(reason=f"{type(error).__name__}: {error}"))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self.get(key), spent

    def _failure(self, key: str) -> Path:
        return self.root / f"{key}.failed.json"

    def _remember(self, key: str, failure: _Failure) -> None:
        # Whole or not at all: others read it without the lock.
        with tempfile.NamedTemporaryFile("w", prefix=f"{key}.failed-", dir=self.root, delete=False) as file:
            file.write(failure.model_dump_json())
        Path(file.name).replace(self._failure(key))

    def _raise_failure(self, key: str) -> None:
        file = self._failure(key)
        try:
            failure = _Failure.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return  # a damaged note is none: the build is tried again
        raise FarmError(f"Building it failed before: {failure.reason}. Delete {file} to try again.")

    @contextmanager
    def _lock(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Holds the artifact's lock; without waiting, says whether it got it."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Removes what stands in an artifact's place, whatever it is; of a link, not what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _entry(folder: Path) -> Entry:
    kind = folder.name.rpartition("-")[0]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        manifest = _Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return Entry(key=folder.name, kind=kind, size_bytes=size, build_s=None, facts={})
    return Entry(key=folder.name, kind=kind, size_bytes=size, build_s=manifest.build_s, facts=manifest.facts)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
