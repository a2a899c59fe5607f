"""Serves one job at a time: holds the device, claims, runs the child, and records how that ended.

It survives whatever a child does, and it measures nothing itself: no torch in this process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from farm import allocator, building, scratch, verdict
from farm.errors import FarmError, NoRoom, Unreachable, Unsupported, ran_out_of_room
from farm.measurement import Environment, Measurement, Outcome
from farm.settings import Settings
from farm.spec import JobSpec
from results_store.store import Claim, Ending, Lease, Store, WorkerInfo
from workers import forking, locks, processes, telemetry, watching
from workers.forking import Template, Templates
from workers.locks import Held
from workers.telemetry import Recorder
from workers.watching import Ended, Stopped, Watched

log = logging.getLogger(__name__)

#: What is run for each phase of a job.
CHILD = (sys.executable, "-m", "workers.child")

#: While the database is away, a job that was not claimed yet is given up after so long.
CLAIM_PATIENCE_S = 60.0

#: Libraries that make threads, each told in its own way how many.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: How a child may say that its phase ended.
_REPORTED = (Outcome.OK, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY, Outcome.ERROR)

T = TypeVar("T")


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
    log_tail: str = ""


class Supervisor:
    """Serves the jobs that one worker's messages name, one after the other."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        worker: WorkerInfo,
        *,
        run_child: Callable[[Watched], Ended] = watching.run,
        command: tuple[str, ...] = CHILD,
        needs_build: Callable[[JobSpec, Settings, Environment], bool] = building.needs_build,
        templates: Templates | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker = worker
        self._run_child = run_child
        self._command = command
        self._needs_build = needs_build
        #: None starts every process anew.
        self._templates = templates
        # So that what a child leaves behind can be found and ended.
        processes.adopt_orphans()

    def handle(self, job_id: str) -> str:
        """Serves one message: the job that it names or, if that is gone, the next one.

        Returns:
            How it ended, in a few words: `ok`, `skipped`, `cancelled`, `failed: …`.
        """
        given_up_at = time.monotonic() + CLAIM_PATIENCE_S
        for pause_s in _pauses(self._settings.renew_s):
            try:
                return self._serve(job_id)
            except (Unreachable, NoRoom) as error:
                if time.monotonic() + pause_s > given_up_at:
                    log.error("job %s was not begun: %s", job_id, error)
                    away = isinstance(error, Unreachable)
                    return "skipped: the database does not answer" if away else "skipped: the disk is full"
                time.sleep(pause_s)
        raise AssertionError("the pauses never end")

    def _serve(self, job_id: str) -> str:
        scratch.require_room(self._settings)
        with self._device() as held:
            device_from = time.time()
            self._store.adopt(self._worker.id)
            claim = self._store.claim(self._worker.id, job_id)
            if claim is None:
                return "skipped"
            log.info("job %s begins: %s batch %d", claim.job_id, claim.spec.variant, claim.spec.batch_size)
            ended, phase = self._attempt(claim, held)
            if ended.rebuild:
                log.warning("job %s builds again: %s", claim.job_id, ended.reason)
                ended, phase = self._attempt(claim, held)
            device_until = time.time()
        # The device is free; only now the database, which may be away for long.
        text = self._record(claim, ended, phase, device_from, device_until)
        log.info("job %s ends: %s (%.1f s)", claim.job_id, text, device_until - device_from)
        return text if claim.job_id == job_id else f"{text} (job {claim.job_id})"

    @contextlib.contextmanager
    def _device(self) -> Iterator[Held]:
        with locks.hold(self._settings.lock_dir, self._worker.threads, self._worker.device_uuid) as held:
            yield held

    def _attempt(self, claim: Claim, held: Held) -> tuple[PhaseEnd, str]:
        """Builds where that is needed, then measures; the end of the last phase, and its name."""
        spec, built = claim.spec, PhaseEnd(outcome=Outcome.OK)
        phase, deadline_s = "build", spec.protocol.build_deadline_s
        try:
            if self._needs_build(spec, self._settings, self._worker.environment):
                built = self._phase(claim, held, phase, deadline_s, 0.0)
        except Unsupported as error:
            built = PhaseEnd(outcome=Outcome.UNSUPPORTED, reason=str(error))
        except FarmError as error:
            built = PhaseEnd(outcome=Outcome.ERROR, reason=str(error))
        except Exception as error:
            # Broad: a plug-in's mistake is how this job ended, not the end of the worker.
            log.exception("job %s: cannot say what to build", claim.job_id)
            built = PhaseEnd(outcome=Outcome.ERROR, reason=f"{type(error).__name__}: {error}")
        if built.outcome is not Outcome.OK:
            return built, phase
        phase = "measure"
        measured = self._measured(claim, held, built.build_spent_s)
        if measured.outcome is Outcome.OK and (measured.measurement is None or measured.measurement.spec != spec):
            measured = replace(measured, outcome=Outcome.ERROR, reason="the process measured something else")
        return replace(measured, log_tail=built.log_tail + measured.log_tail), phase

    def _measured(self, claim: Claim, held: Held, build_spent_s: float) -> PhaseEnd:
        """How measuring ended; too little memory counts only without the live control."""
        protocol = claim.spec.protocol
        paired = self._phase(claim, held, "measure", protocol.measure_deadline_s, build_spent_s)
        if paired.outcome is not Outcome.OUT_OF_MEMORY or not protocol.paired:
            return paired
        log.warning("job %s is measured without its live control: %s", claim.job_id, paired.reason)
        alone = self._phase(claim, held, "measure", protocol.measure_deadline_s, build_spent_s, alone=True)
        return replace(alone, log_tail=paired.log_tail + alone.log_tail)

    def _phase(
        self,
        claim: Claim,
        held: Held,
        phase: str,
        deadline_s: float,
        build_spent_s: float,
        *,
        alone: bool = False,
    ) -> PhaseEnd:
        try:
            with scratch.folder(self._settings) as temporary, _recorder(claim.spec, held, phase) as recorder:
                watched = self._watched(claim, held, phase, deadline_s, build_spent_s, temporary, alone)
                if recorder is not None:
                    watched = replace(watched, observe=recorder.look, observe_s=recorder.every_s)
                ended = classify(self._ended(watched), phase, deadline_s)
                return ended if recorder is None else _with_telemetry(ended, recorder)
        except OSError as error:
            reason = f"the {phase} process could not be started: {error}"
            return PhaseEnd(outcome=_unless_full(Outcome.ERROR, reason), reason=reason)

    def _watched(
        self,
        claim: Claim,
        held: Held,
        phase: str,
        deadline_s: float,
        build_spent_s: float,
        temporary: Path,
        alone: bool,
    ) -> Watched:
        processors = held.processors[: claim.spec.threads]
        return Watched(
            command=self._command,
            request={
                "phase": phase,
                "spec": claim.spec.model_dump(mode="json"),
                "processors": processors,
                "build_spent_s": build_spent_s,
                "alone": alone,
            },
            environment=child_environment(self._settings, claim.spec, len(processors), temporary, held.gpu_uuid),
            descriptors=held.descriptors,
            deadline_s=deadline_s,
            tick=lambda: self._renew(claim),
            tick_s=self._settings.renew_s,
            template=self._template(claim, processors) if phase == "measure" else None,
        )

    def _template(self, claim: Claim, processors: Sequence[int]) -> Template | None:
        """What the job's measuring process is forked from; None where it is to be started anew."""
        variables = allocator.variables(claim.spec.recipe.allocator)
        wanted = claim.spec.protocol.isolation == "fork" and claim.spec.repeat > 0
        if self._templates is None or not wanted or "LD_PRELOAD" in variables:
            return None
        # One thread: a library that makes its threads when it is imported shall make none.
        environment = child_environment(self._settings, claim.spec, 1, self._settings.scratch)
        return self._templates.get(
            variables, environment, processors, lambda: self._renew(claim), self._settings.renew_s
        )

    def _ended(self, watched: Watched) -> Ended:
        try:
            return self._run_child(watched)
        except forking.Gone as error:
            log.warning("the process is started anew: %s", error)
            return self._run_child(replace(watched, template=None))

    def _renew(self, claim: Claim) -> Stopped | None:
        try:
            lease = self._store.renew(claim)
        except Unreachable as error:
            # The lock keeps the device ours, and the fence the result.
            log.warning("job %s goes on without the database: %s", claim.job_id, error)
            return None
        return {Lease.HELD: None, Lease.CANCELLED: Stopped.CANCELLED, Lease.LOST: Stopped.LOST}[lease]

    def _record(self, claim: Claim, ended: PhaseEnd, phase: str, device_from: float, device_until: float) -> str:
        ending = Ending(
            outcome=Outcome.LOST if ended.outcome is None else ended.outcome,
            reason=ended.reason,
            measurement=ended.measurement,
            remeasure=_is_mendable(ended.measurement),
            phase=phase,
            log_tail=ended.log_tail,
            device_from=device_from,
            device_until=device_until,
        )
        try:
            recorded = self._finish(claim, ending)
        except (TypeError, ValueError, ArithmeticError) as error:
            log.exception("job %s: what was measured cannot be stored", claim.job_id)
            reason = f"what was measured cannot be stored: {type(error).__name__}: {error}"
            ending = replace(ending, outcome=Outcome.ERROR, reason=reason, measurement=None, remeasure=False)
            recorded = self._finish(claim, ending)
        return describe(ending) if recorded else "stale"

    def _finish(self, claim: Claim, ending: Ending) -> bool:
        return _until_reachable(lambda: self._store.finish(claim, ending), self._settings.renew_s)


