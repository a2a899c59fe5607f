"""The artifact cache: whole or not at all, built once, checked, and honest about failures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from farm.artifacts import ArtifactCache, key_of
from farm.errors import CorruptArtifact, FarmError, Unsupported

KEY = key_of("model", {"a": 1})


def write(folder: Path) -> Mapping[str, Any]:
    (folder / "model.bin").write_bytes(b"12345")
    (folder / "weights.bin").write_bytes(b"678")
    return {"opset": 20}


def refuse(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("built again")


def test_an_artifact_is_built_once_and_found_afterwards(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    assert not cache.has(KEY)
    built, spent = cache.ensure(KEY, write)
    assert spent > 0
    assert cache.has(KEY)
    found, again = cache.ensure(KEY, refuse)
    assert again == 0.0
    assert found == built == cache.get(KEY)


def test_its_size_is_that_of_all_its_files_together(tmp_path: Path) -> None:
    artifact, _ = ArtifactCache(tmp_path).ensure(KEY, write)
    assert artifact.size_bytes == 8


def test_a_build_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> Mapping[str, Any]:
        write(folder)
        raise KeyboardInterrupt

    cache = ArtifactCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.ensure(KEY, interrupted)
    assert not cache.has(KEY)
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.lock"]


def test_a_corrupt_artifact_is_never_loaded(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    artifact, _ = cache.ensure(KEY, write)
    (artifact.folder / "model.bin").write_bytes(b"12346")
    with pytest.raises(CorruptArtifact, match=r"corrupt: model\.bin"):
        cache.get(KEY)


@pytest.mark.parametrize("damage", ["model.bin", "manifest.json"])
def test_a_corrupt_artifact_is_made_anew_and_says_so(tmp_path: Path, damage: str) -> None:
    cache = ArtifactCache(tmp_path)
    artifact, _ = cache.ensure(KEY, write)
    (artifact.folder / damage).write_text("{}")
    rebuilt, spent = cache.ensure(KEY, write)
    assert spent > 0
    assert "rebuilt_because" in rebuilt.facts
    assert (rebuilt.folder / "model.bin").read_bytes() == b"12345"


def test_a_build_that_failed_in_the_library_is_remembered(tmp_path: Path) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        raise ValueError("no such operator")

    cache = ArtifactCache(tmp_path)
    with pytest.raises(ValueError, match="no such operator"):
        cache.ensure(KEY, fails)
    with pytest.raises(FarmError, match=r"failed before: ValueError: no such operator\. Delete"):
        cache.ensure(KEY, refuse)


@pytest.mark.parametrize("error", [Unsupported("install g++"), OSError("disk full"), MemoryError()])
def test_a_build_that_failed_for_want_of_something_is_tried_again(tmp_path: Path, error: Exception) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        raise error

    cache = ArtifactCache(tmp_path)
    with pytest.raises(type(error)):
        cache.ensure(KEY, fails)
    assert cache.ensure(KEY, write)[1] > 0


def _build_slowly(root: Path, log: Path, barrier: Any) -> None:
    def slowly(folder: Path) -> Mapping[str, Any]:
        with log.open("a") as stream:
            stream.write("built\n")
        return write(folder)

    barrier.wait()
    ArtifactCache(root).ensure(KEY, slowly)


def test_processes_that_ask_at_once_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    log = tmp_path / "log"
    processes = [context.Process(target=_build_slowly, args=(tmp_path / "cache", log, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "built\n"


def test_keys_differ_where_anything_differs() -> None:
    assert key_of("model", {"a": 1, "b": 2}) == key_of("model", {"b": 2, "a": 1})
    assert key_of("model", {"a": 1}) != key_of("model", {"a": 2})


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", '{"files": {}}', '{"files": []}', '{"files": {"model.bin": 1}}', "{"]
)
def test_a_damaged_manifest_is_a_corrupt_artifact_and_made_anew(tmp_path: Path, manifest: str) -> None:
    cache = ArtifactCache(tmp_path)
    artifact, _ = cache.ensure(KEY, write)
    (artifact.folder / "manifest.json").write_text(manifest)
    assert not cache.has(KEY)
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        cache.get(KEY)
    again, _ = cache.ensure(KEY, write)
    assert "rebuilt_because" in again.facts
    assert cache.has(KEY)


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"reason": 5}', "{"])
def test_a_damaged_note_of_a_failure_is_none(tmp_path: Path, note: str) -> None:
    cache = ArtifactCache(tmp_path)
    (tmp_path / f"{KEY}.failed.json").write_text(note)
    assert not cache.has(KEY)
    cache.ensure(KEY, write)
    assert cache.has(KEY)


def test_a_failure_is_noted_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        raise ValueError("the library said no")

    cache = ArtifactCache(tmp_path)
    with pytest.raises(ValueError, match="said no"):
        cache.ensure(KEY, fail)
    with pytest.raises(FarmError, match=r"failed before: ValueError: the library said no\. Delete .*failed\.json"):
        cache.get(KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{KEY}.failed.json", f"{KEY}.lock"]


@pytest.mark.parametrize("what", ["file", "link"])
def test_whatever_stands_in_an_artifacts_place_is_replaced(tmp_path: Path, what: str) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    artifact, _ = cache.ensure(KEY, write)
    moved = tmp_path / "moved"
    artifact.folder.rename(moved)
    if what == "file":
        artifact.folder.touch()
    else:
        (moved / "manifest.json").write_text("{}")
        artifact.folder.symlink_to(moved)
    cache.ensure(KEY, write)
    assert cache.has(KEY)
    assert moved.is_dir()


def test_what_a_killed_build_left_goes_with_the_next(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    (tmp_path / f"{KEY}.building-killed").mkdir()
    (tmp_path / "other.building-now").mkdir()
    cache.ensure(KEY, write)
    assert not (tmp_path / f"{KEY}.building-killed").exists()
    assert (tmp_path / "other.building-now").exists()


def test_what_was_built_is_listed_and_cleared_by_kind(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    assert cache.entries() == []
    cache.ensure(KEY, write)
    cache.ensure(key_of("weights", {}), write)
    (tmp_path / "cache" / key_of("weights", {}) / "manifest.json").write_text("")
    (tmp_path / "cache" / "somebody's folder").mkdir()
    found = {entry.kind: entry for entry in cache.entries()}
    assert set(found) == {"model", "weights"}
    assert found["model"].facts == {"opset": 20}
    assert found["weights"].build_s is None
    assert cache.clear("model")[0] == 1
    assert [entry.kind for entry in cache.entries()] == ["weights"]
    assert cache.clear()[0] == 1
    assert cache.entries() == []
    assert (tmp_path / "cache" / "somebody's folder").is_dir()


def test_what_is_being_built_is_not_cleared(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    cache.ensure(KEY, write)
    with cache._lock(KEY):
        assert cache.clear() == (0, 0)
    assert cache.has(KEY)
