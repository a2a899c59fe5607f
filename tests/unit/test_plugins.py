"""A plug-in that is broken is named with what to mend, and does not take the others with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm import plugins, runtimes
from farm.errors import BadInput
from farm.spec import job

BROKEN = {
    "does not parse": ("def load(:", "SyntaxError"),
    "raises at import": ("1 / 0", "ZeroDivisionError"),
    "needs what is missing": ("import no_such_module_here", "no_such_module_here"),
    "ends the process": ("import sys; sys.exit(3)", "SystemExit"),
    "cannot even say what": ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E"),
    "says nothing": ("", "has no SUPPORT, load"),
    "says it otherwise": ("SUPPORT = {}\nload = 1", "has no SUPPORT, load"),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    text, why = BROKEN[request.param]
    folder = tmp_path / "farm/runtimes"
    folder.mkdir(parents=True)
    (folder / "broken.py").write_text(text)
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(folder)])
    sys.modules.pop("farm.runtimes.broken", None)
    return tmp_path, why


def test_asking_for_a_broken_plugin_names_its_file_and_its_fault(broken: tuple[Path, str]) -> None:
    folder, why = broken
    with pytest.raises(BadInput) as refused:
        job(recipe="broken")
    assert why in str(refused.value)
    assert str(folder / "farm/runtimes/broken.py") in str(refused.value)


def test_a_broken_plugin_leaves_the_others_alone(broken: tuple[Path, str]) -> None:
    assert str(job(recipe="channels_last+onnxruntime").recipe) == "channels_last+onnxruntime"
    assert "broken" not in plugins.loadable("farm.runtimes")
    assert "eager" in plugins.loadable("farm.runtimes")


def test_recipes_are_listed_beside_a_broken_one(tmp_path: Path) -> None:
    folder = tmp_path / "farm/runtimes"
    folder.mkdir(parents=True)
    (folder / "broken.py").write_text("1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "farm", "recipes"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "onnxruntime" in done.stdout
    assert "cannot be loaded" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
