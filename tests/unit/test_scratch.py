from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from farm import measuring, scratch
from farm.settings import Settings
from tests import factories


def test_a_folder_is_gone_afterwards_with_all_that_is_in_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(RuntimeError), scratch.folder(settings) as made:
        assert made.parent == tmp_path / "tmp"
        (made / "pymp-x" / "locked").mkdir(parents=True)
        (made / "pymp-x" / "locked" / "file").write_text("")
        (made / "pymp-x" / "locked").chmod(0)
        raise RuntimeError
    assert list((tmp_path / "tmp").iterdir()) == []


def test_builds_share_inductors_cache_unless_the_user_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    found = scratch.environment(settings, tmp_path / "tmp" / "x")
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    assert found["TMPDIR"] == str(tmp_path / "tmp" / "x")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    assert scratch.environment(settings, tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def test_only_what_is_older_than_a_day_is_swept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    scratch.sweep(settings)  # nothing there yet
    for name, hours in (("old", 25), ("new", 23)):
        (tmp_path / "tmp" / name / "in").mkdir(parents=True)
        then = time.time() - hours * 3600
        os.utime(tmp_path / "tmp" / name, (then, then))
    scratch.sweep(settings)
    assert [entry.name for entry in (tmp_path / "tmp").iterdir()] == ["new"]


def test_what_is_no_folder_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("")
    scratch.sweep(Settings(data_dir=tmp_path))


def test_a_build_that_is_not_the_workers_has_such_a_folder_and_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def run(command: object, *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        assert Path(env["TMPDIR"]).is_dir()
        seen.append(env)
        return subprocess.CompletedProcess((), 0, stdout='{"outcome": "ok"}\n')

    monkeypatch.setattr(subprocess, "run", run)
    measuring._build_apart(factories.spec(), Settings(data_dir=tmp_path))
    [env] = seen
    assert env["FARM_DATA_DIR"] == str(tmp_path)
    assert Path(env["TMPDIR"]).parent == tmp_path / "tmp"
    assert not Path(env["TMPDIR"]).exists()
