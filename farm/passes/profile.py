"""The profile pass: which operators a call spends its time in, asked when everything else is done.

Profilers slow down what they watch, so their times say where time goes and not how much a call takes. A
session may have a profiler of its own (`farm.runtimes.ProfilesItself`); torch's watches all others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from farm import profiling
from farm.devices import Device
from farm.measurement import Operator, Profile
from farm.runtimes import ProfilesItself, Session

CALLS = 3
MAX_OPERATORS = 500
#: A result travels through a pipe that takes 64 MiB, and quoting a trace can make it twice as long.
MAX_TRACE_CHARS = 7 << 20

#: What torch's operators are parts of: its self time is spent in none of them.
CALL = "call of the model"


def run(session: Session, device: Device, on_device: Any, *, on_gpu: bool, calls: int = CALLS) -> Profile:
    """Profiles some calls on an input that is on the device; raises whatever the profiler raises.

    The operators come with the longest self time first, at most `MAX_OPERATORS` of them; a trace that is too
    large to be kept is left out. Both are said in the profile's `missing`.
    """
    if isinstance(session, ProfilesItself):
        return _bounded(session.profile(on_device, calls))

    def call() -> None:
        session.run(on_device)
        device.synchronize()

    return _bounded(_by_torch(call, calls, on_gpu=on_gpu))


def _bounded(found: Profile) -> Profile:
    ordered = sorted(found.operators, key=lambda operator: operator.self_s, reverse=True)
    missing = dict(found.missing)
    if len(ordered) > MAX_OPERATORS:
        missing["operators"] = f"{len(ordered) - MAX_OPERATORS} of {len(ordered)}, those with the least time"
    trace = found.trace
    if trace is not None and len(trace) > MAX_TRACE_CHARS:
        missing["trace"] = f"{len(trace) / 2**20:.1f} MiB are more than the {MAX_TRACE_CHARS >> 20} that are kept"
        trace = None
    kept = {"operators": tuple(ordered[:MAX_OPERATORS]), "trace": trace, "missing": missing}
    return found.model_copy(update=kept)


# ---- torch


def _by_torch(call: Callable[[], None], calls: int, *, on_gpu: bool) -> Profile:
    """What torch's profiler sees of some calls, and CUPTI of their kernels, whichever library starts them."""
    # imported late: nothing of it may be there while something else is timed
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities):
        call()  # the first one in a process pays for the profiler's own start
    with profile(activities=activities) as watch:
        for _ in range(calls):
            with record_function(CALL):
                call()
    return Profile(
        source="torch.profiler",
        calls=calls,
        operators=tuple(_torch_operators(watch.key_averages(), calls, on_gpu=on_gpu)),
        trace=_torch_trace(watch),
    )


def _torch_operators(averages: Any, calls: int, *, on_gpu: bool) -> Iterator[Operator]:
    """One row for each operator of the host and each kernel of the GPU.

    On a GPU, a host's operator has the device time of the kernels that it started as its total and none of
    its own, so that the self times of all rows add up to what the device did.
    """
    for found in averages:
        is_kernel = found.device_type.name == "CUDA"
        if is_kernel and found.is_user_annotation:
            continue  # a range around kernels that have rows of their own
        host = {"host_total_s": found.cpu_time_total, "host_self_s": found.self_cpu_time_total}
        device = {
            "device_total_s": found.device_time_total,
            "device_self_s": found.self_device_time_total if is_kernel else 0.0,
        }
        times = (device if is_kernel else host) | (device if on_gpu else {})
        per_call = {name: microseconds / 1e6 / calls for name, microseconds in times.items()}
        yield Operator.model_validate({"name": found.key, "calls": found.count, **per_call})


def _torch_trace(watch: Any) -> str:
    import json

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        watch.export_chrome_trace(str(file))
        # the rest names this host and its folders
        return profiling.trace(json.loads(file.read_text(errors="replace"))["traceEvents"])
