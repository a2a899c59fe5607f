"""Where rows can be compared with each other (pure): on one device, in one environment class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from results_store.collate import Row


@dataclass(frozen=True, kw_only=True)
class Place:
    """One device in one environment class."""

    device: str
    #: Class of the worker, and of the measuring process where the two should ever differ; None where nothing was
    #: measured on the device.
    worker_class: str | None = None
    measured_class: str | None = None


def placed(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    """The rows of each place, and the places, in the order of the rows.

    What was not measured goes with what was: in the class of its own worker, else in the first of its device.
    """
    found: dict[Place, list[tuple[int, Row]]] = {}
    unmeasured: list[tuple[int, Row]] = []
    for number, row in enumerate(rows):
        if row.figures is None:
            unmeasured.append((number, row))
        else:
            found.setdefault(_place(row), []).append((number, row))
    homes: dict[tuple[str, str | None], Place] = {}
    for number, row in unmeasured:
        asked = row.cell.device, row.environment_key
        if asked not in homes:
            homes[asked] = _home(*asked, [place for place in found if place.device == row.cell.device])
        found.setdefault(homes[asked], []).append((number, row))
    for members in found.values():
        members.sort(key=lambda numbered: numbered[0])
    ordered = sorted(found.items(), key=lambda item: item[1][0][0])
    return {place: [row for _, row in members] for place, members in ordered}


def _place(row: Row) -> Place:
    measured_in = row.figures.environment.key if row.figures else None
    return Place(device=row.cell.device, worker_class=row.environment_key, measured_class=measured_in)


def _home(device: str, worker_class: str | None, there: list[Place]) -> Place:
    own = [place for place in there if place.worker_class == worker_class]
    return next(iter(own or there), Place(device=device))
