"""Makes specs, environments, measurements and workers for tests: each with defaults, each field settable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farm.measurement import (
    Accuracy,
    Contention,
    Control,
    Energy,
    Environment,
    Measurement,
    Memory,
    Operator,
    Outcome,
    Profile,
    Samples,
    Spread,
    Telemetry,
    Usage,
)
from farm.spec import Cell, JobSpec, Matrix, Protocol
from results_store.store import Claim, Ending, Store, WorkerInfo

#: Short and exact, so that a test need not know the presets.
PROTOCOL = Protocol(name="test", min_calls=11, target_half_width=0.05, paired=False, control_every=None)


def matrix(**fields: Any) -> Matrix:
    """A matrix of one cell and one repeat, where nothing else is said."""
    given = {"optimizations": ("baseline",), "batch_sizes": (1,), "protocol": PROTOCOL, "repeats": 1}
    return Matrix.model_validate({**given, **fields})


def spec(**fields: Any) -> JobSpec:
    """A job: the baseline of DenseNet-121 on digits, batch 1, CPU."""
    given = {
        "model": "densenet121",
        "recipe": "baseline",
        "batch_size": 1,
        "device": "cpu",
        "dataset": "digits",
        "image_size": 64,
        "protocol": PROTOCOL,
    }
    return JobSpec.model_validate({**given, **fields})


def cell(**fields: Any) -> Cell:
    """The cell of such a job."""
    return spec(**fields).cell


def environment(**fields: Any) -> Environment:
    """A CPU host with two processors."""
    given = {
        "host": "alpha",
        "device_kind": "cpu",
        "device_model": "Test CPU",
        "processors": 2,
        "threads": 2,
        "memory_bytes": 8 << 30,
        "features": ("avx2",),
        "os": "Linux",
        "python": "3.11.0",
        "packages": {"torch": "2.14.1", "onnxruntime": "1.31.1"},
    }
    return Environment.model_validate({**given, **fields})


def measurement(**fields: Any) -> Measurement:
    """A clean measurement: 200 calls of about 10 ms (device) and 11 ms (end to end), 850 of 900 images right."""
    given = {
        "spec": spec(),
        "environment": environment(),
        "started_at": 1000.0,
        "ended_at": 1010.0,
        "samples": samples(),
        "usage": Usage(wall_s=2.0, cpu_s=3.0, faults_per_call=0.0, faults_by_half=(0.0, 0.0)),
        "contention": contention(),
        "memory": Memory(floor_bytes=200 << 20, peak_bytes=300 << 20),
        "accuracy": accuracy(),
        "first_call_s": 0.05,
        "warmup_s": 0.6,
        "warmup_steady": True,
        "load_s": 0.2,
        "model_size_bytes": 32 << 20,
        "parameters": 7_978_856,
        "evidence": {},
    }
    return Measurement.model_validate({**given, **fields})


def samples(device_ms: float = 10.0, end_to_end_ms: float | None = None, calls: int = 200) -> Samples:
    """Samples that wander by 1 % around these figures, always alike; end to end takes a tenth more by default."""
    host_to_host_ms = device_ms * 1.1 if end_to_end_ms is None else end_to_end_ms
    return Samples(device_ns=_wander(device_ms, calls), end_to_end_ns=_wander(host_to_host_ms, calls))


def baseline_beside(device_ms: float = 20.0, calls: int = 200, rounds: int = 10, **fields: Any) -> Control:
    """A baseline of about 20 ms in ten rounds, beside a cell of as many calls."""
    each = (calls // rounds,) * rounds
    given = {
        "recipe": "baseline",
        "device_ns": _wander(device_ms, calls),
        "cell_calls": each,
        "control_calls": each,
        "cell_first": (True, False) * (rounds // 2),
        "seed": 0,
        "cell_idle_share": 0.0,
        "control_idle_share": 0.0,
    }
    return Control.model_validate({**given, **fields})


def control(speedups: Sequence[float] = (2.0,) * 20, drift: float = 0.0, **fields: Any) -> dict[str, Any]:
    """The fields of a cell of 200 calls and of its control.

    Args:
        speedups: how much faster the cell is in each round; rounds have as many calls each.
        drift: how much slower both are in the second half.
        fields: of the control.
    """
    steady = samples()
    cell = [int(ns * (1 + drift * (call >= 100))) for call, ns in enumerate(steady.device_ns)]
    per_round = len(cell) // len(speedups)
    given = {
        "recipe": "baseline",
        "device_ns": [int(ns * speedups[call // per_round]) for call, ns in enumerate(cell)],
        "cell_calls": (per_round,) * len(speedups),
        "control_calls": (per_round,) * len(speedups),
        "cell_first": tuple(number % 2 == 0 for number in range(len(speedups))),
        "seed": 1,
        "cell_idle_share": 0.01,
        "control_idle_share": 0.01,
    }
    return {
        "samples": Samples(device_ns=tuple(cell), end_to_end_ns=steady.end_to_end_ns),
        "control": Control.model_validate({**given, **fields}),
    }


def contention(others_s: float = 0.04, steal_s: float = 0.0) -> Contention:
    """4 s on two processors, of which others had so many seconds."""
    return Contention(wall_s=4.0, processors=2, others_s=others_s, steal_s=steal_s)


def energy(**fields: Any) -> Energy:
    """400 J in 2 s for 800 samples."""
    return Energy.model_validate({"joules": 400, "window_s": 2, "samples": 800, "scope": "package", **fields})


def telemetry(
    flags: dict[str, int] | None = None, before: dict[str, float] | None = None, **gauges: float
) -> Telemetry:
    """Eight readings in 4 s, in which these gauges stood still."""
    spreads = {name: Spread(min=value, mean=value, max=value, count=8) for name, value in gauges.items()}
    return Telemetry(
        every_s=0.5, readings=8, window_s=4, gauges=spreads, counters={}, flags=flags or {}, facts=before or {}
    )


def accuracy(**fields: Any) -> Accuracy:
    """850 of 900 right, 895 in the first five, 899 as the baseline."""
    given = {
        "samples": 900,
        "top1_correct": 850,
        "top5_correct": 895,
        "baseline_top1_correct": 850,
        "agreeing": 899,
        "logits_relative_error": 1e-3,
        "finite": True,
    }
    return Accuracy.model_validate({**given, **fields})


def profile(**fields: Any) -> Profile:
    """Three calls of 8 ms each on a CPU: three quarters in a convolution, the rest outside of it; with a trace."""
    given = {
        "source": "torch.profiler",
        "calls": 3,
        "operators": (
            Operator(name="aten::conv2d", calls=6, host_total_s=0.006, host_self_s=0.006),
            Operator(name="call of the model", calls=3, host_total_s=0.008, host_self_s=0.002),
        ),
        "trace": '{"traceEvents":[{"ph":"X","name":"aten::conv2d","ts":0,"dur":6000,"pid":0,"tid":0}]}',
    }
    return Profile.model_validate({**given, **fields})


def worker(id: str = "cpu@alpha", **fields: Any) -> WorkerInfo:
    """A worker of the queue `cpu` with two threads, in the environment of `environment()`."""
    where = fields.pop("environment", None) or environment()
    given = {
        "host": where.host,
        "pid": 1,
        "device_kind": where.device_kind,
        "device_model": where.device_model,
        "device_uuid": where.device_uuid,
        "queues": ("cpu",),
        "threads": where.threads,
        "environment_key": where.key,
    }
    return WorkerInfo(id=id, environment=where, **{**given, **fields})


def ok(claim: Claim, **fields: Any) -> Ending:
    """The ending of a claim that was measured."""
    return Ending(outcome=Outcome.OK, measurement=measurement(spec=claim.spec, **fields))


def submitted(store: Store, **fields: Any) -> str:
    """Submits a matrix; the run's id."""
    return store.submit(matrix(**fields)).run_id


def measure_all(store: Store, worker_id: str, **fields: Any) -> int:
    """Claims and finishes until nothing is left; returns how many jobs that were."""
    done = 0
    while (claim := store.claim(worker_id)) is not None:
        assert store.finish(claim, ok(claim, **fields))
        done += 1
    return done


def _wander(milliseconds: float, calls: int) -> tuple[int, ...]:
    # 37 and 101 have no common factor: a spread without trend, and without randomness
    return tuple(int(milliseconds * 1e6 * (1 + 0.01 * ((i * 37 % 101) / 50 - 1))) for i in range(calls))
