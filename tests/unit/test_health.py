"""Health as the doors say it and as containers ask for it: both the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm import health
from farm.errors import BadInput, FarmError

ROOT = Path(__file__).resolve().parents[2]

DOORS = {
    "worker": (sys.executable, "-m", "workers", "health"),
    "collator": (sys.executable, "-m", "results_store", "health"),
    "container": (str(ROOT / "compose/healthy"),),
}


def asked(door: str, file: Path | None) -> tuple[int, str]:
    """Exit code and all that was said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    variables = clean if file is None else {**clean, "FARM_HEALTH_FILE": str(file)}
    done = subprocess.run(
        DOORS[door],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def aged(file: Path, seconds: float) -> Path:
    file.touch()
    then = time.time() - seconds
    os.utime(file, (then, then))
    return file


@pytest.mark.parametrize("door", DOORS)
def test_a_service_that_lives_is_healthy_in_one_sentence(tmp_path: Path, door: str) -> None:
    code, said = asked(door, aged(tmp_path / "alive", 20))
    assert code == 0
    assert said.startswith("Healthy: the last sign of life is 2")
    assert said.count("\n") == 1


@pytest.mark.parametrize("door", DOORS)
def test_a_service_that_is_silent_is_not(tmp_path: Path, door: str) -> None:
    code, said = asked(door, aged(tmp_path / "alive", 300))
    assert code == 1
    assert "Not healthy: the last sign of life is 30" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("door", DOORS)
def test_a_service_that_never_said_anything_is_not(tmp_path: Path, door: str) -> None:
    code, said = asked(door, tmp_path / "none")
    assert code == 1
    assert "Not healthy: no sign of life yet" in said


@pytest.mark.parametrize("door", DOORS)
def test_without_a_file_nobody_can_tell(door: str) -> None:
    code, said = asked(door, None)
    assert code == 2
    assert "FARM_HEALTH_FILE is not set" in said


def test_the_limit_is_the_same_in_both_languages(tmp_path: Path) -> None:
    assert f"-lt {health.FRESH_S:.0f} ]" in (ROOT / "compose/healthy").read_text()
    assert "Healthy" in health.check(aged(tmp_path / "alive", health.FRESH_S - 2))
    with pytest.raises(FarmError, match="Not healthy"):
        health.check(aged(tmp_path / "alive", health.FRESH_S + 1))
    with pytest.raises(BadInput):
        health.check(None)