@contextlib.contextmanager
def _recorder(spec: JobSpec, held: Held, phase: str) -> Iterator[Recorder | None]:
    """Who watches a measuring child; None where there is nothing to watch or the protocol does not want it."""
    every_s = spec.protocol.telemetry_s
    if phase != "measure" or every_s is None:
        yield None
        return
    with telemetry.recorder(every_s, held.processors[: spec.threads], held.gpu_uuid) as recorder:
        yield recorder


def _with_telemetry(ended: PhaseEnd, recorder: Recorder) -> PhaseEnd:
    measured = ended.measurement
    return ended if measured is None else replace(ended, measurement=recorder.attach(measured))


def child_environment(
    settings: Settings, spec: JobSpec, threads: int, temporary: Path, gpu_uuid: str | None = None
) -> dict[str, str]:
    """The environment variables of a measuring process: what a library reads only once has to be there at exec."""
    return {
        **scratch.environment(settings, temporary),
        **allocator.variables(spec.recipe.allocator),
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        # By UUID: an index means another GPU wherever the order differs. Without one, no GPU is to be seen.
        "CUDA_VISIBLE_DEVICES": gpu_uuid or "",
        "PYTHONFAULTHANDLER": "1",
    }


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
        return end(Outcome.ERROR, f"the result is larger than {watching.MAX_RESULT_BYTES >> 20} MiB")
    report = _report(ended.result)
    if report is not None:
        return _from_report(report, log_tail)
    if ended.stopped is Stopped.TIMEOUT:
        return end(Outcome.TIMEOUT, f"the {phase} phase took longer than {deadline_s:g} s")
    if ended.status == -signal.SIGKILL and ended.memory_ran_out:
        return end(Outcome.OUT_OF_MEMORY, "the kernel ran out of memory and killed the process")
    return end(Outcome.CRASHED, _cause(ended.status))


