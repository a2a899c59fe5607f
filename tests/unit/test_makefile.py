"""`make benchmark`: which matrix, what it installs, and what it says where the device is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farm.devices import nvml

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` with this Python in the place of .venv's, which is taken to be set up."""
    command = ["make", f"BIN={Path(sys.executable).parent}", "--old-file=.venv/.ready", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "matrix"),
    [
        ([], "matrices/densenet121-cpu.toml"),
        (["DEVICE=cpu"], "matrices/densenet121-cpu.toml"),
        (["DEVICE=cpu", "MATRIX=mine.toml"], "mine.toml"),
    ],
)
def test_the_matrix_is_that_of_the_device(arguments: list[str], matrix: str) -> None:
    done = make("--dry-run", "benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"submit-matrix --matrix {matrix} --local --wait --output-dir results" in done.stdout
    assert "tensorrt" not in done.stdout


def test_for_a_gpu_the_matrix_is_another_and_tensorrt_is_installed() -> None:
    # In a dry run the test for a GPU is not made; what is asked of a second `make` is shown by that.
    done = make("--dry-run", "benchmark", "DEVICE=cuda")
    assert done.returncode == 0, done.stderr
    assert "submit-matrix --matrix matrices/densenet121-gpu.toml --local --wait" in done.stdout
    assert "nvml.gpus()" in done.stdout
    assert "pip install --quiet --disable-pip-version-check -r requirements-tensorrt.txt" in done.stdout


@pytest.mark.parametrize("device", ["tpu", "gpu", ""])
def test_a_device_that_there_is_not_is_refused_with_those_that_there_are(device: str) -> None:
    done = make("benchmark", f"DEVICE={device}")
    assert done.returncode == 2
    assert f"DEVICE={device}: there is no such device. Possible: DEVICE=cpu, DEVICE=cuda." in done.stderr
    assert "submit-matrix" not in done.stdout


@pytest.mark.skipif(bool(nvml.gpus()), reason="there is a GPU here: the benchmark would begin")
def test_without_a_gpu_it_says_so_before_it_installs_anything() -> None:
    done = make("benchmark", "DEVICE=cuda")
    assert done.returncode == 2
    assert "DEVICE=cuda: no NVIDIA GPU answers on this host" in done.stderr
    assert "make benchmark DEVICE=cpu" in done.stderr
    assert "pip install" not in done.stdout + done.stderr
