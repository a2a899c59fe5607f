"""How one phase of an attempt ended, judged from how its process did (pure)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from farm.errors import ran_out_of_room
from farm.measurement import Measurement, Outcome
from workers import watching
from workers.watching import Ended, Stopped

#: How a child may say that its phase ended.
_REPORTED = (Outcome.OK, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY, Outcome.ERROR)

#: What C++ libraries say and do that get no memory.
_NO_MEMORY = re.compile(r"std::bad_alloc|cannot allocate memory", re.IGNORECASE)
_ENDS_WITHOUT_MEMORY = ("SIGABRT", "SIGSEGV")

#: What a measurement is beside its samples and its profile; the store keeps it as one text.
MAX_REST_BYTES = 1 << 20
_BULK = ("samples", "control", "profile")


@dataclass(frozen=True, kw_only=True)
class PhaseEnd:
    """How one phase of an attempt ended."""

    #: None where the lease was lost: then there is nothing to record.
    outcome: Outcome | None
    reason: str = ""
    measurement: Measurement | None = None
    build_spent_s: float = 0.0
    #: What the phase needed was damaged or deleted since it was looked at.
    rebuild: bool = False
    #: What is wrong with the device, where it was probed afterwards and failed, or with a host that can start
    #: nothing; empty where nothing is.
    device_problem: str = ""
    log_tail: str = ""


def classify(ended: Ended, phase: str, deadline_s: float) -> PhaseEnd:
    """How a phase ended, judged from how its process did (pure)."""
    log_tail = ended.output.decode(errors="replace").replace("\0", "")

    def end(outcome: Outcome | None, reason: str) -> PhaseEnd:
        return PhaseEnd(outcome=outcome, reason=reason, log_tail=log_tail)

    if ended.stopped is Stopped.LOST:
        return end(None, "another attempt has the job")
    if ended.stopped is Stopped.CANCELLED:
        return end(Outcome.CANCELLED, f"cancelled during the {phase} phase")
    if ended.stopped is Stopped.TOO_LARGE:
        most = f"{watching.MAX_RESULT_BYTES >> 20} MiB"
        return end(Outcome.ERROR, f"the result is larger than {most}: take a shorter max_s (--set max_s=…)")
    if ended.stopped is Stopped.NO_ROOM:
        return end(Outcome.ERROR, f"temporary files of the {phase} phase took more than FARM_DISK_LIMIT_MB allows")
    report = _report(ended.result)
    if report is not None:
        return _from_report(report, log_tail)
    if ended.stopped is Stopped.TIMEOUT:
        return end(Outcome.TIMEOUT, f"the {phase} phase took longer than {deadline_s:g} s")
    if ended.status == -signal.SIGKILL and ended.memory_ran_out:
        return end(Outcome.OUT_OF_MEMORY, "the kernel ran out of memory and killed the process")
    cause = _cause(ended.status)
    if cause in _ENDS_WITHOUT_MEMORY and (sign := _NO_MEMORY.search(log_tail)):
        return end(Outcome.OUT_OF_MEMORY, f"memory ran out ({sign[0]}), and the process ended with {cause}")
    return end(Outcome.CRASHED, cause)


def _report(result: bytes) -> Mapping[str, Any] | None:
    """What a child reported; None where it did not get so far."""
    try:
        report = json.loads(result)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and report.get("outcome") in _REPORTED else None


def _from_report(report: Mapping[str, Any], log_tail: str) -> PhaseEnd:
    try:
        given, reason = report.get("measurement"), str(report.get("reason", ""))
        return PhaseEnd(
            outcome=unless_full(Outcome(report["outcome"]), reason),
            reason=reason,
            measurement=None if given is None else _measurement(given),
            build_spent_s=float(report.get("build_spent_s", 0.0)),
            rebuild=report.get("rebuild") is True,
            log_tail=log_tail,
        )
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        reason = f"the process handed over what is no measurement: {str(error)[:500]}"
        return PhaseEnd(outcome=Outcome.ERROR, reason=reason, log_tail=log_tail)


def _measurement(given: Any) -> Measurement:
    """What was handed over, checked: also that all but samples and profile is small."""
    found = Measurement.model_validate(given)
    rest = len(json.dumps({name: value for name, value in given.items() if name not in _BULK}))
    if rest > MAX_REST_BYTES:
        raise ValueError(f"{rest:,} bytes beside samples and profile, of which {MAX_REST_BYTES:,} are taken")
    return found


def unless_full(outcome: Outcome, reason: str) -> Outcome:
    """The outcome; a full disk says nothing of the job, which is tried again as after a crash."""
    return Outcome.CRASHED if outcome is Outcome.ERROR and ran_out_of_room(reason) else outcome


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status} without a result"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
