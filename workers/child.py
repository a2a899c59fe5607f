"""The process in which one job is built or measured: `python -m workers.child REQUEST RESULT` (descriptors).

It reads a request as JSON, does it, and writes a report as JSON. Nothing else ever runs in it. `workers.template`
forks processes that do the same.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from farm.parent import die_with
from workers import bounds

#: The kernel that runs out of memory takes this process rather than the worker.
_OOM_SCORE = "800"


def main() -> None:
    """Does what the request asks for, and ends."""
    request_from, report_to = int(sys.argv[1]), int(sys.argv[2])
    answer(read(request_from), report_to)


def read(request_from: int) -> dict[str, Any]:
    """The request behind a descriptor, which is closed."""
    with os.fdopen(request_from) as reader:
        request: dict[str, Any] = json.load(reader)
    return request


def answer(request: Mapping[str, Any], report_to: int) -> NoReturn:
    """Does what the request asks for, and ends without tidying up: a library's teardown may hang."""
    settle(request["parent"], request["processors"], request.get("bounds"))
    # What this process starts must not keep the supervisor waiting for more.
    os.set_inheritable(report_to, False)
    report = fulfil(request)
    # However little it may take: what it has found out is handed over.
    bounds.unbind()
    with os.fdopen(report_to, "w") as writer:
        json.dump(report, writer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def settle(parent: int, processors: list[int], bounded: Mapping[str, int] | None = None) -> None:
    """Ties this process to its parent, its processors and its bounds, before any library is imported."""
    die_with(parent)
    os.sched_setaffinity(0, processors)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if bounded is not None:
        bounds.bind(bounded)


def fulfil(request: Mapping[str, Any]) -> dict[str, Any]:
    """The report on a request: outcome, reason, and what was made."""
    from farm.errors import ControlDied, CorruptArtifact, FarmError, OutOfMemory, Unsupported, memory_errors

    bounded, spare = request.get("bounds") or {}, bounds.spare()
    try:
        with memory_errors():
            return {"outcome": "ok", "reason": "", **_do(request)}
    except Unsupported as error:
        return _failure("unsupported", str(error))
    except (OutOfMemory, MemoryError) as error:
        # First of all: else there might not be enough to say so.
        spare.close()
        bounds.unbind()
        traceback.print_exc()
        return _failure("out_of_memory", bounds.explained(error, bounded))
    except CorruptArtifact as error:
        return {**_failure("error", str(error)), "rebuild": True}
    except ControlDied:
        raise  # as its own crash: the job is tried again
    except FarmError as error:
        traceback.print_exc()
        return _failure("error", str(error))
    except Exception as error:
        # Broad: whatever a library raises is how this job ended.
        traceback.print_exc()
        return _failure("error", f"{type(error).__name__}: {bounds.explained(error, bounded)}")


def _do(request: Mapping[str, Any]) -> dict[str, Any]:
    if request["phase"] == "probe":
        from workers import probe

        probe.compute(request["device_kind"])
        return {}
    from farm import logs
    from farm.settings import load
    from farm.spec import JobSpec

    spec, settings = JobSpec.model_validate(request["spec"]), load()
    # What is said here is kept with the attempt.
    logs.set_up("WARNING", settings.log_format, **request.get("about", {}))
    logging.getLogger("farm").setLevel(logging.INFO)
    if request["phase"] == "build":
        from farm import building

        return {"build_spent_s": building.build(spec, settings)}
    from farm import control, measuring

    measurement = measuring.measure_here(
        spec,
        settings,
        request["build_spent_s"],
        isolation=request["isolation"],
        alone=request["alone"],
        # Nothing was computed in this process yet, so the control can be forked from it.
        start_control=control.fork,
    )
    return {"measurement": measurement.model_dump(mode="json")}


def _failure(outcome: str, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason}


if __name__ == "__main__":
    main()
