"""What is asked of a recommendation, and how it is read from flags (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from farm.errors import BadInput, unknown
from farm.spec import device_name
from results_store.collate import ByRepeat
from results_store.constraints import METRICS, Constraint, Metric, constraint


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the best cell is the best by."""

    metric: Metric
    #: What a worse one takes more of, for people.
    takes: str
    of_each: Callable[[ByRepeat], tuple[float, ...]]


THROUGHPUT = Objective(
    metric=METRICS["min_throughput"], takes="time per sample", of_each=lambda found: found.throughput
)
LATENCY = Objective(metric=METRICS["max_p50_ms"], takes="time per batch", of_each=lambda found: found.p50_s)
#: By the name that `--objective` takes. On one device, what costs least is what computes most.
OBJECTIVES: Mapping[str, Objective] = {
    "throughput": THROUGHPUT,
    "latency": LATENCY,
    "energy": Objective(
        metric=METRICS["max_energy_j"],
        takes="energy per sample",
        of_each=lambda found: tuple(filter(None, found.energy_per_sample_j)),
    ),
    "cost": THROUGHPUT,
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked for."""

    #: By what the best cell is the best: one of `OBJECTIVES`.
    objective: str = "throughput"
    constraints: tuple[Constraint, ...] = ()
    #: SUSPECT cells are as welcome as VALID ones.
    allow_suspect: bool = False
    #: Only these; empty for all.
    devices: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    #: Of an hour, by device, in whatever currency.
    prices: Mapping[str, float] = field(default_factory=dict)


def question(
    *,
    objective: str,
    bounds: Mapping[str, float | None],
    devices: Iterable[str] = (),
    batch_sizes: Iterable[str] = (),
    models: Iterable[str] = (),
    prices: Iterable[str] = (),
    allow_suspect: bool = False,
) -> Question:
    """The question that flags ask; those that take several things take commas and may be repeated.

    Args:
        objective: its name.
        bounds: by the name of the constraint, such as `max_p99_ms`; None where it was not given.
        devices: as in a matrix.
        batch_sizes: whole numbers.
        models: by name.
        prices: such as `cpu=0.10`.
        allow_suspect: as in `Question`.

    Raises:
        BadInput: something is not what it should be.
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    of_devices = _prices(map(_price, _items(prices)))
    if objective == "cost" and not of_devices:
        raise BadInput(
            "--objective cost needs the price of an hour of each device, such as --price-per-hour cpu=0.10."
        )
    return Question(
        objective=objective,
        constraints=tuple(constraint(name, bound) for name, bound in bounds.items() if bound is not None),
        allow_suspect=allow_suspect,
        devices=tuple(map(device_name, _items(devices))),
        batch_sizes=tuple(map(_batch_size, _items(batch_sizes))),
        models=tuple(_items(models)),
        prices=of_devices,
    )


def _items(texts: Iterable[str]) -> list[str]:
    return [item.strip() for text in texts for item in text.split(",") if item.strip()]


def _batch_size(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadInput(f"--batch-size {text}: a whole number is needed, such as --batch-size 1,8.")
    return int(text)


def _price(text: str) -> tuple[str, float]:
    device, _, price = (part.strip() for part in text.partition("="))
    try:
        return device_name(device), float(price)
    except ValueError:
        raise BadInput(f"--price-per-hour {text}: a device and a price are needed, such as cpu=0.10.") from None


def _prices(given: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for device, price in given:
        if device in found and found[device] != price:
            raise BadInput(f"--price-per-hour {device}: {found[device]:g} or {price:g}? Leave one of them out.")
        found[device] = price
    return found