def describe(ending: Ending) -> str:
    """An ending in a few words, as a task's result."""
    if ending.outcome in (Outcome.OK, Outcome.CANCELLED):
        return str(ending.outcome)
    reason = f"{ending.outcome}: {ending.reason}".removesuffix(": ")[:200]
    return reason if ending.outcome.is_result else f"failed: {reason}"


def _is_mendable(measurement: Measurement | None) -> bool:
    """Whether measuring again may give a better figure."""
    try:
        return measurement is not None and verdict.mendable(verdict.judge(measurement))
    except Exception:
        # Broad: a rule's mistake must not cost a measurement.
        log.exception("the measurement cannot be judged")
        return False


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
            outcome=_unless_full(Outcome(report["outcome"]), reason),
            reason=reason,
            measurement=None if given is None else Measurement.model_validate(given),
            build_spent_s=float(report.get("build_spent_s", 0.0)),
            rebuild=report.get("rebuild") is True,
            log_tail=log_tail,
        )
    except (ValidationError, TypeError, ValueError) as error:
        reason = f"the process handed over what is no measurement: {str(error)[:500]}"
        return PhaseEnd(outcome=Outcome.ERROR, reason=reason, log_tail=log_tail)


def _unless_full(outcome: Outcome, reason: str) -> Outcome:
    """The outcome; a full disk says nothing of the job, which is tried again as after a crash."""
    return Outcome.CRASHED if outcome is Outcome.ERROR and ran_out_of_room(reason) else outcome


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status} without a result"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def _pauses(longest_s: float) -> Iterator[float]:
    """Seconds between tries: doubling, up to the longest."""
    return (min(0.25 * 2**number, longest_s) for number in itertools.count())


def _until_reachable(call: Callable[[], T], every_s: float) -> T:
    """As often as a lease is renewed: the result is to be there before somebody else takes the job."""
    for pause_s in _pauses(every_s):
        try:
            return call()
        except Unreachable as error:
            log.warning("a result is kept until the database is back: %s", error)
            time.sleep(pause_s)
    raise AssertionError("the pauses never end")
