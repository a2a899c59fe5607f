"""What the store takes and gives: frozen values, no SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from farm.measurement import Environment, Measurement, Outcome
from farm.requirement import Requirement
from farm.spec import JobSpec, Matrix, stored
from results_store import names

#: A worker lives while its heartbeat is younger than this, by the database's clock.
ALIVE_S = 30.0
#: Crashed and timed-out attempts after which a job is failed.
MAX_FAILURES = 3
#: Lost attempts (the worker vanished) after which a job is failed; counted apart.
MAX_LOSSES = 10
#: Attempts after which the device failed its probe, until the job is failed: it may be what breaks devices.
MAX_HAND_BACKS = 3
#: What is kept of an attempt's log, from its end.
MAX_LOG_BYTES = 64 * 1024
#: What is kept of a reason.
MAX_REASON_CHARS = 4000


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self in (State.QUEUED, State.RUNNING)


class Lease(StrEnum):
    """What a renewal found."""

    #: Still ours, for another lease.
    HELD = "held"
    #: Still ours, but the user wants it stopped.
    CANCELLED = "cancelled"
    #: Another attempt has it, or nobody: whatever we measure is stale.
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """A worker and what it can do."""

    id: str
    host: str
    pid: int
    device_kind: str
    device_model: str
    device_uuid: str | None
    queues: tuple[str, ...]
    #: Processors that a job of its may ask for.
    threads: int
    environment_key: str
    environment: Environment
    #: Why its device is not used; None where it is.
    quarantined: str | None = None
    #: Last heartbeat, by the database's clock; what is given at registration is not looked at.
    last_seen: float = 0.0
    #: Since when it is quarantined, likewise.
    quarantined_since: float | None = None

    @property
    def part_of(self) -> str | None:
        """UUID of the GPU that its device is a slice of; None where it is none."""
        return None if self.environment.gpu is None else self.environment.gpu.part_of

    def meets(self, wanted: Requirement) -> bool:
        """Whether it serves the queue, has the processors, and lacks nothing that is asked for."""
        serves = wanted.queue in self.queues and (wanted.threads or 1) <= self.threads
        return serves and not wanted.lacking(self.environment)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What became of a submitted matrix."""

    run_id: str
    #: False where an equal matrix was taken up instead.
    created: bool
    #: Jobs whose result is already there: done in the run taken up, or to be adopted in a new one.
    done_already: int
    #: Of the matrix; its controls are not counted.
    jobs: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job that is ours until its lease ends; the fence proves it."""

    job_id: str
    run_id: str
    fence: int
    #: Counted from 1, lost ones included.
    attempt: int
    attempt_id: str
    worker_id: str
    spec: JobSpec


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, as its supervisor saw it."""

    outcome: Outcome
    #: A sentence for people; empty where the outcome says all.
    reason: str = ""
    measurement: Measurement | None = None
    #: It was spoilt by what may be gone the next time: measure again, where the protocol still allows it.
    remeasure: bool = False
    #: Its device failed a probe afterwards: not counted as a failure of the job, which is queued again.
    handed_back: bool = False
    #: `build` or `measure`: where it ended.
    phase: str = "measure"
    log_tail: str = ""
    #: When the attempt held its device, seconds since the epoch by the worker's clock.
    device_from: float | None = None
    device_until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What one round of reconciling did."""

    requeued: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Retried:
    """How many jobs are queued again."""

    #: Of those that had failed.
    failed: int
    #: Of those whose measurement is doubted.
    measured: int


@dataclass(frozen=True, kw_only=True)
class Called:
    """What a run is called."""

    run_id: str
    #: Chosen by the user; None where none was.
    name: str | None = None

    @property
    def title(self) -> str:
        """For people."""
        return names.title(self.run_id, self.name)

    @property
    def handle(self) -> str:
        """For commands: its name, or its id."""
        return self.name or self.run_id

    @property
    def folder(self) -> str:
        """Its folder among the results."""
        return names.folder(self.run_id, self.name)


@dataclass(frozen=True, kw_only=True)
class RunInfo(Called):
    """One run, and how far it is."""

    #: Seconds since the epoch, by the database's clock.
    created_at: float
    #: Submitted with `--again`: nothing is adopted.
    again: bool
    matrix_json: str
    #: Number of the matrix's jobs by state; states without jobs are left out.
    states: Mapping[State, int]
    #: Of the controls that are measured between them.
    control_states: Mapping[State, int] = field(default_factory=dict)

    @property
    def matrix(self) -> Matrix:
        """The matrix as submitted; fields that an older farm did not know are as that one measured."""
        return stored(Matrix, self.matrix_json)

    @property
    def jobs(self) -> int:
        """Number of jobs of the matrix."""
        return sum(self.states.values())

    @property
    def controls(self) -> int:
        """How often controls are measured between them."""
        return sum(self.control_states.values())

    @property
    def finished(self) -> bool:
        """Whether no job is queued or running, controls included."""
        return not any(state.is_open for state in (*self.states, *self.control_states))


@dataclass(frozen=True, kw_only=True)
class EndedRun(Called):
    """A run without a job to do."""

    #: Submitted, or last resumed: seconds since the epoch, by the database's clock.
    #: While this stays the same, so does the run.
    begun_at: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the whole store holds, counted: every state and outcome has its number, also where that is 0."""

    #: Jobs by state.
    jobs: Mapping[State, int]
    #: Jobs that ended, by how.
    ended: Mapping[Outcome, int]
    #: Queued jobs by queue: every queue that ever had a job.
    waiting: Mapping[str, int]
    #: Since the oldest run with a queued job was submitted or resumed; 0 where nothing waits.
    oldest_waiting_s: float
    #: Attempts that ended, by how; stale ones too.
    attempts: Mapping[Outcome, int]
    #: Living workers by (kind of device, queue), those in quarantine left out; one of two queues counts in both.
    workers: Mapping[tuple[str, str], int]
    #: As `workers`, of those in quarantine.
    quarantined: Mapping[tuple[str, str], int]
    #: Runs with a job to do, and those without.
    open_runs: int
    ended_runs: int


