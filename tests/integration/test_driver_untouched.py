"""A template asks nothing of CUDA: who has asked cannot use it in children that are forked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A stand-in for `libcuda.so.1` that has no GPU, and notes what it is asked.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
static void note(const char *asked) {
    FILE *file = fopen(getenv("NOTES"), "a");
    if (file != NULL) { fprintf(file, "%s\n", asked); fclose(file); }
}
__attribute__((constructor)) static void begin(void) { note("loaded"); }
int cuInit(unsigned flags) { note("cuInit"); return 100; }
int cuDriverGetVersion(int *version) { note("cuDriverGetVersion"); *version = 13000; return 0; }
int cuGetProcAddress(const char *name, void **address, int version, unsigned long long flags) {
    note("cuGetProcAddress");
    *address = NULL;
    return 500;
}
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, void *status) {
    note("cuGetProcAddress");
    *address = NULL;
    return 500;
}
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Where the stand-in notes what it is asked."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with: apt-get install gcc")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), "driver.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path / "notes"


def run(code: str, asked: Path) -> list[str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "LD_LIBRARY_PATH": str(asked.parent), "NOTES": str(asked)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=300)
    return asked.read_text().split() if asked.exists() else []


def test_what_a_template_imports_asks_nothing_of_the_driver(asked: Path) -> None:
    assert set(run("from workers import template; template.prepare()", asked)) <= {"loaded"}


def test_who_asks_whether_there_is_a_gpu_asks_the_driver(asked: Path) -> None:
    found = run("import torch; print(torch.version.cuda or '', torch.cuda.is_available())", asked)
    assert "cuGetProcAddress" in found or not _has_cuda()


def _has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None
