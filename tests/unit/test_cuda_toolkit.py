"""What `compile` is compiled with on a GPU: CUDA's headers and the driver's library, wherever they lie."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from farm import runtimes
from farm.errors import Unsupported
from farm.runtimes import _cuda_toolkit
from farm.runtimes import compile as compile_runtime
from tests.fakes import workloads

#: As a toolkit of CUDA 12 has them, and as the wheels of CUDA 13.
PLACES = {"cuda_runtime_api.h": "", "crt/host_defines.h": "", "nv/target": ""}
IN_WHEELS = {**PLACES, "nv/target": "cccl"}


def toolkit(folder: Path, places: dict[str, str]) -> Path:
    for header, below in places.items():
        file = folder / "include" / below / header
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_it_is_no_runtime_that_could_be_asked_for() -> None:
    assert "_cuda_toolkit" not in runtimes.names()


@pytest.mark.parametrize("places", [PLACES, IN_WHEELS])
def test_the_first_toolkit_that_has_all_headers_is_taken(places: dict[str, str], tmp_path: Path) -> None:
    # As an image for running has it: libraries, and hardly a header.
    part = toolkit(tmp_path / "part", {"cuda_runtime_api.h": ""})
    all_of_it = toolkit(tmp_path / "whole", places)
    assert _cuda_toolkit.whole([part, all_of_it]) == all_of_it
    with pytest.raises(Unsupported, match=r"crt/host_defines\.h, nv/target are not here: pip install -r requirem"):
        _cuda_toolkit.whole([part])
    with pytest.raises(Unsupported, match=r"cuda_runtime_api\.h, crt/host_defines\.h, nv/target are not here"):
        _cuda_toolkit.whole([])


def test_compilers_find_headers_and_library_while_a_graph_is_compiled_and_not_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit(tmp_path, IN_WHEELS)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(home))
    monkeypatch.setenv("CPATH", "/mine")
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    library = tmp_path / "libcuda.so.580.1"
    library.touch()
    monkeypatch.setattr(_cuda_toolkit, "_MAPS", tmp_path / "maps")
    (tmp_path / "maps").write_text(
        f"7f00-7f01 r-xp 00000000 08:01 12    {tmp_path}/libc.so.6\n"
        "7f02-7f03 rw-p 00000000 00:00 0\n"
        f"7f04-7f05 r-xp 00000000 08:01 13    {library}\n"
    )
    with _cuda_toolkit.visible():
        assert os.environ["CUDA_HOME"] == str(home)
        assert os.environ["CPATH"] == f"{home}/include/cccl:/mine"
        [linked] = Path(os.environ["LIBRARY_PATH"]).iterdir()
        assert (linked.name, linked.resolve()) == ("libcuda.so", library)
        assert str(home / "include") in cpp_extension.include_paths("cuda")
    assert os.environ["CPATH"] == "/mine"
    assert "LIBRARY_PATH" not in os.environ
    assert "CUDA_HOME" not in os.environ
    assert not linked.is_symlink()


@pytest.mark.parametrize("recipe", ["compile", "compile(reduce-overhead)"])
def test_without_pythons_headers_it_says_what_to_install(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sysconfig.get_paths
    monkeypatch.setattr(sysconfig, "get_paths", lambda *args: {**real(*args), "include": str(tmp_path)})
    workload = workloads.workload(recipe, device="cuda")
    with pytest.raises(Unsupported, match=r"compile on a GPU needs .*Python\.h: apt-get install python3\.1\d-dev"):
        if recipe == "compile":
            compile_runtime.build(workload, tmp_path)
        else:
            compile_runtime.load(workload, None)


def test_without_cudas_headers_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("torch.version.cuda", None)  # a build without its wheels
    with pytest.raises(Unsupported, match=r"nv/target are not here: pip install -r requirements\.txt"):
        compile_runtime.build(workloads.workload("compile", device="cuda"), tmp_path)
