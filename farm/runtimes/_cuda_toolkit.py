"""What `compile` needs on a GPU beside a compiler: CUDA's headers, and the driver's library to link with.

Inductor's C++ of a CUDA graph includes CUDA's headers, and torch looks for them where a toolkit is installed and
nowhere else (https://github.com/pytorch/pytorch/issues/197765). Its wheels bring most of them, and
`cuda-toolkit[cccl,crt]` in `requirements.txt` the rest. The driver's library may be there without the name that
linkers look for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from farm.errors import Unsupported

#: One header of each package that they are spread over: the runtime, its compiler's part, and the C++ library.
HEADERS = ("cuda_runtime_api.h", "crt/host_defines.h", "nv/target")
#: Where CUDA 13 has the C++ library's headers; only its own compiler looks there by itself.
_LIBRARY = "cccl"

_MAPS = Path("/proc/self/maps")


@contextlib.contextmanager
def visible() -> Iterator[None]:
    """While inside, torch and the compilers that it starts find CUDA's headers and the driver's library.

    Raises:
        Unsupported: headers are missing; the message says what to install.
    """
    from torch.utils import cpp_extension

    require_pythons_headers()
    known = cpp_extension.CUDA_HOME
    home = whole([Path(place) for place in (known, *_wheels()) if place])
    with tempfile.TemporaryDirectory() as folder:
        driver = mapped("libcuda.so")
        if driver is not None:
            (Path(folder) / "libcuda.so").symlink_to(driver)
        first = {"CPATH": str(home / "include" / _LIBRARY), "LIBRARY_PATH": folder}
        with _set({"CUDA_HOME": str(home)}, first):
            cpp_extension.CUDA_HOME = str(home)  # it has looked already, and remembers
            try:
                yield
            finally:
                cpp_extension.CUDA_HOME = known


def whole(places: list[Path]) -> Path:
    """The first of these toolkits that has all headers.

    Raises:
        Unsupported: none has.
    """
    for place in places:
        if not missing(place):
            return place
    lacking = missing(places[-1]) if places else HEADERS
    raise Unsupported(
        f"compile on a GPU needs CUDA's headers, of which {', '.join(lacking)} are not here: "
        "pip install -r requirements.txt, or set CUDA_HOME to a toolkit"
    )


def missing(toolkit: Path) -> list[str]:
    """Those of `HEADERS` that a toolkit has not."""
    places = (toolkit / "include", toolkit / "include" / _LIBRARY)
    return [header for header in HEADERS if not any((place / header).exists() for place in places)]


def mapped(name: str) -> Path | None:
    """The file of the library that this process has loaded and whose name begins so; None without one."""
    lines = (line.split(maxsplit=5) for line in _MAPS.read_text().splitlines())
    files = (Path(line[5]) for line in lines if len(line) == 6)
    return next((file for file in files if file.name.startswith(name)), None)


def require_pythons_headers() -> None:
    """Passes where Triton can compile a module for this Python, which it does before its first kernel.

    Raises:
        Unsupported: the header is missing; the message says what to install.
    """
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise Unsupported(f"compile on a GPU needs {header}: apt-get install python{version}-dev")


def _wheels() -> list[str]:
    """Where the wheels of torch's CUDA version lie."""
    import torch

    if torch.version.cuda is None or importlib.util.find_spec("nvidia") is None:
        return []
    spec = importlib.util.find_spec(f"nvidia.cu{torch.version.cuda.partition('.')[0]}")
    return [] if spec is None else list(spec.submodule_search_locations or ())


@contextlib.contextmanager
def _set(variables: Mapping[str, str], first: Mapping[str, str]) -> Iterator[None]:
    """Sets variables, and puts a folder before those that are in others."""
    before = {**os.environ}
    paths = {name: os.pathsep.join(filter(None, (place, before.get(name)))) for name, place in first.items()}
    changed = {**variables, **paths}
    for name, value in changed.items():
        os.environ[name] = value
    try:
        yield
    finally:
        for name in changed:
            del os.environ[name]
            if name in before:
                os.environ[name] = before[name]
