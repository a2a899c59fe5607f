"""A process that builds or measures in a scenario: `child.py canned|real child|template …`, run by its path.

It is the real `workers.child` or `workers.template`, which notes when it began, lived and ended (`sightings`).
`real` does what the farm does. `canned` takes milliseconds: it sleeps for the protocol's `min_s` and reports the
measurement in the scenario's folder, after it has done what stands in `scripts/<repeat>.py` there, where that is.
A canned probe finds the device well, unless the scenario has broken it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))  # noqa: PTH100, PTH118, PTH120  # pathlib takes long to import

#: Named by the worker, for all that it starts.
FOLDER, MARK = "FAULTS_FOLDER", "FAULTS_MARK"

#: A file of this name and a worker's, in the folder: its device does not compute.
BROKEN = "broken"

_BEAT_S = 0.003

Fulfil = Callable[[Mapping[str, Any]], dict[str, Any]]


def main() -> None:
    """Becomes a child or a template of the farm's own, watched."""
    kind, role = sys.argv[1:3]
    del sys.argv[1:3]
    # In place of this file's folder, whose names are nobody else's business.
    sys.path[0] = ROOT
    from workers import child, template

    fulfil: Fulfil = child.fulfil if kind == "real" else canned
    child.fulfil = lambda request: watched(request, fulfil)
    if kind == "canned":
        template.prepare = lambda: None
    (template if role == "template" else child).main()


def watched(request: Mapping[str, Any], fulfil: Fulfil) -> dict[str, Any]:
    """Fulfils the request; that this process lives can be seen until it is gone."""
    folder, token = os.environ[FOLDER], f"{os.getpid()}.{time.monotonic_ns()}"
    file = os.open(f"{folder}/sightings", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def note(what: str, **fields: Any) -> None:
        line = {"what": what, "token": token, "at": time.monotonic_ns(), **fields}
        # One write: lines of several processes do not mix.
        os.write(file, (json.dumps(line) + "\n").encode())

    def live() -> None:
        while True:
            note("beat")
            time.sleep(_BEAT_S)

    spec = request.get("spec", {})  # a probe has none
    note(
        "in",
        clashes=occupied(folder, request["processors"]),
        pid=os.getpid(),
        key=hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest(),
        repeat=spec.get("repeat", -1),
        phase=request["phase"],
        worker=_worker(),
        processors=request["processors"],
        began_at=time.time(),
    )
    threading.Thread(target=live, daemon=True).start()
    try:
        return fulfil(request)
    finally:
        note("out")


def occupied(folder: str, processors: Sequence[int]) -> list[int]:
    """Processors on which another process of this kind lives now; the others are this one's until it is gone."""
    file = os.open(f"{folder}/processors", os.O_RDWR | os.O_CREAT, 0o666)
    # A process that dies closes its descriptors in order: this one before it lets go of the farm's own locks, so
    # that whoever gets those cannot find this.
    os.dup2(file, 0, inheritable=False)
    os.close(file)
    return [processor for processor in processors if not _taken(processor)]


def _taken(processor: int) -> bool:
    try:
        # Of this process alone: a fork does not inherit it.
        fcntl.lockf(0, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, processor)
    except (BlockingIOError, PermissionError):
        return False
    return True


def canned(request: Mapping[str, Any]) -> dict[str, Any]:
    """A report as a measurement makes it, in no time; a script may do anything first, or answer otherwise."""
    folder = os.environ[FOLDER]
    if request["phase"] == "probe":
        return probed(folder)
    spec = request["spec"]
    if request["phase"] == "build":
        time.sleep(spec["protocol"]["min_s"])
        return {"outcome": "ok", "reason": "", "build_spent_s": 0.0}
    with open(f"{folder}/measurement.json") as file:  # noqa: PTH123  # see above
        measurement = {**json.load(file), "spec": spec}
    answer: dict[str, Any] = {"outcome": "ok", "reason": "", "measurement": measurement}
    time.sleep(spec["protocol"]["min_s"])
    path = f"{folder}/scripts/{spec['repeat']}.py"
    if os.path.exists(path):  # noqa: PTH110  # see above
        with open(path) as script:  # noqa: PTH123  # see above
            exec(script.read(), _names(request, answer))
    return answer


def probed(folder: str) -> dict[str, Any]:
    """What a probe of this worker's device finds."""
    if os.path.exists(f"{folder}/{BROKEN}-{_worker()}"):  # noqa: PTH110  # see above
        return {"outcome": "error", "reason": "CUDA error: unspecified launch failure"}
    return {"outcome": "ok", "reason": ""}


def _worker() -> str:
    """Whose process this is."""
    return os.environ[MARK].split(".")[1]


def _names(request: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """What a script may use: `request`, `answer` to be changed, and these modules."""
    modules = {module.__name__: module for module in (ctypes, json, os, signal, subprocess, sys, time)}
    return {"request": request, "answer": answer, **modules}


if __name__ == "__main__":
    main()
