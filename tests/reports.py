"""Runs for tests of the report, collated without a database: as many cells as wanted, each as a test says."""

from __future__ import annotations

import base64
import gzip
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

from farm.measurement import Measurement, Outcome, Samples
from farm.spec import JobSpec
from results_store.collate import Collated, collate
from results_store.store import JobResult, State, Store
from results_store.values import RunInfo
from tests import factories

RUN = "20260131-142500-1a2b"

#: How a job ended: the fields of its measurement, or its outcome and reason.
Ended = dict[str, Any] | tuple[Outcome, str]

#: How many times as fast as the baseline, and its right answers of 900.
SPEEDS = {
    "baseline": (1.0, 850),
    "channels_last": (1.2, 850),
    "amp": (1.5, 849),
    "compile": (1.9, 850),
    "openvino": (2.5, 850),
    "int8_static+openvino": (7.5, 845),
    "pruning(0.3)+channels_last+int8_static+onnxruntime": (3.0, 838),
}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What `collate` reads of a store."""

    make: Callable[[], Iterator[JobResult]]
    make_controls: Callable[[], Iterator[JobResult]] = lambda: iter(())

    def results(self, run_id: str) -> Iterator[JobResult]:
        return self.make()

    def controls(self, run_id: str) -> Iterator[JobResult]:
        return self.make_controls()

    def run(self, run_id: str) -> RunInfo:
        return RunInfo(run_id=run_id, name="nightly", created_at=0.0, again=False, matrix_json="{}", states={})


def collated(
    ended: Callable[[JobSpec], Ended],
    *,
    recipes: Sequence[str] = tuple(SPEEDS),
    batches: Sequence[int] = (1, 8, 32),
    models: Sequence[str] = ("densenet121",),
    devices: Sequence[str] = ("cpu",),
    repeats: int = 1,
    run: str = RUN,
    **fields: Any,
) -> Collated:
    """A run of these cells; `fields` are those of their specs."""
    cells = [
        {"model": model, "device": device, "batch_size": batch, "recipe": recipe, **fields}
        for model in models
        for device in devices
        for batch in batches
        for recipe in recipes
    ]

    def results() -> Iterator[JobResult]:
        for ordinal, cell in enumerate(cells):
            for repeat in range(repeats):
                spec = factories.spec(**cell, repeat=repeat)
                yield result(ordinal * repeats + repeat, ordinal, spec, ended(spec), run)

    return collate(cast(Store, Shelf(make=results)), run)


def result(number: int, ordinal: int, spec: JobSpec, ended: Ended, run: str = RUN) -> JobResult:
    """One job of the run."""
    job_id = f"{run}.{number:06d}"
    outcome, reason = (Outcome.OK, "") if isinstance(ended, dict) else ended
    measured: Measurement | None = None
    if isinstance(ended, dict):
        measured = factories.measurement(spec=spec, started_at=1000.0 + 10 * number, **ended)
    return JobResult(
        job_id=job_id,
        run_id=run,
        spec=spec,
        cell_ordinal=ordinal,
        state=State.DONE if outcome.is_result else State.FAILED,
        outcome=outcome,
        reason=reason,
        attempts=1,
        environment_key=None if measured is None else measured.environment.key,
        measurement=measured,
        measured_by=None if measured is None else job_id,
        worker_id="cpu@alpha",
    )


def plausible(spec: JobSpec, calls: int = 200, paired: bool = True) -> dict[str, Any]:
    """A clean measurement that is the faster the more its recipe does; in a bit of a rhythm, never at random."""
    times, right = SPEEDS.get(str(spec.recipe), (1.0, 850))
    baseline_ms = 10.0 * spec.batch_size**0.9
    own_ms = baseline_ms / times * (1 + 0.004 * (spec.repeat % 3))
    fields: dict[str, Any] = {
        "samples": factories.samples(own_ms, own_ms * 1.1, calls=calls),
        "accuracy": factories.accuracy(top1_correct=right),
        "build_s": None if "openvino" not in str(spec.recipe) else 20.0 * times,
        "first_call_s": 0.05 * times,
        "model_size_bytes": (32 << 20) // (4 if "int8" in str(spec.recipe) else 1),
        "missing": {"vram_usage": "measured on a CPU", "energy": "the kernel shows no RAPL"},
    }
    if paired:
        drifted = baseline_ms * (1 + 0.01 * (spec.repeat % 2))
        fields["control"] = factories.baseline_beside(drifted, calls=calls)
    return fields


def mixed(spec: JobSpec) -> Ended:
    """As `plausible`, but one recipe is INVALID, one SUSPECT, one not supported and one ran out of memory."""
    recipe, fields = str(spec.recipe), plausible(spec, calls=700)
    if recipe == "int8_static+openvino":
        return {**fields, "evidence": {"dtype_asked": "int8", "dtype": "float32"}}
    if recipe == "openvino":
        return {**fields, "contention": factories.contention(others_s=0.8)}
    if recipe == "amp":
        return (Outcome.UNSUPPORTED, "amp needs more than there is")
    if recipe == "compile" and spec.batch_size > 8:
        return (Outcome.OUT_OF_MEMORY, "")
    return fields


_NO_LABELS = {"top1_correct": None, "top5_correct": None, "baseline_top1_correct": None}
#: As `SPEEDS`, of which some are all but equal; and right answers of 900.
CLOSE: dict[str, tuple[float, int | None]] = {
    "baseline": (1.03, 850),
    "channels_last": (1.01, 850),
    "amp": (1.5, None),
    "compile": (2.0, 850),
    "openvino": (2.005, 849),
    "int8_static+openvino": (2.5, 845),
    "pruning(0.3)+channels_last+int8_static+onnxruntime": (2.47, 838),
}


def varied(spec: JobSpec) -> Ended:
    """Cells of every kind, each repeat with an error of its own: ties, doubts, and what is not known."""
    recipe = str(spec.recipe)
    times, right = CLOSE[recipe]
    draw = random.Random(f"{recipe} {spec.batch_size} {spec.device} {spec.repeat}")
    baseline_ms = 10.0 * spec.batch_size**0.9 * math.exp(draw.gauss(0, 0.01))
    # the baseline is faster than its control; some differ by less than that, and hardly vary
    own_ms = baseline_ms / times * math.exp(draw.gauss(0, 0.001 if "int8" in recipe else 0.004))
    if recipe == "compile" and spec.batch_size == 32:
        return (Outcome.OUT_OF_MEMORY, "")
    if recipe in ("channels_last", "openvino") and spec.batch_size == 8 and spec.repeat >= 2:
        return (Outcome.CRASHED, "SIGSEGV")
    calls = 200 if recipe == "channels_last" else 700
    fields = {
        **plausible(spec),
        "samples": factories.samples(own_ms, own_ms * 1.1, calls=calls),
        "control": None if recipe == "amp" else factories.baseline_beside(baseline_ms, calls=calls),
        "accuracy": factories.accuracy(**(_NO_LABELS if right is None else {"top1_correct": right})),
        "model_size_bytes": (40 - 5 * len(recipe.split("+"))) << 20,
    }
    if recipe in ("openvino", "baseline"):
        fields["energy"] = factories.energy(joules=400 / times * math.exp(draw.gauss(0, 0.01)))
    if recipe == "openvino" and spec.batch_size == 32:
        fields["contention"] = factories.contention(others_s=0.8)
    if recipe.startswith("pruning") and spec.batch_size == 1:
        fields["evidence"] = {"dtype_asked": "int8", "dtype": "float32"}
    return fields


def bare(spec: JobSpec) -> dict[str, Any]:
    """A measurement of which as little is known as there can be."""
    calls = Samples(device_ns=(10_000_000,) * 12, end_to_end_ns=(11_000_000,) * 12)
    return {
        "samples": calls,
        "memory": None,
        "accuracy": factories.accuracy(**_NO_LABELS),
        "missing": {"ram_usage": "told by a cell's first repeat", "energy": "no counter", "accuracy": "no labels"},
    }


class Page(HTMLParser):
    """A page, taken apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        #: Every element's tag and attributes.
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        #: All that is read, without scripts and styles.
        self.text = ""
        self.scripts: list[str] = []
        self._in: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    @cached_property
    def data(self) -> Any:
        """What its script draws."""
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[0])))

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The rows of its data by column."""
        return [dict(zip(self.data["columns"], row, strict=True)) for row in self.data["rows"]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._in = tag
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in is None:
            self.text += data
