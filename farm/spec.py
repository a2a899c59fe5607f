"""What to measure: matrix, job and protocol, frozen and validated, the same in Python, TOML and JSON.

Nothing here says where things live: that is `farm.settings`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from farm import catalogue, datasets, models, statistics, weights
from farm.errors import BadInput, unknown
from farm.recipe import BASELINE, Recipe

MAX_BATCH_SIZE = 65_536
MAX_JOBS = 1_000_000

#: A device with fewer jobs than this has no repeated control: that would cost about as much as it watches over.
LEAST_JOBS_WATCHED = 5
#: Name of the protocol of a repeated control, so that its results are never taken for a cell's.
CONTROL = "control"

#: A GPU by its own name (`cuda.h200`), any GPU (`cuda`), or a CPU.
_DEVICE = re.compile(r"cpu|cuda(\.[a-z0-9][a-z0-9-]*)?")


class Value(BaseModel):
    """Base of all values: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def canonical(self) -> str:
        """The value as JSON with sorted keys and no spaces: equal values, equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _as_recipe(value: Any) -> Recipe:
    return value if isinstance(value, Recipe) else catalogue.parse_recipe(str(value))


def device_name(text: str) -> str:
    """How a device is written down: `gpu` is `cuda`, in whatever case."""
    name = text.strip().lower()
    kind, dot, model = name.partition(".")
    return f"cuda{dot}{model}" if kind == "gpu" else name


def _as_device(value: Any) -> str:
    text = device_name(str(value))
    if _DEVICE.fullmatch(text) is None:
        raise unknown("device", str(value), ("cpu", "cuda", "cuda.<model>, such as cuda.h200"))
    return text


def _as_model(value: Any) -> str:
    return models.check_name(str(value))


RecipeText = Annotated[Recipe, BeforeValidator(_as_recipe), PlainSerializer(str, return_type=str)]
Device = Annotated[str, BeforeValidator(_as_device)]
ModelName = Annotated[str, BeforeValidator(_as_model)]
Dataset = Annotated[str, BeforeValidator(datasets.check_name)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]
ImageSize = Annotated[int, Field(ge=32, le=2048)]
Threads = Annotated[int, Field(ge=1, le=1024)]
#: Left out of what is written down where there are none, so that what was measured before keeps its key.
UNWRITTEN = Field(exclude_if=lambda value: value is None)
Weights = Annotated[str | None, BeforeValidator(weights.check), UNWRITTEN]
MinVram = Annotated[Annotated[int, Field(ge=1, le=1 << 24)] | None, UNWRITTEN]


def _as_percentiles(value: Any) -> Any:
    """What `--set percentiles=50+99` means, in order and each once."""
    items = value.split("+") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return items
    possible = {str(q): q for q in statistics.FLOORS}
    for item in items:
        if str(item).strip() not in possible:
            raise unknown("percentile", str(item), possible)
    return sorted({possible[str(item).strip()] for item in items})


Percentiles = Annotated[tuple[int, ...], BeforeValidator(_as_percentiles)]


#: How a measuring process begins: forked from one that has imported everything, or started anew.
Isolation: TypeAlias = Literal["fork", "spawn"]
ISOLATIONS: tuple[str, ...] = get_args(Isolation)


class Protocol(Value):
    """How long and how often to measure; every field is settable and stored with the result."""

    # JSON knows neither.
    model_config = ConfigDict(allow_inf_nan=False)

    name: str = "standard"
    #: Warm-up ends when two halves of the recent window agree, not before the floor and not after the cap.
    warmup_min_s: float = Field(default=0.5, ge=0)
    warmup_max_s: float = Field(default=10.0, ge=0)
    warmup_min_calls: int = Field(default=3, ge=1)
    #: Each of the two figures (device, end to end) is measured at least so long and so often …
    min_s: float = Field(default=2.0, ge=0)
    min_calls: int = Field(default=11, ge=1)
    #: … then until the median's interval is narrower than this (half-width ÷ median), and the window's halves
    #: differ by no more than this and chance, or time is up.
    target_half_width: float = Field(default=0.01, gt=0)
    max_s: float = Field(default=10.0, gt=0)
    #: Percentiles to be stated: calls go on until there are enough for them or time is up, which makes it SUSPECT.
    percentiles: Percentiles = (50,)
    #: The baseline lives beside the cell, and short windows of both take turns: the speed-up is paired …
    paired: bool = True
    #: … in windows of this length, and of at least one call. Without it, device and end-to-end windows take turns,
    #: which begin with this length (or half of min_s, where that is less) and grow.
    window_s: float = Field(default=0.17, ge=0.01, le=10)
    #: Without it, a run measures its baseline again after so many jobs, to see the host drift; None never does.
    control_every: int | None = Field(default=10, ge=1)
    #: The first repeat of a cell is always started anew, because only there can its memory be told.
    isolation: Isolation = "fork"
    #: A measurement that others or the host spoilt is made again so often.
    remeasure: int = Field(default=2, ge=0, le=10)
    #: The first repeat of a cell also profiles its operators, after everything was timed.
    profile: bool = True
    #: Where the device counts its energy, calls go on for at least so long between two readings; 0 leaves it out.
    energy_s: float = Field(default=1.0, ge=0, le=600)
    #: The supervisor looks at the host and the device this often; None never does.
    telemetry_s: float | None = Field(default=0.5, ge=0.05)
    #: Distinct inputs that take turns, so that nothing is cached away.
    distinct_inputs: int = Field(default=8, ge=1, le=64)
    #: Test images of the accuracy pass; None takes all.
    accuracy_samples: int | None = Field(default=None, ge=1)
    #: Time limits of an attempt's two phases.
    build_deadline_s: float = Field(default=1800.0, gt=0)
    measure_deadline_s: float = Field(default=900.0, gt=0)


#: `--protocol`: the protocol and how many repeats of each cell it takes.
PRESETS: Mapping[str, tuple[Protocol, int]] = {
    "quick": (
        Protocol(
            name="quick",
            warmup_min_s=0.3,
            warmup_max_s=1.5,
            min_s=1.0,
            max_s=3.0,
            target_half_width=0.02,
            paired=False,
            control_every=4,
            remeasure=1,
            accuracy_samples=256,
        ),
        1,
    ),
    "standard": (Protocol(), 10),
    "thorough": (
        Protocol(name="thorough", min_s=5.0, max_s=30.0, target_half_width=0.005, percentiles=(50, 90)),
        30,
    ),
}


def preset(name: str) -> tuple[Protocol, int]:
    """The protocol of this name and its number of repeats.

    Raises:
        BadInput: no such protocol.
    """
    if name not in PRESETS:
        raise unknown("protocol", name, PRESETS)
    return PRESETS[name]


def changed(protocol: Protocol, settings: Iterable[str]) -> Protocol:
    """The protocol with the fields that `--set` names; `+` in its name says that it is no longer the preset.

    Args:
        protocol: what to begin from.
        settings: like `min_calls=100`; `none` is None. The last one of a field holds.

    Raises:
        BadInput: no such field, or not a value for it.
    """
    values = dict(map(_setting, settings))
    try:
        made = validated(Protocol, {**protocol.model_dump(), **values})
    except BadInput as error:
        raise BadInput("\n".join(f"--set {line}" for line in str(error).splitlines())) from None
    _require_order(made)
    return protocol if made == protocol else made.model_copy(update={"name": f"{protocol.name}+"})


def eval_samples(text: str) -> str:
    """What `--eval-samples` means for the protocol's field: `none` for `all`, or the number as it was written.

    Raises:
        BadInput: it is neither.
    """
    value = text.strip().lower()
    if value == "all":
        return "none"
    if not (value.isascii() and value.isdigit() and int(value) >= 1):
        raise BadInput(
            f"--eval-samples {text}: the number of test images is needed, 1 or more, or 'all' for every one."
        )
    return value


def _require_order(protocol: Protocol) -> None:
    """Refuses a minimum that its maximum would cut short without a word, or that no attempt has the time for."""
    for low, high in (("min_s", "max_s"), ("warmup_min_s", "warmup_max_s")):
        least, most = getattr(protocol, low), getattr(protocol, high)
        if least > most:
            raise BadInput(f"--set: {low} ({least:g}) is more than {high} ({most:g}). Set {high} as well.")
    # Device and end to end; a live control has windows as long as the device's.
    windows_s = 2 * (protocol.warmup_min_s + protocol.min_s) + protocol.paired * protocol.min_s
    if windows_s >= protocol.measure_deadline_s:
        raise BadInput(
            f"--set: an attempt ends after measure_deadline_s ({protocol.measure_deadline_s:g}), and its timed "
            f"windows alone take {windows_s:g} s or more. Set measure_deadline_s as well."
        )


def _setting(text: str) -> tuple[str, str | None]:
    name, equals, value = (part.strip() for part in text.partition("="))
    field = name.replace("-", "_")
    if not equals:
        raise BadInput(f"--set {text}: a field and its value are needed, such as --set min_calls=100.")
    if field == "name":
        raise BadInput(f"--set {text}: the name cannot be set; --protocol chooses one of {', '.join(PRESETS)}.")
    if field not in Protocol.model_fields:
        raise BadInput(f"--set {text}: {unknown('field', name, set(Protocol.model_fields) - {'name'})}")
    return field, None if value.lower() == "none" else value


class Cell(Value):
    """One model × recipe × batch size × device of a matrix; its repeats make one row."""

    model: ModelName
    recipe: RecipeText
    batch_size: BatchSize
    device: Device
    dataset: Dataset
    image_size: ImageSize
    #: Processors a measurement may use; None takes all that its worker has.
    threads: Threads | None = None
    #: Digest of a dataset that is the user's own, where the submitter could read it.
    dataset_digest: str | None = None
    #: `pretrained` or `sha256:…`; None is trained here or, where there are no labels, random from a fixed seed.
    weights: Weights = None
    #: Digest of a model of an installed package, where the submitter has it.
    model_digest: Annotated[str | None, UNWRITTEN] = None
    #: GPU memory that its worker must have at least, in MiB: as the user asked. None of a CPU.
    min_vram_mb: MinVram = None
    protocol: Protocol

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def variant(self) -> str:
        """The model with its recipe, like `densenet121_channels_last+amp`."""
        return f"{self.model}_{self.recipe}"

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`, without the name of a special one."""
        return self.device.partition(".")[0]

    @property
    def queue(self) -> str:
        """The queue whose workers have this device: `cpu`, `gpu` or `gpu.<model>`."""
        return self.device.replace("cuda", "gpu", 1)

    def repeated(self, repeat: int) -> JobSpec:
        """One repeat of this cell; its values are checked already."""
        return JobSpec.model_construct(**{name: getattr(self, name) for name in Cell.model_fields}, repeat=repeat)

    def job_keys(self) -> Callable[[int], str]:
        """Gives the key of each repeat without making the job, for where there are very many of them."""
        # The quotes within a text are escaped, so nothing else of the canonical JSON looks like this.
        before, field, after = self.repeated(0).canonical().partition('"repeat":')
        begun, end = hashlib.sha256((before + field).encode()), after.removeprefix("0")

        def key(repeat: int) -> str:
            digest = begun.copy()
            digest.update(f"{repeat}{end}".encode())
            return digest.hexdigest()

        return key