@dataclass(frozen=True, kw_only=True)
class Progress(Called):
    """How a run goes, for people."""

    states: Mapping[State, int]
    #: Jobs that ended, by outcome.
    outcomes: Mapping[Outcome, int]
    #: (label of the job, worker, since when) of every running job.
    running: tuple[tuple[str, str, float], ...]
    #: (label of the job, outcome, reason) of failed jobs, in order of measuring; the first 100.
    failures: tuple[tuple[str, Outcome, str], ...]
    cells: int
    #: Cells with no job queued or running.
    cells_done: int
    #: First claim; None before it.
    started_at: float | None
    #: The database's clock, now.
    now: float
    #: Mean duration of the attempts that ended, without the longest; None before the second.
    seconds_per_job: float | None
    #: Measurements that were made again because others or the host had spoilt them.
    remeasured: int = 0
    #: As `states`, of the controls that are measured between the matrix's jobs.
    control_states: Mapping[State, int] = field(default_factory=dict)
    #: (worker, reason) of living workers in quarantine that would serve what is left to do.
    quarantined: tuple[tuple[str, str], ...] = ()
    #: Queued jobs by queue, controls included.
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def jobs(self) -> int:
        """Number of jobs of the matrix."""
        return sum(self.states.values())

    @property
    def controls(self) -> int:
        """How often controls are measured between them."""
        return sum(self.control_states.values())

    @property
    def finished(self) -> bool:
        """Whether no job is queued or running, controls included."""
        return not any(state.is_open for state in (*self.states, *self.control_states))


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """One job of a run, measured or not."""

    job_id: str
    run_id: str
    spec: JobSpec
    #: Place of its cell in the matrix, as the user wrote it.
    cell_ordinal: int
    state: State
    #: How the last attempt ended, or the attempt that made the result; None before any ended.
    outcome: Outcome | None
    reason: str
    #: Attempts of this very job; 0 where its result was adopted.
    attempts: int
    #: Class of the environment that made the result; None without a result.
    environment_key: str | None
    measurement: Measurement | None = field(repr=False)
    #: Job that measured it: another run's where the result was adopted; None without a result.
    measured_by: str | None
    worker_id: str | None
    #: How often it was measured again because others or the host had spoilt it.
    remeasured: int = 0


def label(spec: JobSpec) -> str:
    """A job in a few words."""
    return f"{spec.variant} batch {spec.batch_size} {spec.device} #{spec.repeat + 1}"
