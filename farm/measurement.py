"""What was measured: raw samples and what was observed. Statistics are derived, never stored in their place."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from farm import statistics
from farm.spec import UNWRITTEN, JobSpec, RecipeText, Value


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_result(self) -> bool:
        """Whether it is a result, written down once, rather than a failure."""
        return self in (Outcome.OK, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY)


class GpuFacts(Value):
    """What a GPU's driver says of it. Each None where the driver does not tell: unknown, and never guessed."""

    #: 9.0 of an H200: which instructions it has.
    compute_capability: float | None = None
    memory_bytes: int | None = None
    #: Who may use it: `default` (everybody), `exclusive process` (one process at a time) or `prohibited`.
    compute_mode: str | None = None
    #: Whether it is divided into slices (multi-instance GPU, MIG), each of which is used like a GPU.
    is_divided: bool | None = None
    #: Of a slice: UUID of the GPU that it is a part of.
    part_of: str | None = None
    #: What it is set to. The highest clocks are the measurement's `hardware`.
    power_limit_w: float | None = None
    sm_set_hz: float | None = None


class Environment(Value):
    """Where and with what was measured."""

    host: str
    #: `cpu` or `cuda`.
    device_kind: str
    #: As the processor or the driver names it, such as `NVIDIA H200`.
    device_model: str
    #: UUID of the GPU; None for a CPU.
    device_uuid: str | None = None
    processors: int
    #: Processors the measurement may use.
    threads: int
    memory_bytes: int
    #: Instruction sets that decide what runs fast, such as `avx512_bf16`.
    features: tuple[str, ...] = ()
    #: GPU driver; None for a CPU.
    driver: str | None = None
    #: None for a CPU.
    gpu: Annotated[GpuFacts | None, UNWRITTEN] = None
    os: str
    python: str
    #: Version of each package that takes part.
    packages: dict[str, str]
    #: Commit of the farm, where it runs from a checkout; a `+` marks changes.
    commit: str | None = None

    @property
    def key(self) -> str:
        """The environment's class: equal keys may be pooled, unequal ones never. 12 hex digits."""
        return hashlib.sha256(json.dumps(self.apart, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def apart(self) -> dict[str, Any]:
        """What tells classes apart: host name, commit and operating system are recorded but do not."""
        recorded: dict[str, Any] = dict.fromkeys(("host", "device_uuid", "commit", "os", "memory_bytes"), True)
        # The same for which GPU of a kind it is; what it is set to changes what it can do.
        return self.model_dump(mode="json", exclude={**recorded, "gpu": {"memory_bytes", "part_of"}})


class Samples(Value):
    """Wall time of every timed call, in nanoseconds, in the order of the calls."""

    #: Input already on the device, output left there.
    device_ns: tuple[int, ...] = ()
    #: Host input to host output.
    end_to_end_ns: tuple[int, ...] = ()


class Control(Value):
    """The baseline, alive beside the cell in a process of its own: short windows of both took turns."""

    #: What it ran: the baseline with the cell's allocator.
    recipe: RecipeText
    #: Wall time of each of its timed calls in nanoseconds, in order.
    device_ns: tuple[int, ...]
    #: Timed calls of each round's two windows; the cell's are the measurement's own device samples, in order.
    cell_calls: tuple[int, ...]
    control_calls: tuple[int, ...]
    #: Whether the cell's window came first, by round: drawn at random from this seed.
    cell_first: tuple[bool, ...]
    seed: int
    #: Processor time that each took while the other one was timed ÷ that time.
    cell_idle_share: float
    control_idle_share: float


class Usage(Value):
    """What the measuring process used while the device figure was timed."""

    wall_s: float
    #: Processor time, all threads.
    cpu_s: float
    #: Page faults that needed no disk, per call.
    faults_per_call: float
    #: Faults per call of the window's two halves: a change means that the heap was still settling.
    faults_by_half: tuple[float, float]


class Contention(Value):
    """Who else used the measurement's processors, from before the first timed call to after the last one."""

    wall_s: float
    #: Processors the measurement could run on.
    processors: int
    #: Processor time that other processes took there.
    others_s: float
    #: Time that the hypervisor gave to other machines.
    steal_s: float
    #: Processor time that was used on the other halves of its cores (SMT), by whomever; None where the kernel does
    #: not tell which they are, or it was measured before this was kept.
    beside_s: float | None = None
    #: Time for which a limit on processor time (a container's `--cpus`) stopped what wanted to run; None where the
    #: kernel does not tell, or it was measured before this was kept.
    held_back_s: float | None = None

    @property
    def taken(self) -> float:
        """How many of the processors others had, or a limit kept from it, on average."""
        return (self.others_s + self.steal_s + (self.held_back_s or 0.0)) / self.wall_s if self.wall_s else 0.0


class Memory(Value):
    """Memory in bytes."""

    #: Resident before the model or its artifact was loaded, after imports.
    floor_bytes: int
    #: Highest resident since then.
    peak_bytes: int
    #: Highest that torch's allocator held on the GPU.
    vram_allocator_bytes: int | None = None
    #: Highest that the driver saw for the process.
    vram_process_bytes: int | None = None


class Accuracy(Value):
    """What the very callable that was timed answered on the test part, at the same batch size and device."""

    samples: int
    #: Right answers; None without real labels.
    top1_correct: int | None = None
    top5_correct: int | None = None
    #: Right answers of the fp32 baseline for the very same samples; None without real labels.
    baseline_top1_correct: int | None = None
    #: How many classes there are to choose from.
    classes: int | None = None
    #: Samples whose first answer equals that of the fp32 baseline.
    agreeing: int
    #: ‖logits − baseline's‖ ÷ ‖baseline's‖ over all samples; None where it is not finite.
    logits_relative_error: float | None
    #: False when any output was NaN or infinite.
    finite: bool


class Spread(Value):
    """What readings of one quantity came to."""

    min: float
    mean: float
    max: float
    count: int


class Grown(Value):
    """How much a counter grew between the first reading and the last, and how fast."""

    total: float
    #: Per second: on the whole, and between two readings.
    rate: float
    rate_min: float
    rate_max: float


class Telemetry(Value):
    """What the supervisor read of host and device while the calls were timed; names carry their units.

    Summaries of the readings that lie within the timed windows, by the names that `farm/devices/host.py` and
    `farm/devices/nvml.py` give them.
    """

    #: How often was read; a reading takes in all sources.
    every_s: float
    readings: int
    #: From the first reading to the last.
    window_s: float
    gauges: dict[str, Spread]
    #: `cpu_s`: processor time of the measuring processes; `energy_j`, …
    counters: dict[str, Grown]
    #: In how many readings each of them was so: reasons for a GPU's lower clocks.
    flags: dict[str, int] = Field(default_factory=dict)
    #: What was so before the measuring process began.
    facts: dict[str, float] = Field(default_factory=dict)
    #: Why a quantity is not there, by its name.
    missing: dict[str, str] = Field(default_factory=dict)


class Energy(Value):
    """What calls took between two readings of the device's own cumulative counter."""

    joules: float
    window_s: float
    samples: int
    #: What the counter counts: `package` (the host's processors, whoever used them) or `gpu`.
    scope: str
    #: What bounded the power, as the driver said right after it; None where nobody tells.
    power_limit_w: float | None = None
    clock_hz: float | None = None

    @property
    def per_sample_j(self) -> float:
        """Joules per sample."""
        return self.joules / self.samples

    @property
    def mean_w(self) -> float:
        """Mean power in watts."""
        return self.joules / self.window_s


class Hardware(Value):
    """What the device says of itself, in hertz: what limits are reckoned from. Each None where it does not say."""

    #: Of a CPU's processors.
    base_hz: float | None = None
    highest_hz: float | None = None
    #: What the kernel shows where it does not tell the two, as in a virtual machine: seldom the highest.
    shown_hz: float | None = None
    gpu_cores: int | None = None
    #: Of the SMs: the highest there is, and what the application clock is set to.
    sm_highest_hz: float | None = None
    sm_set_hz: float | None = None
    #: Of the GPU's memory, which moves two bits a line and clock.
    memory_highest_hz: float | None = None
    memory_bus_bits: int | None = None


#: Kernels made from C++ templates have names of many thousand characters.
_MAX_NAME_CHARS = 1000


def _storable(text: object) -> object:
    """A library's text without what databases and files refuse: NUL and lone surrogates."""
    if not isinstance(text, str):
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _cut(name: str) -> str:
    return name[:_MAX_NAME_CHARS]


_Text = Annotated[str, BeforeValidator(_storable)]
_Name = Annotated[_Text, AfterValidator(_cut)]


class Operator(Value):
    """One operator of a profile. Seconds are per call of the model; None where the profiler does not tell.

    Total times have in them what an operator called or started, self times have not.
    """

    name: _Name
    #: What executed it, where that is told: ONNX Runtime's provider, OpenVINO's kernel.
    provider: _Name | None = None
    #: In all profiled calls of the model together.
    calls: int
    host_total_s: float | None = None
    host_self_s: float | None = None
    #: Of the GPU; None on a CPU.
    device_total_s: float | None = None
    device_self_s: float | None = None

    @property
    def self_s(self) -> float:
        """Its own time on the device where that is told, else on the host; 0 where neither is."""
        own = self.host_self_s if self.device_self_s is None else self.device_self_s
        return own or 0.0


class Profile(Value):
    """Where some calls spent their time, after everything was timed. The profiler itself slows them down."""

    #: Who profiled: `torch.profiler`, `onnxruntime`, `openvino`, `tensorrt`, …
    source: str
    #: Calls of the model that were profiled.
    calls: int
    #: Those with the longest self time first.
    operators: tuple[Operator, ...] = ()
    #: JSON in Chrome's trace format; None where there is none.
    trace: _Text | None = None
    #: Why something is not there, by its name.
    missing: dict[str, str] = Field(default_factory=dict)


class Measurement(Value):
    """One job, measured: what every figure is derived from."""

    spec: JobSpec
    environment: Environment
    #: Seconds since the epoch.
    started_at: float
    ended_at: float
    #: How its process began: `fork` from a warm template, or `spawn`.
    isolation: str = "spawn"
    samples: Samples
    #: First timed call and last one, seconds since the epoch; None where it was measured before this was kept.
    timed_from: float | None = None
    timed_until: float | None = None
    #: None where the protocol has none, or it could not live beside the cell.
    control: Control | None = None
    usage: Usage
    #: None where the kernel does not tell.
    contention: Contention | None = None
    #: None where nobody watched: by `python -m farm measure`, or where the protocol has none.
    telemetry: Telemetry | None = None
    #: None where it was measured before this was kept.
    hardware: Hardware | None = None
    #: None of the repeats after the first, and where the device does not count it.
    energy: Energy | None = None
    #: None of the repeats after the first.
    memory: Memory | None = None
    #: Of the first repeat over the test part; of the others over a few of the inputs that were timed.
    accuracy: Accuracy
    #: The first call of all, and how long warm-up took until it was steady (or capped).
    first_call_s: float
    warmup_s: float
    warmup_steady: bool
    #: Loading the artifact or the model into the process.
    load_s: float
    #: Making the artifact, whenever that was; None where there is none.
    build_s: float | None = None
    #: Of it, what this very job waited for; 0 from a warm cache.
    build_spent_s: float = 0.0
    #: All files together.
    model_size_bytes: int
    parameters: int
    #: Multiply-accumulates of one image; None where they were not counted.
    macs: int | None = None
    #: Proof that the recipe really ran, as its runtime observed it.
    evidence: dict[str, Any]
    #: Of the first repeat, where the protocol wants one. The store keeps its operators and its trace apart.
    profile: Profile | None = None
    #: Why a metric is empty, by its name.
    missing: dict[str, str] = Field(default_factory=dict)

    @property
    def speedups(self) -> list[float]:
        """How much faster than its live control it was in each round of windows; empty without a control."""
        if self.control is None:
            return []
        return statistics.window_ratios(
            self.samples.device_ns, self.control.cell_calls, self.control.device_ns, self.control.control_calls
        )