class JobSpec(Cell):
    """One repeat of a cell: all that a worker needs to know, and nothing about where."""

    repeat: int = Field(default=0, ge=0)

    @property
    def cell(self) -> Cell:
        """The cell of which this is a repeat."""
        return Cell.model_construct(**{name: getattr(self, name) for name in Cell.model_fields})


class Matrix(Value):
    """What a user submits: models × recipes × batch sizes × devices × repeats."""

    models: tuple[ModelName, ...] = ("densenet121",)
    optimizations: tuple[RecipeText, ...]
    batch_sizes: tuple[BatchSize, ...] = (1, 8, 32)
    devices: tuple[Device, ...] = ("cpu",)
    dataset: Dataset = "digits"
    dataset_digest: str | None = None
    image_size: ImageSize
    threads: Threads | None = None
    #: As in `Cell`.
    weights: Weights = None
    #: By the model's name.
    model_digests: Annotated[dict[str, str] | None, UNWRITTEN] = None
    #: As in `Cell`; of the GPUs among the devices.
    min_vram_mb: MinVram = None
    protocol: Protocol
    repeats: int = Field(ge=1, le=1000)
    #: Seed of the order in which cells are measured.
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """The defaults that depend on other fields; a protocol may be given by name."""
        if not isinstance(given, dict):
            return given
        values = {"protocol": "standard", **given}
        if isinstance(values["protocol"], str):
            values["protocol"], repeats = preset(values["protocol"])
            if values.get("repeats") is None:
                values["repeats"] = repeats
        if values.get("image_size") is None:
            values["image_size"] = datasets.default_image_size(str(values.get("dataset", "digits")))
        return values

    @model_validator(mode="after")
    def _memory_of_gpus(self) -> Matrix:
        if self.min_vram_mb is not None and all(device == "cpu" for device in self.devices):
            raise ValueError(
                f"min_vram_mb is {self.min_vram_mb}, and the matrix names no GPU: leave it out, or add "
                "--devices cuda."
            )
        return self

    @model_validator(mode="after")
    def _neither_empty_nor_endless(self) -> Matrix:
        for name in ("models", "optimizations", "batch_sizes", "devices"):
            if not getattr(self, name):
                raise ValueError(f"The matrix is empty: {name} names nothing, so there is no cell to measure.")
        if self.size > MAX_JOBS:
            raise ValueError(f"The matrix has {self.size:,} jobs; at most {MAX_JOBS:,} go into one run.")
        return self

    @model_validator(mode="after")
    def _sizes_that_the_models_take(self) -> Matrix:
        for model in set(self.models):
            models.check_size(model, self.image_size)
        return self

    @model_validator(mode="after")
    def _one_model_for_one_file(self) -> Matrix:
        given = set(self.models)
        if self.weights == weights.PRETRAINED:
            for model in given:
                models.require_pretrained(model)
        elif self.weights is not None and len(given) > 1:
            raise ValueError(
                f"A file of weights belongs to one model, and the matrix names {len(given)}: "
                f"{', '.join(self.models)}. Submit a matrix for each, or take --weights {weights.PRETRAINED}."
            )
        return self

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def size(self) -> int:
        """Number of jobs, duplicates not yet removed."""
        axes = (self.models, self.optimizations, self.batch_sizes, self.devices)
        return self.repeats * math.prod(map(len, axes))

    def cells(self) -> list[Cell]:
        """Every cell once, in the order the user wrote them."""
        product = itertools.product(self.models, self.devices, self.batch_sizes, self.optimizations)
        shared: dict[str, Any] = {
            "dataset": self.dataset,
            "dataset_digest": self.dataset_digest,
            "image_size": self.image_size,
            "threads": self.threads,
            "weights": self.weights,
            "protocol": self.protocol,
        }
        # Constructed, because every value was checked as the matrix's own, and there may be very many cells.
        cells = (
            Cell.model_construct(
                model=model,
                device=device,
                batch_size=batch,
                recipe=recipe,
                model_digest=(self.model_digests or {}).get(model),
                min_vram_mb=None if device == "cpu" else self.min_vram_mb,
                **shared,
            )
            for model, device, batch, recipe in product
        )
        return list(dict.fromkeys(cells))

    def jobs(self) -> list[JobSpec]:
        """Every job in the order of measuring: repeat outermost, cells shuffled within it from the seed."""
        cells = self.cells()
        return [cells[place].repeated(repeat) for place, repeat in self._shuffled(len(cells))]

    def controls(self) -> list[Cell]:
        """The cells, one of each device, that a run measures again and again to see the host drift.

        The baseline of the first model and batch size. None where a control lives beside each cell, where the
        protocol wants none, or where a device has few jobs.
        """
        if self.protocol.paired or self.protocol.control_every is None:
            return []
        first = {"models": self.models[:1], "batch_sizes": self.batch_sizes[:1]}
        protocol = self.protocol.model_copy(update={"name": CONTROL, "remeasure": 0})
        baseline = {"optimizations": (catalogue.parse_recipe(BASELINE),), "protocol": protocol}
        jobs_of = Counter(cell.device for cell in self.cells())
        cells = self.model_copy(update=first | baseline).cells()
        return [cell for cell in cells if jobs_of[cell.device] * self.repeats >= LEAST_JOBS_WATCHED]

    def plan(self) -> list[JobSpec]:
        """Every job in the order of measuring, and between them the repeats of the controls."""
        cells = [*self.cells(), *self.controls()]
        return [cells[place].repeated(repeat) for place, repeat in self.order()]

    def order(self) -> Iterator[tuple[int, int]]:
        """(Place of its cell, repeat) of all that is planned, in the order of measuring; made one after the other.

        Places count the cells and, behind them, the controls. A control comes before its device's first job, after
        every `control_every` of them, and after the last. Its repeats are counted from 1: what only a cell's first
        repeat tells (memory, accuracy, a profile) nobody asks of a control.
        """
        devices = [cell.device for cell in self.cells()]
        place_of = {control.device: len(devices) + n for n, control in enumerate(self.controls())}
        every = self.protocol.control_every or 1
        last = {device: cells * self.repeats for device, cells in Counter(devices).items()}
        begun = Counter[str]()
        for place, repeat in self._shuffled(len(devices)):
            device = devices[place]
            control = place_of.get(device)
            if control is not None and begun[device] % every == 0:
                yield control, begun[device] // every + 1
            yield place, repeat
            begun[device] += 1
            if control is not None and begun[device] == last[device]:
                yield control, math.ceil(last[device] / every) + 1

    def _shuffled(self, cells: int) -> Iterator[tuple[int, int]]:
        """(Place, repeat) of every job of so many cells."""
        order = random.Random(self.seed)
        for repeat in range(self.repeats):
            places = list(range(cells))
            order.shuffle(places)
            yield from ((place, repeat) for place in places)


