from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farm import weights
from farm.artifacts import MANIFEST, ArtifactCache
from farm.errors import BadInput, CorruptArtifact
from farm.inside import inside
from farm.settings import Settings
from producer.local import LocalFarm
from results_store.exporters.profiles import _name
from results_store.store import EndedRun
from results_store.watch import Watch

TRICKS = (
    *("", "..", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "x/../../../etc", "..\\x", "a\0b", "//x"),
    *("./..", "a/./../..", "~/../x/..", "\\\\host\\x"),
)


@pytest.mark.parametrize("name", TRICKS, ids=repr)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no name for something in"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["20260131-142500-1a2b", "a/b", "..a", "a..b", "~", "weights-0af.json", "a b"])
def test_a_name_is_beneath_the_folder(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name
    assert inside(tmp_path, name).resolve().is_relative_to(tmp_path.resolve())


def test_a_run_of_a_store_that_was_tampered_with_is_not_written_elsewhere(tmp_path: Path) -> None:
    ended = EndedRun(run_id="../../elsewhere", begun_at=1.0)
    said: list[str] = []
    store: Any = SimpleNamespace(ended_runs=lambda: [ended])
    watch = Watch(lambda: store, tmp_path / "a" / "b", ["csv"], say=said.append, complain=said.append)
    watch.step()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]
    assert "no name for something in" in said[0]


def test_logs_of_a_run_stay_in_the_data_directory(tmp_path: Path) -> None:
    store: Any = None
    with pytest.raises(BadInput):
        LocalFarm(Settings(data_dir=tmp_path), store, [], "../../elsewhere", print)


def test_weights_are_looked_for_in_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "secret.pth").touch()
    with pytest.raises(BadInput):
        weights.locate("sha256:../secret", tmp_path / "weights")


@pytest.mark.parametrize("variant", ["../../x", "/etc/passwd", "..", "a\0b", ".hidden", "x" * 300])
def test_a_trace_is_named_like_a_file_of_its_folder(tmp_path: Path, variant: str) -> None:
    cell = SimpleNamespace(variant=variant, batch_size=1, device="cpu", key="0" * 64)
    row: Any = SimpleNamespace(cell=cell)
    name = _name(row, set())
    assert inside(tmp_path, name).parent == tmp_path
    assert len(name) < 200
    assert not name.startswith(".")


def test_a_manifest_that_names_files_elsewhere_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    folder = tmp_path / "cache" / "model-abc"
    folder.mkdir(parents=True)
    manifest = {"files": {"../../outside": "0" * 64}, "facts": {}, "build_s": 0.0}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match="no name for something in"):
        ArtifactCache(tmp_path / "cache").get("model-abc")
