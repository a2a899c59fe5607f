"""How values lie in the tables: measurements as JSON, samples and traces compressed, text made safe."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa

from farm import catalogue
from farm.errors import BadInput
from farm.measurement import Environment, Measurement, Profile, Samples
from farm.recipe import Recipe
from farm.requirement import Requirement
from farm.spec import Cell, completed, validated
from results_store.values import MAX_LOG_BYTES, MAX_REASON_CHARS, Ending, WorkerInfo

_INT64 = np.dtype("<i8")
_SHOWN_CHARS = 500
#: Cells and recipes that need not be read again: to read one takes a millisecond, and each has many repeats.
_KNOWN = 256
#: Control characters but tabs and line breaks.
_STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def job_id(run_id: str, ordinal: int) -> str:
    """The id of a run's job."""
    return f"{run_id}.{ordinal:06d}"


def run_id_of(job_id: str) -> str:
    """The run of a job."""
    return job_id.rpartition(".")[0]


@functools.lru_cache(maxsize=_KNOWN)
def cell(text: str) -> Cell:
    """The cell of a row.

    Raises:
        BadInput: it is none, or none any more; says why.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"it is {text[:_SHOWN_CHARS]!r}")
        return validated(Cell, completed(found))
    except (ValueError, RecursionError) as error:  # BadInput too
        reason = str(error)[:_SHOWN_CHARS]
        raise BadInput(
            f"What is to be measured cannot be read from the store: {reason} Either its row was changed, or a "
            f"plug-in or package that it names is not here."
        ) from None


def is_as_submitted(text: str, repeat: int, key: str) -> bool:
    """Whether a cell's row still says what this key was made of, in whatever version of the farm."""
    whole = json.dumps({**json.loads(text), "repeat": repeat}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest() == key


def ending(ending: Ending) -> dict[str, Any]:
    """The columns of an attempt that its ending fills."""
    measurement = ending.measurement
    samples = measurement.samples if measurement else Samples()
    control = measurement.control if measurement else None
    profile = measurement.profile if measurement else None
    return {
        "outcome": ending.outcome,
        "reason": clean(ending.reason),
        "phase": ending.phase,
        "log_tail": clean_tail(ending.log_tail),
        "device_from": ending.device_from,
        "device_until": ending.device_until,
        "measurement": None if measurement is None else _without_bulk(measurement),
        "device_ns": packed(samples.device_ns) if measurement else None,
        "end_to_end_ns": packed(samples.end_to_end_ns) if measurement else None,
        "control_ns": packed(control.device_ns) if control else None,
        "operators": json.dumps(profile.model_dump(mode="json")["operators"]) if profile else None,
        "trace": zlib.compress(profile.trace.encode()) if profile and profile.trace else None,
    }


#: What has columns of its own.
_BULK: Mapping[str, Any] = {"samples": True, "control": {"device_ns"}, "profile": {"operators", "trace"}}


def _without_bulk(measurement: Measurement) -> str:
    """As JSON; what is large has columns of its own."""
    return json.dumps(measurement.model_dump(mode="json", exclude=_BULK))


def profile(measurement: str | None, operators: str | None) -> Profile | None:
    """The profile of an attempt, but for its trace; None where there is none."""
    found = None if measurement is None else json.loads(measurement).get("profile")
    return None if found is None else Profile.model_validate({**found, "operators": json.loads(operators or "[]")})


def trace(blob: bytes | None) -> str | None:
    """The trace of an attempt, as JSON; None where there is none."""
    return None if blob is None else zlib.decompress(blob).decode()


def measurement(
    text: str | None, device_ns: bytes | None, end_to_end_ns: bytes | None, control_ns: bytes | None
) -> Measurement | None:
    """The measurement of an attempt, whole again but for its profile's operators and trace; None without one."""
    if text is None:
        return None
    fields = json.loads(text)
    fields["spec"] = _spec(fields["spec"])
    fields["samples"] = {"device_ns": unpacked(device_ns), "end_to_end_ns": unpacked(end_to_end_ns)}
    if fields.get("control") is not None:
        fields["control"]["device_ns"] = unpacked(control_ns)
        fields["control"]["recipe"] = _recipe(str(fields["control"]["recipe"]))
    return Measurement.model_validate(fields)


def _spec(fields: dict[str, Any]) -> Any:
    """The spec of a measurement: a repeat of a cell that may be known already."""
    repeat = fields.pop("repeat", 0)
    if not isinstance(repeat, int):
        return {**fields, "repeat": repeat}  # to be refused with the rest
    return cell(json.dumps(fields, sort_keys=True, separators=(",", ":"))).repeated(repeat)


@functools.lru_cache(maxsize=_KNOWN)
def _recipe(text: str) -> Recipe:
    return catalogue.parse_recipe(text)


def packed(values: tuple[int, ...]) -> bytes:
    """Integers as zlib of little-endian int64."""
    return zlib.compress(np.asarray(values, dtype=_INT64).tobytes())


def unpacked(blob: bytes | None) -> tuple[int, ...]:
    """What was packed."""
    return () if blob is None else tuple(np.frombuffer(zlib.decompress(blob), dtype=_INT64).tolist())


def clean(text: str) -> str:
    """A reason that any database takes, and any terminal may show: PostgreSQL refuses NUL and lone surrogates."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", _storable(text))[:MAX_REASON_CHARS]


def clean_tail(text: str) -> str:
    """The end of a log, at most `MAX_LOG_BYTES` of it."""
    return _storable(text).encode()[-MAX_LOG_BYTES:].decode(errors="ignore")


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def worker_row(worker: WorkerInfo) -> dict[str, Any]:
    """The columns of a worker, its heartbeat apart."""
    return {
        "worker_id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "device_kind": worker.device_kind,
        "device_model": worker.device_model,
        "device_uuid": worker.device_uuid,
        "queues": json.dumps(worker.queues),
        "threads": worker.threads,
        "environment_key": worker.environment_key,
        "environment": worker.environment.model_dump_json(),
        "quarantined": worker.quarantined,
    }


@functools.lru_cache(maxsize=_KNOWN)
def requirement(text: str) -> Requirement | None:
    """What a row asks of workers; None where it cannot be read: then it asks for nothing."""
    try:
        return Requirement.model_validate_json(text)
    except ValueError:
        return None


@functools.lru_cache(maxsize=_KNOWN)
def environment(text: str) -> Environment:
    """The environment of a worker's row."""
    return Environment.model_validate_json(text)


def worker(row: sa.Row[Any]) -> WorkerInfo:
    """The worker of a row."""
    return WorkerInfo(
        id=row.worker_id,
        host=row.host,
        pid=row.pid,
        device_kind=row.device_kind,
        device_model=row.device_model,
        device_uuid=row.device_uuid,
        queues=tuple(json.loads(row.queues)),
        threads=row.threads,
        environment_key=row.environment_key,
        environment=environment(row.environment),
        last_seen=row.last_seen,
        quarantined=row.quarantined,
        quarantined_since=row.quarantined_since,
    )