def job(
    *,
    model: str = "densenet121",
    recipe: str | Recipe = "baseline",
    batch_size: int = 1,
    device: str = "cpu",
    dataset: str = "digits",
    image_size: int | None = None,
    threads: int | None = None,
    weights: str | None = None,
    protocol: str | Protocol = "quick",
) -> JobSpec:
    """One job, with the defaults of a matrix; `weights` is `pretrained` or, for a kept file, `sha256:…`.

    Raises:
        BadInput: a value does not exist, is out of range, or cannot be combined.
    """
    return validated(
        JobSpec,
        {
            "model": model,
            "recipe": recipe,
            "batch_size": batch_size,
            "device": device,
            "dataset": dataset,
            "image_size": datasets.default_image_size(dataset) if image_size is None else image_size,
            "threads": threads,
            "weights": weights,
            "protocol": preset(protocol)[0] if isinstance(protocol, str) else protocol,
        },
    )


V = TypeVar("V", bound=Value)

#: What a protocol did that was written down before it had such a field. Today's defaults would make another of it,
#: and measure half of a cell's repeats in another way than the rest. Whoever adds a field adds what was before.
_BEFORE: Mapping[str, Any] = {
    "percentiles": [50],
    "paired": False,
    "window_s": 0.17,
    "control_every": None,
    "isolation": "spawn",
    "remeasure": 0,
    "profile": False,
    "energy_s": 0.0,
    "telemetry_s": None,
}


def completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a matrix, cell or job as a farm wrote them down, with what an older one did not know yet."""
    protocol = fields.get("protocol")
    return {**fields, "protocol": {**_BEFORE, **protocol}} if isinstance(protocol, Mapping) else dict(fields)


def validated(kind: type[V], given: Mapping[str, Any]) -> V:
    """The value of this kind, with errors for people.

    Raises:
        BadInput: naming every field that is wrong, what it was, and what is possible.
    """
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise BadInput("\n".join(_explain(kind, problem) for problem in error.errors())) from None


def stored(kind: type[V], text: str) -> V:
    """The value that a farm wrote down as JSON, perhaps an older one."""
    return kind.model_validate(completed(json.loads(text)))


def _explain(kind: type[Value], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return str(unknown("key", where, kind.model_fields))
    text = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(problem.get("ctx", {}).get("error"), ValueError):
        return text
    if problem["type"] == "int_parsing":
        text = "This must be a whole number"
    return f"{where}: {text} (given: {problem['input']!r})."
