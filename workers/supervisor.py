"""Serves one job at a time: holds the device, claims, runs the child, and records how that ended.

It survives whatever a child does, and it measures nothing itself: no torch in this process.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from farm import allocator, building, locks, logs, scratch, verdict
from farm.errors import FarmError, Unreachable, Unsupported
from farm.locks import Held
from farm.measurement import Environment, Measurement, Outcome
from farm.settings import Settings
from farm.spec import JobSpec
from results_store.store import Claim, Ending, Lease, Store, WorkerInfo
from workers import bounds, faults, forking, processes, quarantine, telemetry, watching
from workers.forking import Template, Templates
from workers.metrics import Figures
from workers.phase import PhaseEnd, classify
from workers.probe import Prober
from workers.telemetry import Recorder
from workers.watching import Ended, Stopped, Watched

log = logging.getLogger(__name__)

#: What is run for each phase of a job.
CHILD = (sys.executable, "-m", "workers.child")

#: While the database is away, a job that was not claimed yet is given up after so long.
CLAIM_PATIENCE_S = 60.0

#: A message that comes while the worker is quarantined is kept so long before it is given up.
QUARANTINE_PATIENCE_S = 10.0
_QUARANTINE_LOOK_S = 1.0

#: A message whose job waits for another worker, which has what it asks for, is kept so long likewise.
OTHERS_PATIENCE_S = 10.0
_OTHERS_LOOK_S = 1.0

#: Libraries that make threads, each told in its own way how many.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_SKIPPED = "skipped"

T = TypeVar("T")


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
        probe: Prober | None = None,
        figures: Figures | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker = worker
        self._run_child = run_child
        self._command = command
        self._needs_build = needs_build
        self._probe = probe or Prober(settings, worker.device_kind, command, run_child=run_child)
        #: None starts every process anew.
        self._templates = templates
        self._figures = figures or Figures()
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
                with logs.about(
                    worker=self._worker.id, device=self._worker.device_uuid or self._worker.device_kind
                ):
                    return self._served(job_id)
            except Unreachable as error:
                if time.monotonic() + pause_s > given_up_at:
                    log.error("job %s was not begun: %s", job_id, error)
                    return "skipped: the database does not answer"
                time.sleep(pause_s)
            except FarmError as error:
                # Its device cannot be had: the messages that it would use up would be missed by others.
                self._quarantine(str(error))
                return f"skipped: quarantined: {error}"
        raise AssertionError("the pauses never end")

    def _served(self, job_id: str) -> str:
        """As `_serve`; while nothing is ours and the message's job waits for another worker, tried for a while.

        Else an idle worker that cannot do a job would use up the messages of the busy one that can.
        """
        until, text = time.monotonic() + OTHERS_PATIENCE_S, self._serve(job_id)
        while text == _SKIPPED and time.monotonic() < until and self._waits_for_another(job_id):
            time.sleep(_OTHERS_LOOK_S)
            text = self._serve(job_id)
        return text

    def _waits_for_another(self, job_id: str) -> bool:
        return self._store.waits_for_another(self._worker.id, job_id)

    def _serve(self, job_id: str) -> str:
        if (quarantined := self._quarantined()) is not None:
            return f"skipped: quarantined: {quarantined}"
        if (problem := bounds.no_room(self._settings)) is not None:
            quarantine.enter(self._store, self._worker, problem, self._settings.probe_s)
            return f"skipped: quarantined: {problem}"
        with self._device() as held:
            device_from, began = time.time(), time.monotonic()
            claim = self._store.claim(self._worker.id, job_id)
            self._figures.claimed(time.monotonic() - began, claim is not None)
            if claim is None:
                return _SKIPPED
            logs.note(run=claim.run_id, job=claim.job_id, attempt=claim.attempt)
            log.info("job %s begins: %s batch %d", claim.job_id, claim.spec.variant, claim.spec.batch_size)
            ended, phase = self._tried(claim, held)
            device_until = time.time()
        # The device is free; only now the database, which may be away for long.
        if ended.device_problem:
            self._quarantine(ended.device_problem)
        text, outcome = self._record(claim, ended, phase, device_from, device_until)
        log.info(
            "job %s ends: %s (%.1f s)",
            claim.job_id,
            text,
            device_until - device_from,
            extra={"outcome": str(outcome), "duration_s": device_until - device_from},
        )
        return text if claim.job_id == job_id else f"{text} (job {claim.job_id})"

    def _tried(self, claim: Claim, held: Held) -> tuple[PhaseEnd, str]:
        """How the attempt ended, the device probed where that speaks against it, and its last phase."""
        try:
            ended, phase = self._attempt(claim, held)
            if ended.rebuild:
                log.warning("job %s builds again: %s", claim.job_id, ended.reason)
                ended, phase = self._attempt(claim, held)
            return self._probed(claim, held, ended), phase
        except FarmError:
            raise
        except Exception as error:
            # Broad: a mistake of ours is told with the attempt; else its lease would end, again and again.
            log.exception("job %s cannot be watched", claim.job_id)
            reason = f"the worker could not watch it: {type(error).__name__}: {error}"
            return PhaseEnd(outcome=Outcome.CRASHED, reason=reason), "measure"

    def _quarantined(self) -> str | None:
        """Why this worker claims nothing, if it is still so after a while.

        It takes its time, so that a broken device does not use up the messages of those that work.
        """
        until = time.monotonic() + QUARANTINE_PATIENCE_S
        while (reason := self._store.quarantined(self._worker.id)) is not None and time.monotonic() < until:
            time.sleep(_QUARANTINE_LOOK_S)
        return reason

    def _probed(self, claim: Claim, held: Held, ended: PhaseEnd) -> PhaseEnd:
        """The phase's end, after a probe of the device where it speaks against it."""
        suspicion = faults.suspicion(self._worker.device_kind, ended)
        if suspicion is None:
            return ended
        log.warning("job %s speaks against its device (%s), which is probed", claim.job_id, suspicion)
        problem = self._probe(held, lambda: self._renew(claim))
        # A fault ends a process as a crash does, whether that could still say so or not: it is tried again.
        outcome = Outcome.CRASHED if ended.outcome is Outcome.ERROR else ended.outcome
        reason = ended.reason if problem is None else f"{ended.reason}; the device failed its probe: {problem}"
        return replace(ended, outcome=outcome, reason=reason, device_problem=problem or "")

    def _quarantine(self, problem: str) -> None:
        advice = quarantine.ADVICE[self._worker.device_kind]
        every_s = self._settings.probe_s
        entering = partial(quarantine.enter, self._store, self._worker, problem, every_s, advice)
        _until_reachable(entering, self._settings.renew_s)

    @contextlib.contextmanager
    def _device(self) -> Iterator[Held]:
        threads, uuid = self._worker.threads, self._worker.device_uuid
        hold = locks.hold(self._settings.lock_dir, threads, uuid, part_of=self._worker.part_of)
        with hold as held, self._figures.busy():
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
            with (
                logs.about(phase=phase),
                self._figures.phase(phase),
                scratch.folder(self._settings) as temporary,
                _recorder(claim.spec, held, phase) as recorder,
            ):
                watched = self._watched(claim, held, phase, deadline_s, build_spent_s, temporary, alone)
                if recorder is not None:
                    watched = replace(watched, observe=recorder.look, observe_s=recorder.every_s)
                ended = classify(self._ended(watched), phase, deadline_s)
                return ended if recorder is None else _with_telemetry(ended, recorder)
        except OSError as error:
            # This host's fault and no job's: else it would fail all that wait, one after the other.
            reason = f"the {phase} process could not be started: {error}"
            return PhaseEnd(outcome=Outcome.CRASHED, reason=reason, device_problem=reason)

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
                "bounds": bounds.of(self._settings, claim.spec.device_kind),
                "about": logs.noted(),
            },
            environment=child_environment(self._settings, claim.spec, len(processors), temporary, held.gpu_uuid),
            descriptors=held.descriptors,
            deadline_s=deadline_s,
            tick=lambda: self._renew(claim) or self._overflow(temporary),
            tick_s=self._settings.renew_s,
            template=self._template(claim, processors) if phase == "measure" else None,
            hangs=lambda pid: self._quarantine(
                f"process {pid} was killed and does not end: it hangs in the kernel"
            ),
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
            self._figures.renewed(None)
            return None
        self._figures.renewed(lease)
        return {Lease.HELD: None, Lease.CANCELLED: Stopped.CANCELLED, Lease.LOST: Stopped.LOST}[lease]

    def _overflow(self, temporary: Path) -> Stopped | None:
        most = self._settings.disk_limit_mb << 20
        return Stopped.NO_ROOM if bounds.taken_bytes(temporary) > most else None

    def _record(
        self, claim: Claim, ended: PhaseEnd, phase: str, device_from: float, device_until: float
    ) -> tuple[str, Outcome]:
        """How it ended, in a few words and as it is stored."""
        ending = Ending(
            outcome=Outcome.LOST if ended.outcome is None else ended.outcome,
            reason=ended.reason,
            measurement=ended.measurement,
            remeasure=_is_mendable(ended.measurement),
            handed_back=bool(ended.device_problem),
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
        self._figures.ended(ending.outcome)
        return (describe(ending) if recorded else "stale"), ending.outcome

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
    try:
        return ended if measured is None else replace(ended, measurement=recorder.attach(measured))
    except Exception:
        # Broad: what was read beside it, by a clock that may be set meanwhile, must not cost a measurement.
        log.exception("what was read while it was measured cannot be summed up")
        return ended


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


def describe(ending: Ending) -> str:
    """An ending in a few words, as a task's result."""
    if ending.outcome in (Outcome.OK, Outcome.CANCELLED):
        return str(ending.outcome)
    reason = f"{ending.outcome}: {ending.reason}".removesuffix(": ")[:200]
    if ending.handed_back:
        return f"handed back: {reason}"
    return reason if ending.outcome.is_result else f"failed: {reason}"


def _is_mendable(measurement: Measurement | None) -> bool:
    """Whether measuring again may give a better figure."""
    try:
        return measurement is not None and verdict.mendable(verdict.judge(measurement))
    except Exception:
        # Broad: a rule's mistake must not cost a measurement.
        log.exception("the measurement cannot be judged")
        return False


def _pauses(longest_s: float) -> Iterator[float]:
    """Seconds between tries: doubling, up to the longest, for as long as it takes."""
    pause_s = 0.25
    while True:
        pause_s = min(pause_s, longest_s)
        yield pause_s
        pause_s *= 2


def _until_reachable(call: Callable[[], T], every_s: float) -> T:
    """As often as a lease is renewed: the result is to be there before somebody else takes the job."""
    for pause_s in _pauses(every_s):
        try:
            return call()
        except Unreachable as error:
            log.warning("a result is kept until the database is back: %s", error)
            time.sleep(pause_s)
    raise AssertionError("the pauses never end")
